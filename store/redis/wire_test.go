package redis

import (
	"bytes"
	"context"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// fate is what becomes of something that is sent to Redis.
type fate int

const (
	arrives fate = iota
	// lostBefore is lost, with its connection, before it is on its way.
	lostBefore
	// lostAfter arrives and is done, and its connection ends before the answer is read.
	lostAfter
	// held up goes nowhere; whoever decided that may send it later.
	heldUp
)

// wire is the way to Redis, on which a test meddles.
type wire struct {
	// fate is asked of all that is sent, and nil lets everything arrive.
	fate atomic.Pointer[func(sent []byte) fate]
	// refuses: no connection is to be had.
	refuses atomic.Bool
	// deadline, unless it is nil, is told those of the connections.
	deadline atomic.Pointer[func(time.Time)]
}

// under has a store's connections go over the wire.
func (w *wire) under(o Options) Options {
	c := *o.Connection
	c.Dialer = func(ctx context.Context, network, addr string) (net.Conn, error) {
		if w.refuses.Load() {
			return nil, &net.OpError{Op: "dial", Net: network, Err: syscall.ECONNREFUSED}
		}
		conn, err := new(net.Dialer).DialContext(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return &wired{Conn: conn, wire: w}, nil
	}
	o.Connection = &c
	return o
}

func (w *wire) decide(by func(sent []byte) fate) { w.fate.Store(&by) }

// heal lets everything arrive from now on.
func (w *wire) heal() {
	w.fate.Store(nil)
	w.refuses.Store(false)
}

// heldFirst is what is held up of what a wire carries: the first of a kind.
type heldFirst struct {
	// under is closed when it is on its way.
	under chan struct{}
	// proceed lets it arrive.
	proceed func()
	// writes is how much of its kind was sent, with it.
	writes atomic.Int64
}

// holdFirst holds up the first that is sent of a kind, at the latest until the test ends. Other kinds arrive:
// a store may have work in the background.
func (w *wire) holdFirst(t testing.TB, kind func(sent []byte) bool) *heldFirst {
	h := &heldFirst{under: make(chan struct{})}
	proceed := make(chan struct{})
	h.proceed = sync.OnceFunc(func() { close(proceed) })
	t.Cleanup(h.proceed)
	w.decide(func(sent []byte) fate {
		if kind(sent) && h.writes.Add(1) == 1 {
			close(h.under)
			<-proceed
		}
		return arrives
	})
	return h
}

// wired is a connection over the wire.
type wired struct {
	net.Conn
	*wire
	// lost: the next answer is not read.
	lost atomic.Bool
}

func (c *wired) Write(p []byte) (int, error) {
	if decide := c.fate.Load(); decide != nil {
		switch (*decide)(p) {
		case lostBefore:
			c.Close()
			return 0, io.EOF
		case lostAfter:
			c.lost.Store(true)
		case heldUp:
			return len(p), nil
		}
	}
	return c.Conn.Write(p)
}

func (c *wired) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if err == nil && c.lost.Load() {
		c.Close()
		return 0, io.EOF
	}
	return n, err
}

func (c *wired) SetReadDeadline(at time.Time) error {
	c.note(at)
	return c.Conn.SetReadDeadline(at)
}

func (c *wired) SetWriteDeadline(at time.Time) error {
	c.note(at)
	return c.Conn.SetWriteDeadline(at)
}

func (c *wired) SetDeadline(at time.Time) error {
	c.note(at)
	return c.Conn.SetDeadline(at)
}

func (c *wired) note(at time.Time) {
	if note := c.deadline.Load(); note != nil {
		(*note)(at)
	}
}

// runs tells whether a script that is known is among what is sent.
func (sc *script) runs(sent []byte) bool { return bytes.Contains(sent, []byte(sc.sha)) }

// ofSends tells whether a script that every send needs is among what is sent.
func ofSends(sent []byte) bool { return admitScript.runs(sent) || settleScript.runs(sent) }
