package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/spf13/cobra"

	"github.com/connexease/caddy-whatsapp-gateway/store/sqlite"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

const (
	encryptionKey1 = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=" // 32 bytes
	encryptionKey2 = "ZmVkY2JhOTg3NjU0MzIxMGZlZGNiYTk4NzY1NDMyMTA="
	operatorToken  = "EAAsecretTokenOfATest0123456789"
)

// commandLine runs commands on a store of its own, as separate processes would.
type commandLine struct {
	t        *testing.T
	config   string
	database string
	printed  bytes.Buffer // all that any command has printed
}

// newCommandLine writes a configuration with these options.
func newCommandLine(t *testing.T, options ...string) *commandLine {
	t.Helper()
	dir := t.TempDir()
	l := &commandLine{t: t, config: filepath.Join(dir, "Caddyfile"), database: filepath.Join(dir, "gateway.db")}
	l.configure(options...)
	return l
}

func (l *commandLine) configure(options ...string) {
	l.t.Helper()
	lines := append([]string{"store sqlite " + l.database}, options...)
	config := "{\n\twhatsapp_gateway {\n\t\t" + strings.Join(lines, "\n\t\t") + "\n\t}\n}\n"
	if err := os.WriteFile(l.config, []byte(config), 0o600); err != nil {
		l.t.Fatal(err)
	}
}

// result is what a command did.
type result struct {
	code           int
	stdout, stderr string
}

func (l *commandLine) run(stdin string, args ...string) result {
	caddy := &cobra.Command{Use: "caddy", SilenceUsage: true}
	root := &cobra.Command{Use: "whatsapp-gateway <noun> <verb>"}
	addCommands(root)
	caddy.AddCommand(root)
	var stdout, stderr bytes.Buffer
	caddy.SetIn(strings.NewReader(stdin))
	caddy.SetOut(&stdout)
	caddy.SetErr(&stderr)
	caddy.SetArgs(append([]string{"whatsapp-gateway", "--config", l.config}, args...))
	code := 0
	if err := caddy.Execute(); err != nil {
		code = 1
		if err.Error() == "exiting with status 2" { // TestExitStatus shows that it is so
			code = 2
		}
	}
	return result{code, stdout.String(), stderr.String()}
}

// do runs a command that must succeed, and returns what it printed.
func (l *commandLine) do(args ...string) string {
	l.t.Helper()
	return l.doWith("", args...)
}

func (l *commandLine) doWith(stdin string, args ...string) string {
	l.t.Helper()
	r := l.run(stdin, args...)
	l.printed.WriteString(r.stdout + r.stderr)
	if r.code != 0 || r.stderr != "" {
		l.t.Fatalf("%q: exit status %d, standard error %q", args, r.code, r.stderr)
	}
	return r.stdout
}

// record is an object of JSON.
type record = map[string]any

func (l *commandLine) record(args ...string) record {
	l.t.Helper()
	return decode[record](l.t, l.do(append(args, "--json")...))
}

func (l *commandLine) records(args ...string) []record {
	l.t.Helper()
	return decode[[]record](l.t, l.do(append(args, "--json")...))
}

func decode[T any](t *testing.T, document string) (value T) {
	t.Helper()
	if err := json.Unmarshal([]byte(document), &value); err != nil {
		t.Fatalf("%v in %q", err, document)
	}
	return value
}

// open opens the store of the commands: to serve from it, as the gateway does, or not.
func (l *commandLine) open(serving bool) *sqlite.Store {
	l.t.Helper()
	s, err := sqlite.Open(l.t.Context(), l.database, sqlite.Options{Exclusive: serving})
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { s.Close() })
	return s
}

func diff(t *testing.T, want, got any, ignored ...string) {
	t.Helper()
	ignore := cmpopts.IgnoreMapEntries(func(name string, _ any) bool { return slices.Contains(ignored, name) })
	if d := cmp.Diff(want, got, ignore, cmp.AllowUnexported(result{})); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
}

func TestAccountCommands(t *testing.T) {
	l := newCommandLine(t)
	acme := l.record("account", "create", "--name", "Acme & Söhne", "--credit", "25.00")
	want := record{"name": "Acme & Söhne", "currency": "USD", "available": "25.00", "held": "0.00", "captured": "0.00"}
	diff(t, want, acme, "id", "created_at")
	id := acme["id"].(string)

	euro := l.record("account", "create", "--name", "Euro", "--currency", "EUR")
	diff(t, record{"name": "Euro", "currency": "EUR", "available": "0.00", "held": "0.00", "captured": "0.00"}, euro, "id", "created_at")

	diff(t, acme, l.record("account", "show", id))
	diff(t, []record{acme, euro}, l.records("account", "list"))

	credited := l.record("account", "credit", id, "0.5", "--id", "invoice-1")
	diff(t, record{"id": id, "name": "Acme & Söhne", "currency": "USD", "available": "25.50", "held": "0.00", "captured": "0.00", "operation": "invoice-1"},
		credited, "created_at")

	entries := l.records("account", "ledger", id)
	delete(entries[0], "id") // one that was made for it
	diff(t, []record{
		{"kind": "credit", "amount": "25.00", "balance": "25.00", "message_id": nil, "app_id": nil},
		{"id": "invoice-1", "kind": "credit", "amount": "0.50", "balance": "25.50", "message_id": nil, "app_id": nil},
	}, entries, "seq", "at")
}

func TestCreditIsOnceForEachOperation(t *testing.T) {
	l := newCommandLine(t)
	id := l.record("account", "create", "--name", "Acme")["id"].(string)
	l.do("account", "credit", id, "10", "--id", "invoice-1")
	if again := l.record("account", "credit", id, "10", "--id", "invoice-1"); again["available"] != "10.00" {
		t.Errorf("the same operation left %v", again["available"])
	}
	if other := l.record("account", "credit", id, "10"); other["available"] != "20.00" {
		t.Errorf("an operation without an id left %v", other["available"])
	}
	r := l.run("", "account", "credit", id, "11", "--id", "invoice-1")
	diff(t, "operation invoice-1 has already done something else\n", r.stderr)
	if r.code != 1 {
		t.Errorf("exit status %d", r.code)
	}
}

func TestNegativeAmountsAreNotFlags(t *testing.T) {
	l := newCommandLine(t)
	id := l.record("account", "create", "--name", "Acme", "--credit", "100")["id"].(string)
	for _, args := range [][]string{
		{id, "-3.50"},
		{id, "--", "-3.50"},
		{"--", id, "-3.50"},
		{id, "--id", "one", "-3.50"},
		{"--id", "-2", id, "-3.50"},
		{"--id=three", id, "-3.50", "--json"},
		{id, "-3.50", "-c", l.config},
	} {
		before := l.record("account", "show", id)["available"].(string)
		l.do(append([]string{"account", "credit"}, args...)...)
		after := l.record("account", "show", id)["available"].(string)
		if amount(t, before)-amount(t, after) != 3_500_000 {
			t.Errorf("%q moved the balance from %s to %s", args, before, after)
		}
	}
	operations := map[any]bool{}
	for _, e := range l.records("account", "ledger", id) {
		operations[e["id"]] = true
	}
	for _, operation := range []string{"one", "-2", "three"} {
		if !operations[operation] {
			t.Errorf("there is no operation %s", operation)
		}
	}
}

func TestLedgerLeavesOutWhatIsOlder(t *testing.T) {
	l := newCommandLine(t)
	id := l.record("account", "create", "--name", "Acme", "--credit", "1")["id"].(string)
	for since, want := range map[string]int{
		"24h": 1, "1d": 1, "2020-01-01": 1, "2020-01-01T00:00:00+02:00": 1,
		"2999-01-01": 0, "2999-01-01T00:00:00Z": 0,
	} {
		if got := len(l.records("account", "ledger", id, "--since", since)); got != want {
			t.Errorf("since %s there are %d entries, want %d", since, got, want)
		}
	}
}

func TestLongLedgerIsPrintedWhole(t *testing.T) {
	l := newCommandLine(t)
	id := l.record("account", "create", "--name", "Acme")["id"].(string)
	s := l.open(true)
	const entries = tableBlock + 7
	for range entries {
		if _, err := s.Credit(t.Context(), tenant.AccountID(id), 1, tenant.NewID("credit")); err != nil {
			t.Fatal(err)
		}
	}
	if got := len(l.records("account", "ledger", id)); got != entries {
		t.Errorf("%d entries in JSON, want %d", got, entries)
	}
	if got := strings.Count(l.do("account", "ledger", id), "\n"); got != entries+1 {
		t.Errorf("%d lines of table, want %d", got, entries+1)
	}
}

func TestPeopleGetTables(t *testing.T) {
	l := newCommandLine(t)
	diff(t, "no accounts in sqlite "+l.database+"\n", l.do("account", "list"))
	diff(t, "no apps in sqlite "+l.database+"\n", l.do("app", "list"))
	s := l.open(false)
	for _, a := range []string{"acct_1", "acct_longer"} {
		account := testAccount(a)
		if err := s.CreateAccount(t.Context(), account); err != nil {
			t.Fatal(err)
		}
	}
	diff(t, ""+
		"ID           NAME      CURRENCY  AVAILABLE  HELD  CAPTURED  CREATED_AT\n"+
		"acct_1       bad?name  USD       0.00       0.00  0.00      2026-01-31T12:00:00Z\n"+
		"acct_longer  bad?name  USD       0.00       0.00  0.00      2026-01-31T12:00:00Z\n", l.do("account", "list"))
	diff(t, ""+
		"id          acct_1\n"+
		"name        bad?name\n"+
		"currency    USD\n"+
		"available   0.00\n"+
		"held        0.00\n"+
		"captured    0.00\n"+
		"created_at  2026-01-31T12:00:00Z\n", l.do("account", "show", "acct_1"))
}

func TestListsInJSONAreNeverNull(t *testing.T) {
	l := newCommandLine(t)
	account := l.record("account", "create", "--name", "Acme")["id"].(string)
	diff(t, "[]\n", l.do("app", "list", "--json"))
	app := l.record("app", "create", "--account", account, "--name", "Support")["id"].(string)
	diff(t, "[]\n", l.do("key", "list", "--app", app, "--json"))
	diff(t, "[]\n", l.do("account", "ledger", account, "--json"))
	diff(t, "[]\n", newCommandLine(t).do("account", "list", "--json"))
	diff(t, `{"rotated":0,"current":0,"unreadable":[]}`+"\n", l.do("token", "rotate", "--json"))
}

// TestExitStatus runs Caddy's own main function, in processes of its own.
func TestExitStatus(t *testing.T) {
	const variable = "WHATSAPP_GATEWAY_TEST_COMMAND"
	if args, ok := os.LookupEnv(variable); ok {
		os.Args = append([]string{"caddy", "whatsapp-gateway"}, strings.Fields(args)...)
		caddycmd.Main()
		os.Exit(0)
	}
	l := newCommandLine(t)
	for _, test := range []struct {
		args   string
		code   int
		stderr string
	}{
		{"account list --config " + l.config, 0, ""},
		{"account show acct_x --config " + l.config, 1, "no account with id acct_x\n"},
		{"account list --config " + l.config + "x", 1, "reading the configuration: open " + l.config + "x: no such file or directory\n"},
		{"account show --config " + l.config, 2, "ID is missing (see caddy whatsapp-gateway account show --help)\n"},
		{"account frob", 2, "unknown command \"frob\" (see caddy whatsapp-gateway account --help)\n"},
		{"account list --frob", 2, "unknown flag: --frob (see caddy whatsapp-gateway account list --help)\n"},
		{"account", 0, ""},
		{"", 0, ""},
	} {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestExitStatus$")
		cmd.Env = append(os.Environ(), variable+"="+test.args)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		err := cmd.Run()
		if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
			t.Fatal(err)
		}
		if got := cmd.ProcessState.ExitCode(); got != test.code {
			t.Errorf("%q: exit status %d, want %d", test.args, got, test.code)
		}
		diff(t, test.stderr, stderr.String())
	}
}

func TestManyProcessesShareAStore(t *testing.T) {
	l := newCommandLine(t)
	id := l.record("account", "create", "--name", "Acme")["id"].(string)
	gateway := l.open(true)
	const commands = 8
	results := make(chan result, commands)
	for range commands {
		go func() { results <- l.run("", "account", "credit", id, "1.00") }()
	}
	for range 100 {
		if _, err := gateway.Credit(context.Background(), tenant.AccountID(id), 1_000, tenant.NewID("credit")); err != nil {
			t.Fatal(err)
		}
	}
	for range commands {
		if r := <-results; r.code != 0 {
			t.Errorf("exit status %d: %s", r.code, r.stderr)
		}
	}
	diff(t, "8.10", l.record("account", "show", id)["available"])
	balance, err := gateway.Balance(t.Context(), tenant.AccountID(id))
	if err != nil || balance.Available != 8_100_000 {
		t.Errorf("the gateway has a balance of %s, error %v", balance.Available, err)
	}
}
