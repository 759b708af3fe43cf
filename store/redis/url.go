package redis

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"
	goredis "github.com/redis/go-redis/v9"
)

// ParseURLs returns how to connect to the Redis that the URLs name; see [Backend] for
// what they look like, and for mode and master. No error repeats any of a
// URL but its scheme, since a password may stand anywhere in a wrong one.
func ParseURLs(urls []string, mode, master string) (*goredis.UniversalOptions, error) {
	if err := checkMode(len(urls), mode, master); err != nil {
		return nil, err
	}
	var first *endpoint
	var addresses []string
	for i, text := range urls {
		e, err := parseURL(text)
		if err != nil {
			return nil, fmt.Errorf("URL %d: %w", i+1, err)
		}
		addresses = append(addresses, e.address)
		if first == nil {
			first = e
		}
		if e.address = first.address; *e != *first {
			return nil, fmt.Errorf("URL %d differs from the first in more than the address: scheme, user, password, database and options must be the same", i+1)
		}
	}
	if mode == modeCluster && first.database != 0 {
		return nil, errors.New("a Cluster has no database but 0")
	}
	o := &goredis.UniversalOptions{
		Addrs: addresses, Username: first.user, Password: first.password, DB: first.database,
		PoolSize: first.poolSize, MinIdleConns: first.minIdle,
	}
	if first.tls {
		o.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12} // the name is that of the host that is dialed
	}
	if mode == modeSentinel {
		o.MasterName, o.SentinelUsername, o.SentinelPassword = master, first.user, first.password
	}
	return o, nil
}

// checkMode tells what is wrong with a mode for that many URLs, if anything.
func checkMode(urls int, mode, master string) error {
	switch {
	case urls == 0:
		return errors.New("there is no URL")
	case mode == "" && urls > 1:
		return errors.New("several URLs need a mode: cluster, or sentinel with the master's name")
	case mode == modeSingle && urls > 1:
		return errors.New("mode single takes one URL")
	case mode == modeSentinel && master == "":
		return errors.New("mode sentinel needs the master's name")
	case mode != modeSentinel && master != "":
		return errors.New("only mode sentinel has a master")
	case !slices.Contains([]string{"", modeSingle, modeCluster, modeSentinel}, mode):
		return errors.New("mode is single, cluster or sentinel")
	}
	return nil
}

// endpoint is what one URL says.
type endpoint struct {
	address, user, password string
	tls                     bool
	database                int
	poolSize, minIdle       int
}

const defaultPort = "6379"

func parseURL(text string) (*endpoint, error) {
	u, err := url.Parse(text)
	if err != nil {
		return nil, errors.New("it cannot be parsed; a user or password with special characters must be percent-encoded")
	}
	if u.Scheme != "redis" && u.Scheme != "rediss" {
		return nil, errors.New("it begins with neither redis:// nor rediss://")
	}
	if u.Opaque != "" || u.Hostname() == "" {
		return nil, errors.New("it has no host")
	}
	if u.Fragment != "" {
		return nil, errors.New("it has a fragment; a # in a password must be percent-encoded")
	}
	port := u.Port()
	if port == "" {
		port = defaultPort
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return nil, errors.New("its port is none")
	}
	e := &endpoint{address: net.JoinHostPort(u.Hostname(), port), tls: u.Scheme == "rediss", user: u.User.Username()}
	e.password, _ = u.User.Password()
	if e.user != "" && e.password == "" {
		return nil, errors.New("it has a user and no password; a password alone is written redis://:password@host")
	}
	if path := strings.Trim(u.Path, "/"); path != "" {
		if e.database, err = strconv.Atoi(path); err != nil || e.database < 0 {
			return nil, errors.New("its path is not the number of a database")
		}
	}
	return e, e.setOptions(u.RawQuery)
}

// setOptions reads the options of a URL. go-redis has more, most of which would
// let a script run twice or a request wait too long.
func (e *endpoint) setOptions(query string) error {
	values, err := url.ParseQuery(query)
	if err != nil {
		return errors.New("its options cannot be parsed; a ? in a password must be percent-encoded")
	}
	options := map[string]*int{"pool_size": &e.poolSize, "min_idle_conns": &e.minIdle}
	for name, given := range values {
		option, ok := options[name]
		if !ok {
			return errors.New("it has an option other than pool_size and min_idle_conns")
		}
		n, err := strconv.Atoi(given[0])
		if err != nil || n < 1 || len(given) > 1 {
			return fmt.Errorf("%s is one whole number of at least 1", name)
		}
		*option = n
	}
	return nil
}

// placeholder is what may stand in a URL for something else.
var placeholder = regexp.MustCompile(`\{(?:env|file)\.[^{}]+\}`)

// expandURL replaces the placeholders of a URL. Those for user and password are
// taken as they are, and so are percent-encoded here. An error names the
// placeholder, and nothing else of what stands there.
func expandURL(text string) (string, error) {
	if strings.ContainsAny(placeholder.ReplaceAllString(text, ""), "{}") {
		return "", errors.New("a brace can only belong to {env.NAME} or {file.PATH}")
	}
	credentials := strings.LastIndex(text, "@")
	var b strings.Builder
	end := 0
	for _, at := range placeholder.FindAllStringIndex(text, -1) {
		value, err := caddy.NewReplacer().ReplaceOrErr(text[at[0]:at[1]], true, true)
		if err != nil {
			return "", err
		}
		if at[0] < credentials {
			value = url.User(value).String()
		}
		b.WriteString(text[end:at[0]] + value)
		end = at[1]
	}
	return b.String() + text[end:], nil
}
