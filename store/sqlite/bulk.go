package sqlite

import (
	"database/sql"
	"fmt"
	"strconv"
	"strings"
)

const (
	// maxBulk is how many rows a bulk has at the most.
	maxBulk = 256
	// numberWidth and placeWidth are the lengths of a whole number and of a place in
	// the texts, in decimal, and with spaces behind it.
	numberWidth, placeWidth = 20, 10
	// maxBulkText is how many bytes of texts are enough for one bulk: SQLite has them
	// in memory twice.
	maxBulkText = 1 << 20
)

// bulk is a statement that writes many rows at once. They go to SQLite as two
// blobs, from which the statement itself cuts the columns: binding a dozen of
// values for each row would take longer, and allocate two dozens of objects.
type bulk struct {
	*command
	rowWidth int
	// columns has the numbers of all rows and, for each text, where it begins in texts
	// (from 1) and how long it is. Each has its fixed width.
	columns, texts []byte
}

// newBulk prepares a statement on a connection: one that begins as before, has the rows as
// what is selected, and ends as after. Each letter of kinds is a column of a row: i a whole
// number, t a text, n a text that is NULL where it is empty.
func newBulk(conn *sql.Conn, before, kinds, after string) (*bulk, error) {
	b := new(bulk)
	slot := func(width int) string {
		at := b.rowWidth
		b.rowWidth += width
		return fmt.Sprintf("substr(?1, n + %d, %d)", at, width)
	}
	var columns []string
	for _, kind := range kinds {
		if kind == 'i' {
			columns = append(columns, "CAST("+slot(numberWidth)+" AS INTEGER)")
			continue
		}
		text := fmt.Sprintf("CAST(substr(?2, %s, %s) AS TEXT)", slot(placeWidth), slot(placeWidth))
		if kind == 'n' {
			text = "nullif(" + text + ", '')"
		}
		columns = append(columns, text)
	}
	var starts []string
	for row := range maxBulk {
		starts = append(starts, fmt.Sprintf("(%d)", 1+row*b.rowWidth))
	}
	rows := " WITH rows (n) AS (VALUES " + strings.Join(starts, ", ") + ") SELECT " + strings.Join(columns, ", ") + " FROM rows WHERE true LIMIT ?3 "
	var err error
	b.command, err = newCommandOf(conn, before+rows+after, 3)
	return b, err
}

// number adds a whole number to the row.
func (b *bulk) number(n int64) { b.columns = appendPadded(b.columns, n, numberWidth) }

// text adds a text to the row, which is the parts together.
func (b *bulk) text(parts ...string) {
	before := len(b.texts)
	for _, part := range parts {
		b.texts = append(b.texts, part...)
	}
	b.columns = appendPadded(b.columns, int64(before+1), placeWidth)
	b.columns = appendPadded(b.columns, int64(len(b.texts)-before), placeWidth)
}

// rows is how many rows have been added.
func (b *bulk) rows() int { return len(b.columns) / b.rowWidth }

// full tells whether it is time to write.
func (b *bulk) full() bool { return b.rows() >= maxBulk || len(b.texts) >= maxBulkText }

// write writes the rows, of which there is one or more, and tells how many were written. The bulk
// is empty then, however it ends.
func (b *bulk) write() (n int64, err error) {
	columns, texts, rows := b.columns, b.texts, b.rows()
	b.columns, b.texts = columns[:0], texts[:0]
	return b.exec(columns, texts, int64(rows))
}

// close gives the statement back to SQLite, if there is one.
func (b *bulk) close() error {
	if b == nil {
		return nil
	}
	return b.command.close()
}

// appendPadded appends a number that is not longer than width.
func appendPadded(to []byte, n int64, width int) []byte {
	const spaces = "                    "
	end := len(to) + width
	to = strconv.AppendInt(to, n, 10)
	return append(to, spaces[:end-len(to)]...)
}
