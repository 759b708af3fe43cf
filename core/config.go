// Package core is the client of the Core Service: the owner's own system of
// record, which knows the keys, apps and accounts, and takes the ledger. Its
// contract is openapi.yaml in this directory.
package core

import (
	"errors"
	"net/url"
	"strings"
	"time"
)

const (
	// DefaultTimeout is how long an exchange may take where [Config.Timeout] is zero.
	DefaultTimeout = 2 * time.Second
	// MaxAnswer is how long an answer may be, in bytes.
	MaxAnswer = 1 << 20
	// MaxEntries is how many ledger entries one batch may have. The contract
	// says so, and a Core Service may refuse more.
	MaxEntries = 1_000

	defaultUserAgent = "caddy-whatsapp-gateway"
)

// Config says where the Core Service is.
type Config struct {
	// URL is what all paths are under, such as "https://core.example/gateway".
	URL string
	// Token is sent as Authorization: Bearer.
	Token string
	// Timeout bounds one exchange from the dial to the last byte of the answer.
	// Zero is [DefaultTimeout].
	Timeout time.Duration
	// UserAgent is the header of that name. Empty: the gateway's name.
	UserAgent string
	// Generation, unless it is nil, is read when a look-up begins. One that
	// began under another generation is not joined, because its answer may be
	// older than the change that made the generation grow.
	Generation func() uint64
}

// Validate says what is wrong, if anything. The error repeats neither URL nor token.
func (c Config) Validate() error {
	base, err := url.Parse(c.URL)
	switch {
	case err != nil || base.Scheme != "http" && base.Scheme != "https" || base.Hostname() == "":
		return errors.New("the Core Service's URL must be one such as https://core.example/path")
	case base.User != nil || base.RawQuery != "" || base.ForceQuery || strings.Contains(c.URL, "#"):
		return errors.New("the Core Service's URL must have no user, no query and no fragment")
	case c.Token == "":
		return errors.New("the Core Service needs a token")
	case strings.ContainsFunc(c.Token, notVisibleASCII):
		return errors.New("the Core Service's token must be visible ASCII characters")
	case c.Timeout < 0:
		return errors.New("the Core Service's timeout must not be negative")
	case strings.ContainsFunc(c.UserAgent, func(r rune) bool { return r < ' ' || r > '~' }):
		return errors.New("the User-Agent for the Core Service must be printable ASCII")
	}
	return nil
}

func notVisibleASCII(r rune) bool { return r <= ' ' || r > '~' }
