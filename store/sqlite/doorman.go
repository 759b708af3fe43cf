package sqlite

import (
	"context"
	"database/sql"
	"errors"

	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

// doorman tells whether there is a key. Who guesses keys has each of them looked up, and
// beginning to read the database costs as much as looking up ten: those who ask at a time
// share it. It is a goroutine with a connection and a deep stack of its own, which SQLite
// needs and a look-up's goroutine would have to grow.
type doorman struct {
	conn                  *sql.Conn
	begin, exists, finish *command
	asked                 chan *visitor
	group                 []*visitor
	closing, closed       chan struct{}
}

// visitor asks for one key.
type visitor struct {
	digest tenant.KeyDigest
	err    error         // store.ErrNotFound where there is none
	done   chan struct{} // closed when err is set
}

// maxVisitors bounds those who share a read, so that none waits long for the others.
const maxVisitors = 64

// newDoorman opens a connection. It needs the schema.
func newDoorman(ctx context.Context, db *sql.DB) (d *doorman, err error) {
	d = &doorman{asked: make(chan *visitor, maxVisitors), closing: make(chan struct{}), closed: make(chan struct{})}
	if d.conn, err = db.Conn(ctx); err != nil {
		return nil, err
	}
	if err := prepareCommands(d.conn, d.commands()); err != nil {
		return nil, errors.Join(err, d.release())
	}
	go d.run()
	return d, nil
}

// commands are all there are, by their text.
func (d *doorman) commands() map[string]**command {
	return map[string]**command{
		"BEGIN":  &d.begin,
		"COMMIT": &d.finish,
		"SELECT count(*) FROM api_keys WHERE digest = ?": &d.exists,
	}
}

// ask returns nil where there is such a key, and [store.ErrNotFound] where there is none.
func (d *doorman) ask(ctx context.Context, digest tenant.KeyDigest) error {
	v := &visitor{digest: digest, done: make(chan struct{})}
	select {
	case d.asked <- v:
	case <-d.closing:
		return store.ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case <-v.done:
		return v.err
	case <-d.closed:
		return store.ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (d *doorman) run() {
	defer close(d.closed)
	for {
		select {
		case v := <-d.asked:
			d.group = append(d.group[:0], v)
		case <-d.closing:
			return
		}
		for len(d.group) < maxVisitors && len(d.asked) > 0 {
			d.group = append(d.group, <-d.asked)
		}
		d.answer()
	}
}

// answer looks up those who wait. What is there when somebody asks is seen: the reading
// begins later.
func (d *doorman) answer() {
	_, err := d.begin.exec()
	for _, v := range d.group {
		if v.err = err; err == nil {
			v.err = d.lookUp(&v.digest)
		}
	}
	if err == nil {
		if _, err := d.finish.exec(); err != nil {
			// SQLite itself has ended the transaction after some errors.
			_, _ = d.conn.ExecContext(context.Background(), "ROLLBACK")
		}
	}
	for _, v := range d.group {
		close(v.done)
	}
	clear(d.group)
}

func (d *doorman) lookUp(digest *tenant.KeyDigest) error {
	n, err := d.exists.number(digest[:])
	if err == nil && n == 0 {
		err = store.ErrNotFound
	}
	return err
}

// close waits for the look-up under way and gives back the connection.
func (d *doorman) close() error {
	close(d.closing)
	<-d.closed
	return d.release()
}

func (d *doorman) release() error { return errors.Join(closeCommands(d.commands()), d.conn.Close()) }
