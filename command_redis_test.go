package gateway

import (
	"net"
	"os"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/connexease/caddy-whatsapp-gateway/store/redis/redistest"
)

const redisPassword = "hunter2"

// onRedis has the commands work on the Redis at this URL.
func (l *commandLine) onRedis(url string) {
	l.t.Helper()
	config := "{\n\twhatsapp_gateway {\n\t\tstore redis " + url + " {\n\t\t\ttimeout 1s\n\t\t\tjournal " + l.t.TempDir() + "\n\t\t}\n\t}\n}\n"
	if err := os.WriteFile(l.config, []byte(config), 0o600); err != nil {
		l.t.Fatal(err)
	}
}

// wantSentence checks that a command failed with one sentence for an operator, which names
// the address.
func wantSentence(t *testing.T, r result, address string) {
	t.Helper()
	if r.code != 1 || r.stdout != "" || strings.Count(r.stderr, "\n") != 1 || !strings.Contains(r.stderr, "redis at "+address+" ") {
		t.Errorf("exit status %d, standard output %q, error %q", r.code, r.stdout, r.stderr)
	}
	for _, never := range []string{redisPassword, "read tcp", "write tcp", "i/o timeout", "deadline", "EOF", "context"} {
		if strings.Contains(r.stderr, never) {
			t.Errorf("the error says %q: %q", never, strings.ReplaceAll(r.stderr, redisPassword, "…"))
		}
	}
}

// creditRequest is what the tests' operations look like on the way to Redis.
var creditRequest = regexp.MustCompile(`(?s)evalsha.*(credit_|invoice-)`)

// losingProxy passes on what goes between clients and a Redis, but for the answers to
// credits while it loses them.
type losingProxy struct {
	address string
	server  string
	losing  atomic.Bool
	lost    atomic.Int32
}

func startLosingProxy(t *testing.T, server string) *losingProxy {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	p := &losingProxy{address: listener.Addr().String(), server: server}
	var running sync.WaitGroup
	t.Cleanup(func() { listener.Close(); running.Wait() })
	running.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			running.Go(func() { p.connect(client) })
		}
	})
	return p
}

// connect serves a client until it goes away.
func (p *losingProxy) connect(client net.Conn) {
	defer client.Close()
	server, err := net.Dial("tcp", p.server)
	if err != nil {
		return
	}
	var silent atomic.Bool
	answers := make(chan struct{})
	go func() {
		defer close(answers)
		pass(server, func(answer []byte) error {
			if silent.Load() {
				return nil
			}
			_, err := client.Write(answer)
			return err
		})
		client.Close()
	}()
	pass(client, func(request []byte) error {
		if p.losing.Load() && creditRequest.Match(request) {
			silent.Store(true)
			p.lost.Add(1)
		}
		_, err := server.Write(request)
		return err
	})
	server.Close()
	<-answers
}

// pass hands on what is read, until that or the reading fails.
func pass(from net.Conn, to func([]byte) error) {
	buffer := make([]byte, 64<<10)
	for {
		n, err := from.Read(buffer)
		if n > 0 && to(buffer[:n]) != nil || err != nil {
			return
		}
	}
}

// onLossyRedis is a command line whose credits can lose their answers.
func onLossyRedis(t *testing.T) (*commandLine, *losingProxy) {
	t.Helper()
	server := redistest.Start(t, "requirepass "+redisPassword)
	p := startLosingProxy(t, server.Addr())
	l := newCommandLine(t)
	l.onRedis(strings.Replace(server.URL(), server.Addr(), p.address, 1))
	l.do("account", "create", "--name", "First", "--credit", "1") // Redis has the script from now on
	return l, p
}

// operationOf is the id that an error says to repeat a credit with.
var operationOf = regexp.MustCompile(`--id ([^\s,]+)`)

func TestACreditWhoseAnswerIsLostCanBeRepeated(t *testing.T) {
	l, p := onLossyRedis(t)
	id := l.record("account", "create", "--name", "Acme")["id"].(string)
	for _, given := range [][]string{nil, {"--id", "invoice-1"}} {
		before := l.record("account", "show", id)["available"].(string)
		p.losing.Store(true)
		r := l.run("", append([]string{"account", "credit", id, "5"}, given...)...)
		p.losing.Store(false)
		wantSentence(t, r, p.address)
		said := operationOf.FindStringSubmatch(r.stderr)
		if said == nil || given != nil && said[1] != given[1] {
			t.Fatalf("the error does not say how to repeat it: %q", r.stderr)
		}
		after := l.record("account", "credit", id, "5", "--id", said[1])["available"].(string)
		if amount(t, after)-amount(t, before) != 5_000_000 {
			t.Errorf("the balance went from %s to %s", before, after)
		}
	}
	if n := p.lost.Load(); n != 2 {
		t.Errorf("%d answers were lost", n)
	}
}

func TestAnAccountWhoseFirstCreditHasNoAnswerIsNamed(t *testing.T) {
	l, p := onLossyRedis(t)
	p.losing.Store(true)
	r := l.run("", "account", "create", "--name", "Acme", "--credit", "5")
	p.losing.Store(false)
	wantSentence(t, r, p.address)
	account, operation := regexp.MustCompile(`account (\S+) was created`).FindStringSubmatch(r.stderr), operationOf.FindStringSubmatch(r.stderr)
	if account == nil || operation == nil {
		t.Fatalf("the error is %q", r.stderr)
	}
	diff(t, "5.00", l.record("account", "credit", account[1], "5", "--id", operation[1])["available"])
}

func TestACreditThatIsRefusedIsNotSaidToBeUncertain(t *testing.T) {
	l := newCommandLine(t)
	l.onRedis(redistest.Start(t).URL())
	id := l.record("account", "create", "--name", "Acme", "--credit", "9000000000000")["id"].(string)
	r := l.run("", "account", "credit", id, "9000000000000")
	if r.code != 1 || r.stderr == "" || operationOf.MatchString(r.stderr) {
		t.Errorf("exit status %d, error %q", r.code, r.stderr)
	}
	diff(t, "9000000000000.00", l.record("account", "show", id)["available"])
}

func TestCommandsSayWhyRedisCannotBeUsed(t *testing.T) {
	server := redistest.Start(t, "requirepass "+redisPassword)
	untrusted := redistest.StartTLS(t, "requirepass "+redisPassword)
	frozen := redistest.Start(t)
	frozen.Freeze()
	t.Cleanup(frozen.Thaw)
	for _, test := range []struct{ url, address, want string }{
		{"redis://:no" + redisPassword + "@" + server.Addr(), server.Addr(), "refuses the user or password"},
		{"redis://" + server.Addr(), server.Addr(), "password"},
		{untrusted.URL(), untrusted.Addr(), "certificate"},
		{frozen.URL(), frozen.Addr(), "does not answer within"},
	} {
		l := newCommandLine(t)
		l.onRedis(test.url)
		r := l.run("", "account", "list")
		wantSentence(t, r, test.address)
		if !strings.Contains(r.stderr, test.want) {
			t.Errorf("the error is %q, want one with %q", r.stderr, test.want)
		}
	}
}

// Every reader of JSON keeps whole numbers below 2^53.
func TestNumbersOfTheLedgerGrowAndAreExactInJSON(t *testing.T) {
	l := newCommandLine(t)
	l.onRedis(redistest.Start(t).URL())
	id := l.record("account", "create", "--name", "Acme", "--credit", "1")["id"].(string)
	for range 3 {
		l.do("account", "credit", id, "1")
	}
	last := 0.0
	for _, entry := range l.records("account", "ledger", id) {
		seq := entry["seq"].(float64)
		if seq <= last || seq >= 1<<53 {
			t.Errorf("%.0f comes after %.0f", seq, last)
		}
		last = seq
	}
	if last == 0 {
		t.Error("there are no entries")
	}
}
