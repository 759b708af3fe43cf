package caddytest

import (
	"bytes"
	"cmp"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// tenant is an account with one app and one key, made with the command line.
type tenant struct {
	// account, app and keyID are ids.
	account, app, keyID string
	// key is the API key in the clear.
	key string
	// token is Meta's access token, phone the phone number ID, waba the business
	// account; all are empty for an app without credentials.
	token, phone, waba string
}

// profile says what a tenant is like. The zero value is one with 1.00 to spend,
// credentials and the gateway's default limits.
type profile struct {
	// credit is what the account starts with; empty is "1.00", "0" nothing.
	credit string
	// noAccount leaves the app without billing account.
	noAccount bool
	// noCredentials leaves it without phone number ID and access token.
	noCredentials bool
	// perSecond and perMinute are the app's own limits, where they are not 0.
	perSecond, perMinute int
	// sandbox makes the key a sandbox key.
	sandbox bool
	// phone is the phone number ID, waba the business account; by default each is
	// one of its own.
	phone, waba string
	// currency is the account's; by default USD.
	currency string
	// endpoint is where the events go, of which the app gets those that events
	// names, separated by commas, or all. Without an endpoint it gets none.
	endpoint *receiver
	events   string
}

// phones numbers the phone number IDs, of which no two tenants share one. None
// ends in digits that mean something to the simulator.
var phones atomic.Int64

// tenant makes a tenant.
func (g *gateway) tenant(t testing.TB, p profile) tenant {
	t.Helper()
	var who tenant
	who.account = "none"
	if !p.noAccount {
		if p.credit == "" {
			p.credit = "1.00"
		}
		who.account = g.created(t, "account", "create", "--name", "A", "--credit", p.credit, "--currency", cmp.Or(p.currency, "USD")).ID
	}
	args := []string{"app", "create", "--account", who.account, "--name", "B"}
	if !p.noCredentials {
		who.token, who.phone = "EAAtest"+rand.Text(), p.phone
		if who.phone == "" {
			who.phone = fmt.Sprintf("1%09d0000", phones.Add(1))
		}
		who.waba = cmp.Or(p.waba, "2"+who.phone[1:])
		g.hide("access token", who.token)
		args = append(args, "--phone-number-id", who.phone, "--waba-id", who.waba,
			"--access-token-file", g.file(t, "token", who.token+"\n"))
	}
	if p.perSecond != 0 {
		args = append(args, "--per-second", fmt.Sprint(p.perSecond))
	}
	if p.perMinute != 0 {
		args = append(args, "--per-minute", fmt.Sprint(p.perMinute))
	}
	if p.endpoint != nil {
		args = append(args, g.webhookFlags(t, p.endpoint, p.events)...)
	}
	who.app = g.created(t, args...).ID
	var kind []string
	if p.sandbox {
		kind = []string{"--sandbox"}
	}
	who.keyID, who.key = g.newKey(t, who.app, kind...)
	return who
}

// webhookFlags are those of a command that gives an app this endpoint.
func (g *gateway) webhookFlags(t testing.TB, r *receiver, events string) []string {
	t.Helper()
	flags := []string{"--webhook-url", r.url, "--events", cmp.Or(events, "all")}
	if r.secret != "" {
		g.hide("webhook secret", r.secret)
		flags = append(flags, "--webhook-secret-file", g.file(t, "webhook-secret", r.secret+"\n"))
	}
	for name, value := range r.header {
		g.hide("header of an app's", value)
		flags = append(flags, "--header", name+": "+value)
	}
	return flags
}

// newKey makes another key for an app.
func (g *gateway) newKey(t testing.TB, app string, args ...string) (id, key string) {
	t.Helper()
	made := g.created(t, append([]string{"key", "create", "--app", app}, args...)...)
	if made.Key != "" {
		g.hide("API key", made.Key)
	}
	return made.ID, made.Key
}

// created is what commands print of what they made.
type created struct{ ID, Key string }

func (g *gateway) created(t testing.TB, args ...string) (c created) {
	t.Helper()
	g.runInto(t, &c, args...)
	return c
}

// file writes a file that only this gateway's commands read, and returns its path.
func (g *gateway) file(t testing.TB, name, content string) string {
	t.Helper()
	f, err := os.CreateTemp(g.dir, name+".*")
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteString(content)
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	return f.Name()
}

// run runs `caddy whatsapp-gateway` with args on this gateway's configuration,
// expects it to succeed, and returns its standard output.
func (g *gateway) run(t testing.TB, args ...string) string {
	t.Helper()
	stdout, stderr, status := g.tryRun(t, args...)
	if status != 0 {
		t.Fatalf("%s: exit status %d: %s", strings.Join(args[:min(2, len(args))], " "), status, g.masked(stderr))
	}
	return stdout
}

// runInto is run with --json; the document is decoded into v.
func (g *gateway) runInto(t testing.TB, v any, args ...string) {
	t.Helper()
	if err := json.Unmarshal([]byte(g.run(t, append(args, "--json")...)), v); err != nil {
		t.Fatalf("%s: %v", strings.Join(args[:min(2, len(args))], " "), err)
	}
}

// tryRun is run for a command that may fail.
func (g *gateway) tryRun(t testing.TB, args ...string) (stdout, stderr string, status int) {
	t.Helper()
	return g.caddy(t, append([]string{"whatsapp-gateway", "--config", g.config}, args...)...)
}

// caddy runs any command of Caddy's in this gateway's environment and returns
// what it wrote and its exit status. No secret may stand in what it writes, but
// for a new key on standard output, which is not known as a secret yet.
func (g *gateway) caddy(t testing.TB, args ...string) (stdout, stderr string, status int) {
	t.Helper()
	var out, errs bytes.Buffer
	cmd := exec.CommandContext(t.Context(), caddy, args...)
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = g.dir, g.environment(), &out, &errs
	if err := cmd.Run(); err != nil {
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			t.Fatal(err)
		}
		status = exit.ExitCode()
	}
	if kind := g.inAnswer(out.String() + errs.String()); kind != "" {
		t.Errorf("a command wrote a %s", kind)
	}
	return out.String(), errs.String(), status
}

// fee is what a message costs by default, in micro-units like all amounts here.
const fee = 1_000

// balance is the state of an account in micro-units.
type balance struct{ available, held, captured int64 }

// balance returns the balance of an account.
func (g *gateway) balance(t testing.TB, account string) balance {
	t.Helper()
	var shown struct{ Available, Held, Captured string }
	g.runInto(t, &shown, "account", "show", account)
	return balance{micros(t, shown.Available), micros(t, shown.Held), micros(t, shown.Captured)}
}

var decimal = regexp.MustCompile(`^(-?)([0-9]+)\.([0-9]{2,6})$`)

// micros reads an amount as commands print it.
func micros(t testing.TB, amount string) int64 {
	t.Helper()
	parts := decimal.FindStringSubmatch(amount)
	if parts == nil {
		t.Fatalf("%q is not an amount", amount)
	}
	n, err := strconv.ParseInt(parts[1]+parts[2]+(parts[3] + "000000")[:6], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// wantBalance fails the test unless the account has this balance.
func (g *gateway) wantBalance(t testing.TB, account string, want balance) {
	t.Helper()
	if got := g.balance(t, account); got != want {
		t.Errorf("balance %+v, want %+v", got, want)
	}
}

// ledgerEntry is one line of an account's ledger.
type ledgerEntry struct {
	ID        string `json:"id"`
	Kind      string `json:"kind"`
	Amount    string `json:"amount"`
	Balance   string `json:"balance"`
	MessageID string `json:"message_id"`
	// At is when it was made.
	At time.Time `json:"at"`
}

// ledger returns the ledger of an account, oldest entry first.
func (g *gateway) ledger(t testing.TB, account string) (entries []ledgerEntry) {
	t.Helper()
	g.runInto(t, &entries, "account", "ledger", account)
	return entries
}

// exec changes the database behind the gateway's back, as a broken disk or an
// operator would.
func (g *gateway) exec(t testing.TB, query string, args ...any) {
	t.Helper()
	db := g.open(t)
	defer db.Close()
	if _, err := db.ExecContext(t.Context(), query, args...); err != nil {
		t.Fatal(err)
	}
}
