package redis

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/caddyserver/caddy/v2"
	goredis "github.com/redis/go-redis/v9"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/connexease/caddy-whatsapp-gateway/store"
)

func init() {
	caddy.RegisterModule(Backend{})
	goredis.SetLogger(clientLog{})
}

// clientLog is where go-redis logs to instead of standard error. What it has to say
// comes back as errors, too, so it is of interest for debugging only.
type clientLog struct{}

// Printf implements go-redis's logger.
func (clientLog) Printf(_ context.Context, format string, args ...any) {
	if entry := caddy.Log().Named("whatsapp_gateway.redis").Check(zapcore.DebugLevel, "go-redis"); entry != nil {
		entry.Write(zap.String("said", fmt.Sprintf(format, args...)))
	}
}

// Backend is the store that many gateways share: Redis or Valkey, version 7 or
// later. Placeholders such as {env.NAME} and {file.PATH} are allowed in its URLs
// and paths.
type Backend struct {
	// Where Redis is: redis://[[user]:password@]host[:port][/database], or rediss://
	// for TLS, which checks that the certificate is for the host that is dialed. A
	// placeholder for the user or the password is taken as it is, without percent-encoding.
	// The options ?pool_size= and ?min_idle_conns= are go-redis's, for
	// each node; there are no others.
	//
	// With mode cluster they are nodes to learn the others from. With mode sentinel
	// they are the Sentinels, and user and password are theirs and those of Redis. Scheme,
	// user, password, database and options are the same in all of them.
	URLs []string `json:"urls,omitempty"`

	// How Redis is run: single, cluster or sentinel. It is never guessed. Default:
	// single, and with more than one URL there is none.
	Mode string `json:"mode,omitempty"`

	// The master's name at the Sentinels, with mode sentinel.
	Master string `json:"master,omitempty"`

	// What all keys begin with. Default: wagw.
	KeyPrefix string `json:"key_prefix,omitempty"`

	// How long one round trip may take. Default: 200ms.
	Timeout caddy.Duration `json:"timeout,omitempty"`

	// The directory with what waits for Redis to come back. Default: a
	// directory in Caddy's data directory whose name belongs to the addresses and
	// the prefix: name one before you change those.
	Journal string `json:"journal,omitempty"`

	connection *goredis.UniversalOptions // set by Resolve
	journal    string                    // likewise
}

// The modes.
const (
	modeSingle   = "single"
	modeCluster  = "cluster"
	modeSentinel = "sentinel"
)

// CaddyModule returns the Caddy module information.
func (Backend) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "whatsapp_gateway.stores.redis",
		New: func() caddy.Module { return new(Backend) },
	}
}

// Resolve checks the configuration, fills in placeholders and makes paths
// absolute. It touches nothing outside. No error has a secret in it.
func (b *Backend) Resolve() error {
	if err := b.resolve(); err != nil {
		return fmt.Errorf("store redis: %w", err)
	}
	return nil
}

func (b *Backend) resolve() error {
	if b.Mode == "" && len(b.URLs) == 1 {
		b.Mode = modeSingle
	}
	if b.KeyPrefix == "" {
		b.KeyPrefix = DefaultKeyPrefix
	}
	if b.Timeout == 0 {
		b.Timeout = caddy.Duration(DefaultTimeout)
	}
	if err := b.check(); err != nil {
		return err
	}
	urls := make([]string, len(b.URLs))
	for i, text := range b.URLs {
		var err error
		if urls[i], err = expandURL(text); err != nil {
			return fmt.Errorf("URL %d: %w", i+1, err)
		}
	}
	var err error
	if b.connection, err = ParseURLs(urls, b.Mode, b.Master); err != nil {
		return err
	}
	if b.journal, err = caddy.NewReplacer().ReplaceOrErr(b.Journal, true, true); err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	if b.journal == "" {
		b.journal = filepath.Join(caddy.AppDataDir(), "whatsapp_gateway", "redis-"+shortHash(b.place()))
	}
	b.journal, err = filepath.Abs(b.journal)
	return err
}

// check refuses what is wrong whatever the placeholders stand for.
func (b *Backend) check() error {
	if err := checkMode(len(b.URLs), b.Mode, b.Master); err != nil {
		return err
	}
	if err := checkPrefix(b.KeyPrefix); err != nil {
		return err
	}
	if b.Timeout < 0 {
		return errors.New("timeout must be positive")
	}
	return nil
}

// checkPrefix refuses an empty prefix of keys, and braces: the gateway decides
// itself which keys are together in a slot of a Cluster.
func checkPrefix(prefix string) error {
	if prefix == "" {
		return errors.New("key_prefix is empty")
	}
	if strings.ContainsAny(prefix, "{}") || strings.ContainsFunc(prefix, func(c rune) bool {
		return unicode.IsSpace(c) || !unicode.IsPrint(c)
	}) {
		return errors.New("key_prefix cannot have braces or white space")
	}
	return nil
}

// addresses are those of the connection, in alphabetical order.
func (b *Backend) addresses() string {
	return strings.Join(slices.Sorted(slices.Values(b.connection.Addrs)), ",")
}

// place says where the data are.
func (b *Backend) place() string {
	return fmt.Sprintf("%s %s %q %d %q", b.Mode, b.addresses(), b.Master, b.connection.DB, b.KeyPrefix)
}

// Key is equal for configurations that mean the same data, reached in the same way:
// a reload goes on with the store that is open.
func (b *Backend) Key() string {
	c := b.connection
	whole := fmt.Sprintf("%s %t %q %q %d %d %d %q", b.place(), c.TLSConfig != nil, c.Username, c.Password,
		c.PoolSize, c.MinIdleConns, b.Timeout, b.journal)
	return fmt.Sprintf("redis %s %s/%d %s %s", b.Mode, b.addresses(), c.DB, b.KeyPrefix, shortHash(whole))
}

func shortHash(text string) string {
	sum := sha256.Sum256([]byte(text))
	return fmt.Sprintf("%x", sum[:6])
}

// JournalDir is the directory with what waits for Redis to come back.
func (b *Backend) JournalDir() string { return b.journal }

// OutcomeDir is the folder in it with the outcomes of sends that are answered and not
// settled yet.
func (b *Backend) OutcomeDir() string { return filepath.Join(b.journal, "redo") }

// SecretFile is the path of the file in the journal's directory that keeps the
// secret of this name.
func (b *Backend) SecretFile(name string) string { return filepath.Join(b.journal, name) }

// Open connects to Redis. A gateway that serves starts without it, too; the
// command line has no use for that, and is told what is wrong.
func (b *Backend) Open(ctx context.Context, serving bool) (store.Store, error) {
	s, err := Open(ctx, Options{
		Connection: b.connection, Cluster: b.Mode == modeCluster, KeyPrefix: b.KeyPrefix,
		Timeout: time.Duration(b.Timeout), Serving: serving, Describe: b.describe,
	})
	if err != nil || serving {
		return s, err
	}
	if _, err := s.there(ctx, s.key("pepper")); err != nil {
		return nil, errors.Join(errors.New(b.describe(err)), s.Close())
	}
	return s, nil
}

// complaints are what answers of Redis's mean to an operator, by how they begin behind ERR.
var complaints = []struct{ code, meaning string }{
	{"WRONGPASS", "refuses the user or password"},
	{"NOAUTH", "wants a password"},
	{"NOPERM", "does not let this user read the gateway's keys"},
	{"MOVED", "is a node of a Cluster: the store needs mode cluster"},
	{"LOADING", "is still loading its data"},
	{"CLUSTERDOWN", "is a Cluster that is down"},
	{"Client sent AUTH", "has no password, and one is configured"},
	{"AUTH", "has no password, and one is configured"},
	{"This instance has cluster support disabled", "is no Cluster: the store needs another mode"},
}

// describe is one sentence about why Redis cannot be used.
func (b *Backend) describe(err error) string {
	if away := (awayError{}); errors.As(err, &away) {
		err = away.cause
	}
	return fmt.Sprintf("redis at %s %s", b.addresses(), b.complaint(err))
}

// complaint is what stands behind the address in it.
func (b *Backend) complaint(err error) string {
	for _, c := range complaints {
		if goredis.HasErrorPrefix(err, c.code) {
			return c.meaning
		}
	}
	if timedOut(err) {
		return fmt.Sprintf("does not answer within %s", time.Duration(b.Timeout))
	}
	return fmt.Sprintf("cannot be used: %v", err)
}
