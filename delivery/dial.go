package delivery

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"sync"
	"time"
)

const (
	// idleTimeout is how long an unused connection is kept.
	idleTimeout = 30 * time.Second
	// maxAnswerHeader bounds the headers of an answer, in bytes.
	maxAnswerHeader = 64 << 10
)

// newTransport returns the transport of all attempts. It takes no proxy from the
// environment: that would do the dialling, unguarded.
func newTransport(c Config, d *dialer) *http.Transport {
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	return &http.Transport{
		DialContext:            d.dial,
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:    c.Timeout,
		Protocols:              &protocols,
		HTTP2:                  &http.HTTP2Config{SendPingTimeout: c.Timeout, PingTimeout: c.Timeout},
		DisableCompression:     true,
		MaxResponseHeaderBytes: maxAnswerHeader,
		MaxIdleConns:           c.Concurrency,
		MaxIdleConnsPerHost:    c.Concurrency, // all apps may have one host
		IdleConnTimeout:        idleTimeout,
	}
}

// dialer dials the endpoints. net/http goes on with a connection whose request
// has been given up; so the dialer knows all there are, to end them with the
// worker.
type dialer struct {
	net.Dialer
	closing context.Context // ends what is being dialled
	close   context.CancelFunc
	dialing sync.WaitGroup

	mu    sync.Mutex
	conns map[*conn]struct{}
}

func newDialer(c Config) *dialer {
	d := &dialer{conns: make(map[*conn]struct{})}
	d.Timeout = c.Timeout
	if !c.AllowPrivateTargets {
		d.Control = guard
	}
	d.closing, d.close = context.WithCancel(context.Background())
	return d
}

// dial implements [http.Transport]'s DialContext.
func (d *dialer) dial(ctx context.Context, network, address string) (net.Conn, error) {
	if !d.begin() {
		return nil, net.ErrClosed
	}
	defer d.dialing.Done()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(d.closing, cancel)()
	opened, err := d.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	c := &conn{Conn: opened, dialer: d}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closing.Err() != nil {
		opened.Close()
		return nil, net.ErrClosed
	}
	d.conns[c] = struct{}{}
	return c, nil
}

// begin notes that a connection is being dialled, unless the worker has ended.
func (d *dialer) begin() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closing.Err() != nil {
		return false
	}
	d.dialing.Add(1)
	return true
}

// closeAll ends every connection and waits for what is being dialled.
func (d *dialer) closeAll() {
	d.mu.Lock()
	d.close()
	left := make([]*conn, 0, len(d.conns))
	for c := range d.conns {
		left = append(left, c)
	}
	d.mu.Unlock()
	for _, c := range left {
		c.Close()
	}
	d.dialing.Wait()
}

// conn is a connection that its dialer knows.
type conn struct {
	net.Conn
	dialer *dialer
}

// Close implements [net.Conn].
func (c *conn) Close() error {
	c.dialer.mu.Lock()
	delete(c.dialer.conns, c)
	c.dialer.mu.Unlock()
	return c.Conn.Close()
}

// Interface guards
var _ net.Conn = (*conn)(nil)
