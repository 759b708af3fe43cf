package sqlite

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"io"
	"strings"
)

// command is a statement that is run for every commit, send or event. It goes to the
// driver directly: database/sql would allocate some fifty objects each time. It is used by
// one goroutine at a time, which for those of the writer is the writer's.
type command struct {
	conn      *sql.Conn
	statement driver.Stmt
	values    []driver.NamedValue
	one       [1]driver.Value
}

// newCommand prepares a statement on a connection, each question mark of which is a parameter.
func newCommand(conn *sql.Conn, query string) (*command, error) {
	return newCommandOf(conn, query, strings.Count(query, "?"))
}

// newCommandOf prepares a statement with so many parameters.
func newCommandOf(conn *sql.Conn, query string, parameters int) (*command, error) {
	c := &command{conn: conn}
	err := conn.Raw(func(driverConn any) (err error) {
		c.statement, err = driverConn.(driver.Conn).Prepare(query)
		return err
	})
	if err != nil {
		return nil, err
	}
	c.values = make([]driver.NamedValue, parameters)
	for i := range c.values {
		c.values[i].Ordinal = i + 1
	}
	return c, nil
}

// bind sets the values of the statement's parameters: int64, string, []byte or nil.
func (c *command) bind(values []driver.Value) {
	for i, v := range values {
		c.values[i].Value = v
	}
}

// exec runs a statement that returns no rows, and tells how many it has written.
func (c *command) exec(values ...driver.Value) (n int64, err error) {
	err = c.conn.Raw(func(any) error {
		c.bind(values)
		result, err := c.statement.(driver.StmtExecContext).ExecContext(context.Background(), c.values)
		if err == nil {
			n, err = result.RowsAffected()
		}
		return err
	})
	return n, err
}

// number runs a statement that returns one whole number.
func (c *command) number(values ...driver.Value) (n int64, err error) {
	err = c.row(c.one[:], values...)
	n, _ = c.one[0].(int64)
	return n, err
}

// row runs a statement for its first row, whose columns it puts into to; sql.ErrNoRows
// where there is none. Texts and blobs are the caller's.
func (c *command) row(to []driver.Value, values ...driver.Value) error {
	return c.conn.Raw(func(any) error {
		c.bind(values)
		rows, err := c.statement.(driver.StmtQueryContext).QueryContext(context.Background(), c.values)
		if err != nil {
			return err
		}
		if err = rows.Next(to); err == io.EOF {
			err = sql.ErrNoRows
		}
		if closeErr := rows.Close(); err == nil {
			err = closeErr
		}
		return err
	})
}

// close gives a statement back to SQLite, if there is one.
func (c *command) close() error {
	if c == nil {
		return nil
	}
	return c.conn.Raw(func(any) error { return c.statement.Close() })
}

// commands are the writer's.
type commands struct {
	begin, commit, dataVersion *command
	insertTail, deleteTail     *command
	insertEntry, lastSeq       *command
	insertEntries              *bulk
	insertHold, updateWallet   *command
	countHeld                  *command
	selectHeld                 *command
	insertEvent, deleteEvent   *command
	updateEvent, countEvent    *command
	lastEvent, insertArrivals  *command
	deleteArrivals             *command
	selectSender               *command
	insertAccountEntries       *command
	insertMessages             *bulk
}

// all are those but the bulks, by their text.
func (c *commands) all() map[string]**command {
	return map[string]**command{
		"BEGIN IMMEDIATE":     &c.begin,
		"COMMIT":              &c.commit,
		"PRAGMA data_version": &c.dataVersion,
		"INSERT INTO ledger_tail (seq, records) VALUES (?, ?)":                                                                                 &c.insertTail,
		"DELETE FROM ledger_tail WHERE seq < ?":                                                                                                &c.deleteTail,
		"SELECT ifnull(max(seq), 0) FROM ledger":                                                                                               &c.lastSeq,
		"INSERT INTO holds (id, account_id, app_id, amount, made_at) VALUES (?, ?, ?, ?, ?)":                                                   &c.insertHold,
		"UPDATE accounts SET credited = ?, available = ?, held = ?, captured = ? WHERE rowid = ?":                                              &c.updateWallet,
		"SELECT count(*) FROM ledger WHERE id IN (?, ?, ?)":                                                                                    &c.countHeld,
		"INSERT OR REPLACE INTO account_entries (account_id, upto, seqs) VALUES (?, ?, ?)":                                                     &c.insertAccountEntries,
		"SELECT account_id, amount, ifnull(app_id, '') FROM ledger WHERE id IN (?, ?, ?) LIMIT 1":                                              &c.selectHeld,
		"DELETE FROM outbox WHERE id = ?":                                                                                                      &c.deleteEvent,
		"UPDATE outbox SET attempts = attempts + 1, state = ?, due_at = ?, last_error = ? WHERE id = ? AND attempts = ? AND state = 'pending'": &c.updateEvent,
		`INSERT INTO outbox (seq, id, app_id, event, state, attempts, received_at, due_at, last_error, payload)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING`: &c.insertEvent,
		selectSender: &c.selectSender,
		"SELECT count(*) FROM outbox WHERE id = ?":               &c.countEvent,
		"SELECT ifnull(max(seq), 0) FROM outbox":                 &c.lastEvent,
		"INSERT INTO outbox_recent (seq, records) VALUES (?, ?)": &c.insertArrivals,
		"DELETE FROM outbox_recent WHERE seq < ?":                &c.deleteArrivals,
		`INSERT INTO ledger (seq, id, account_id, kind, amount, balance, app_id, message_id, at)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING`: &c.insertEntry,
	}
}

// prepare prepares them on a connection.
func (c *commands) prepare(conn *sql.Conn) (err error) {
	if err = prepareCommands(conn, c.all()); err != nil {
		return err
	}
	c.insertEntries, err = newBulk(conn,
		"INSERT INTO ledger (seq, id, account_id, kind, amount, balance, app_id, message_id, at, held_seq, held_balance, held_at)", "itttiinniiii",
		"ON CONFLICT (id) DO NOTHING")
	if err != nil {
		return err
	}
	c.insertMessages, err = newBulk(conn, "INSERT INTO messages (key, seq)", "ii", "ON CONFLICT DO NOTHING")
	return err
}

// close gives those that are prepared back to SQLite.
func (c *commands) close() error {
	return errors.Join(closeCommands(c.all()), c.insertEntries.close(), c.insertMessages.close())
}

// prepareCommands prepares commands on a connection.
func prepareCommands(conn *sql.Conn, commands map[string]**command) error {
	for query, command := range commands {
		var err error
		if *command, err = newCommand(conn, query); err != nil {
			return err
		}
	}
	return nil
}

// closeCommands gives those that are prepared back to SQLite.
func closeCommands(commands map[string]**command) error {
	var errs []error
	for _, command := range commands {
		errs = append(errs, (*command).close())
	}
	return errors.Join(errs...)
}
