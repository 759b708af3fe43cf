package sqlite

import (
	"context"
	"database/sql"
	"errors"

	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

// keyChecker tells whether there is a key. Who guesses keys has each of them looked up, and
// beginning to read the database costs as much as looking up ten: those who ask at a time
// share it. It is a goroutine with a connection and a deep stack of its own, which SQLite
// needs and a look-up's goroutine would have to grow.
type keyChecker struct {
	conn                  *sql.Conn
	begin, exists, finish *command
	asked                 chan *keyCheck
	group                 []*keyCheck
	closing, closed       chan struct{}
}

// keyCheck asks for one key.
type keyCheck struct {
	digest tenant.KeyDigest
	err    error         // store.ErrNotFound where there is none
	done   chan struct{} // closed when err is set
}

// maxKeyChecks bounds those who share a read, so that none waits long for the others.
const maxKeyChecks = 64

// newKeyChecker opens a connection. It needs the schema.
func newKeyChecker(ctx context.Context, db *sql.DB) (k *keyChecker, err error) {
	k = &keyChecker{asked: make(chan *keyCheck, maxKeyChecks), closing: make(chan struct{}), closed: make(chan struct{})}
	if k.conn, err = db.Conn(ctx); err != nil {
		return nil, err
	}
	if err := prepareCommands(k.conn, k.commands()); err != nil {
		return nil, errors.Join(err, k.release())
	}
	go k.run()
	return k, nil
}

// commands are all there are, by their text.
func (k *keyChecker) commands() map[string]**command {
	return map[string]**command{
		"BEGIN":  &k.begin,
		"COMMIT": &k.finish,
		"SELECT count(*) FROM api_keys WHERE digest = ?": &k.exists,
	}
}

// ask returns nil where there is such a key, and [store.ErrNotFound] where there is none.
func (k *keyChecker) ask(ctx context.Context, digest tenant.KeyDigest) error {
	c := &keyCheck{digest: digest, done: make(chan struct{})}
	select {
	case k.asked <- c:
	case <-k.closing:
		return store.ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case <-c.done:
		return c.err
	case <-k.closed:
		return store.ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (k *keyChecker) run() {
	defer close(k.closed)
	for {
		select {
		case c := <-k.asked:
			k.group = append(k.group[:0], c)
		case <-k.closing:
			return
		}
		for len(k.group) < maxKeyChecks && len(k.asked) > 0 {
			k.group = append(k.group, <-k.asked)
		}
		k.answer()
	}
}

// answer looks up those who wait. What is there when somebody asks is seen: the reading
// begins later.
func (k *keyChecker) answer() {
	_, err := k.begin.exec()
	for _, c := range k.group {
		if c.err = err; err == nil {
			c.err = k.lookUp(&c.digest)
		}
	}
	if err == nil {
		if _, err := k.finish.exec(); err != nil {
			// SQLite itself has ended the transaction after some errors.
			_, _ = k.conn.ExecContext(context.Background(), "ROLLBACK")
		}
	}
	for _, c := range k.group {
		close(c.done)
	}
	clear(k.group)
}

func (k *keyChecker) lookUp(digest *tenant.KeyDigest) error {
	n, err := k.exists.number(digest[:])
	if err == nil && n == 0 {
		err = store.ErrNotFound
	}
	return err
}

// close waits for the look-up under way and gives back the connection.
func (k *keyChecker) close() error {
	close(k.closing)
	<-k.closed
	return k.release()
}

func (k *keyChecker) release() error { return errors.Join(closeCommands(k.commands()), k.conn.Close()) }
