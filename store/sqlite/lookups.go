package sqlite

import (
	"context"
	"database/sql"
	"errors"
)

// maxLookups is how many look-ups run at a time. They find what they look for in the
// page cache, so that more than there are processors would only wait for each other.
const maxLookups = 4

// lookups are one statement on connections of its own, for any goroutine.
type lookups struct {
	free  chan *command
	count int
}

// open prepares the statement.
func (l *lookups) open(ctx context.Context, db *sql.DB, query string) error {
	l.free = make(chan *command, maxLookups)
	for range maxLookups {
		conn, err := db.Conn(ctx)
		if err != nil {
			return err
		}
		c, err := newCommand(conn, query)
		if err != nil {
			return errors.Join(err, conn.Close())
		}
		l.free <- c
		l.count++
	}
	return nil
}

// take waits for one that nobody uses.
func (l *lookups) take(ctx context.Context) (*command, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	select {
	case c, ok := <-l.free:
		if !ok {
			return nil, sql.ErrConnDone
		}
		return c, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (l *lookups) give(c *command) { l.free <- c }

// close waits for those in use, and gives all connections back.
func (l *lookups) close() error {
	var errs []error
	for range l.count {
		c := <-l.free
		errs = append(errs, c.close(), c.conn.Close())
	}
	if l.count > 0 {
		close(l.free)
	}
	l.count = 0
	return errors.Join(errs...)
}
