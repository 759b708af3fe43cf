package sqlite

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/connexease/caddy-whatsapp-gateway/store"
)

func init() {
	caddy.RegisterModule(Backend{})
}

// Backend is the embedded store: one SQLite file, nothing else to run. One
// gateway may serve from it; the command line and a sqlite3 shell may use it
// meanwhile.
type Backend struct {
	// Path is the database file. Default: whatsapp_gateway/gateway.db in
	// Caddy's data directory. Placeholders are allowed.
	Path string `json:"path,omitempty"`
}

// CaddyModule returns the Caddy module information.
func (Backend) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "whatsapp_gateway.stores.sqlite",
		New: func() caddy.Module { return new(Backend) },
	}
}

// UnmarshalCaddyfile sets up the store from Caddyfile tokens. Syntax:
//
//	store sqlite [<path>]
func (b *Backend) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the store's name
	if d.NextArg() {
		b.Path = d.Val()
	}
	if d.NextArg() {
		return d.ArgErr()
	}
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		return d.Errf("unrecognized subdirective: %s", d.Val())
	}
	return nil
}

// Resolve makes Path absolute. It touches no file.
func (b *Backend) Resolve() error {
	path, err := caddy.NewReplacer().ReplaceOrErr(b.Path, true, true)
	if err != nil {
		return fmt.Errorf("store sqlite: path: %w", err)
	}
	if path == "" {
		path = filepath.Join(caddy.AppDataDir(), "whatsapp_gateway", "gateway.db")
	}
	if path, err = filepath.Abs(path); err != nil {
		return err
	}
	// Two names of one file must not be taken for two databases.
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	} else if folder, err := filepath.EvalSymlinks(filepath.Dir(path)); err == nil {
		path = filepath.Join(folder, filepath.Base(path))
	}
	b.Path = path
	return nil
}

// Key tells one database from another: a reload with the same key goes on with
// the store that is open.
func (b *Backend) Key() string { return "sqlite " + b.Path }

// Open opens the database. Serving opens it as the one gateway that admits
// requests on it, which fails while there is another; otherwise it is opened
// to administer.
func (b *Backend) Open(ctx context.Context, serving bool) (store.Store, error) {
	return Open(ctx, b.Path, Options{Exclusive: serving})
}

// OutcomeDir is the folder beside the database with the outcomes of sends that are answered
// and not settled yet.
func (b *Backend) OutcomeDir() string { return b.Path + ".redo" }

// SecretFile is the path of the file beside the database that keeps the secret
// of this name.
func (b *Backend) SecretFile(name string) string { return b.Path + "." + name }

// Secret returns what a file beside the database holds, and makes the file
// with 32 random bytes in base64 the first time. Nobody but the owner may read
// it. It is what a gateway without configured secrets works with.
func (b *Backend) Secret(name string) (string, error) {
	path := b.SecretFile(name)
	if secret, err := os.ReadFile(path); !errors.Is(err, fs.ErrNotExist) {
		return strings.TrimSpace(string(secret)), err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return "", err
	}
	// A gateway and a command may both be the first: the file appears complete,
	// under its name, once, and the loser reads the winner's.
	temporary, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*") // mode 0600
	if err != nil {
		return "", err
	}
	defer os.Remove(temporary.Name())
	var random [32]byte
	rand.Read(random[:]) // never fails, see crypto/rand
	_, err = temporary.WriteString(base64.StdEncoding.EncodeToString(random[:]) + "\n")
	if err := errors.Join(err, temporary.Sync(), temporary.Close()); err != nil {
		return "", err
	}
	if err := os.Link(temporary.Name(), path); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", err
	}
	secret, err := os.ReadFile(path)
	return strings.TrimSpace(string(secret)), err
}

// Interface guard
var _ caddyfile.Unmarshaler = (*Backend)(nil)
