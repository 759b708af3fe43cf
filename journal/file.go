package journal

import (
	"context"
	"database/sql"
	_ "embed"
	"errors"
	"fmt"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

//go:embed schema.sql
var schema string

const (
	// applicationID marks the file as ours (PRAGMA application_id), "wagj" in ASCII.
	applicationID = 0x7761676a
	schemaVersion = 1
	// maxChecked is how large a file is still read through when it is opened, in
	// bytes: it takes about a tenth of a second.
	maxChecked = 16 << 20

	countRecords = "SELECT records FROM counts"
)

// writing are the settings of the connection that writes. The write-ahead log is
// cut back to 64 MiB after something large.
var writing = []string{"journal_mode(wal)", "synchronous(full)", "journal_size_limit(67108864)"}

// prepareFile makes the tables in a new file, and refuses one that is not ours
// or is damaged.
func prepareFile(ctx context.Context, conn *sql.Conn) (err error) {
	if _, err := conn.ExecContext(ctx, "BEGIN IMMEDIATE"); err != nil {
		return err
	}
	defer func() {
		end := "COMMIT"
		if err != nil {
			end = "ROLLBACK"
		}
		_, endErr := conn.ExecContext(ctx, end)
		err = errors.Join(err, endErr)
	}()
	var version, application, objects, size int
	err = conn.QueryRowContext(ctx, `SELECT user_version, application_id, (SELECT count(*) FROM sqlite_schema), page_count * page_size
		FROM pragma_user_version, pragma_application_id, pragma_page_count, pragma_page_size`).Scan(&version, &application, &objects, &size)
	switch {
	case err != nil:
		return err
	case application != applicationID && objects > 0:
		return errors.New("the file is a database of another program")
	case version > schemaVersion:
		return fmt.Errorf("the file has schema version %d, made by a newer release; this one knows %d", version, schemaVersion)
	case version == schemaVersion && size <= maxChecked:
		return check(ctx, conn)
	case version == schemaVersion:
		return nil
	}
	_, err = conn.ExecContext(ctx, schema+fmt.Sprintf("PRAGMA application_id = %d; PRAGMA user_version = %d", applicationID, schemaVersion))
	return err
}

// errDamaged means that the file is not what SQLite has written.
var errDamaged = errors.New("the file is damaged; it is left as it is, because it may hold charges and webhooks: move it away to begin anew")

// check reads the file through.
func check(ctx context.Context, conn *sql.Conn) error {
	var result string
	if err := conn.QueryRowContext(ctx, "PRAGMA quick_check(1)").Scan(&result); err != nil {
		return err
	}
	if result != "ok" {
		return errDamaged // what SQLite found says nothing to an operator
	}
	return nil
}

// explain says in words what to do about a damaged file.
func explain(err error) error {
	if failure := (*sqlite.Error)(nil); errors.As(err, &failure) {
		switch failure.Code() & 0xff { // without the details of the kind
		case sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB:
			return fmt.Errorf("%w: %w", errDamaged, err)
		}
	}
	return err
}
