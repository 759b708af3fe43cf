package core_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/connexease/caddy-whatsapp-gateway/core"
	"github.com/connexease/caddy-whatsapp-gateway/core/coretest"
	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	token  = "t0ken-of-the-core-service"
	number = "109876543210"
	waba   = "1000001"
)

var digest = tenant.NewPepper("pepper").Digest("pk_some_imported_key")

// fill gives a service one account, app and key.
func fill(t *testing.T, s *coretest.Service) {
	t.Helper()
	_, err := s.Account("acct_1")
	if !errors.Is(err, coretest.ErrUnknown) {
		t.Fatal(err)
	}
	err = errors.Join(
		s.PutAccount("acct_1", "USD"),
		s.PutApp(tenant.App{ID: "app_1", AccountID: "acct_1", PhoneNumberID: number, WABAID: waba, AccessToken: "v1.k1.AAAA"}),
		s.PutKey(digest, coretest.Key{ID: "key_1", AppID: "app_1"}),
	)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Credit("acct_1", 12_340_000); err != nil {
		t.Fatal(err)
	}
}

// serve starts a real server and a client of it.
func serve(t *testing.T, handler http.Handler) (*core.Client, *httptest.Server) {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	client := newClient(t, core.Config{URL: server.URL, Token: token, Timeout: time.Minute})
	return client, server
}

func newClient(t *testing.T, c core.Config) *core.Client {
	t.Helper()
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	client := core.New(c)
	t.Cleanup(client.Close)
	return client
}

// service is a reference service on a real server, filled, and a client of it.
func service(t *testing.T) (*coretest.Service, *core.Client) {
	t.Helper()
	s := coretest.New(token)
	fill(t, s)
	client, _ := serve(t, s)
	t.Cleanup(s.Close)
	return s, client
}

// calls are what a client can be asked, by the route that it asks.
var calls = map[coretest.Route]func(context.Context, *core.Client) error{
	coretest.Grants: func(ctx context.Context, c *core.Client) error {
		g, err := c.Grant(ctx, digest)
		return want(err, g != nil && g.App.PhoneNumberID == number)
	},
	coretest.Apps: func(ctx context.Context, c *core.Client) error {
		apps, err := c.AppsWithNumber(ctx, number)
		return want(err, len(apps) == 1 && apps[0].ID == "app_1")
	},
	coretest.Accounts: func(ctx context.Context, c *core.Client) error {
		total, err := c.Account(ctx, "acct_1")
		return want(err, total == store.Total{Account: "acct_1", Currency: "USD", Credited: 12_340_000, Version: 2})
	},
	coretest.Ledger: func(ctx context.Context, c *core.Client) error {
		return c.Report(ctx, entries("capture_1"))
	},
}

var errWrong = errors.New("the answer is wrong")

func want(err error, right bool) error {
	if err == nil && !right {
		return errWrong
	}
	return err
}

// entries are captures with these ids.
func entries(ids ...string) []store.ReportedEntry {
	var list []store.ReportedEntry
	for _, id := range ids {
		list = append(list, store.ReportedEntry{Account: "acct_1", Entry: store.Entry{
			ID: id, Kind: store.KindCapture, Amount: 1_000, Balance: 7, MessageID: "wamid.1", AppID: "app_1",
			At: time.Date(2026, 11, 22, 11, 0, 1, 250_000_000, time.FixedZone("", 3_600)),
		}})
	}
	return list
}

// secrets are what no error may have in it.
var secrets = []string{token, digest.String(), "acct_1", "app_1", "key_1", number, waba, "wamid", "v1.k1", "Welcome", "internal", "echo"}

func checkNoSecret(t *testing.T, err error) {
	t.Helper()
	for _, secret := range secrets {
		if err != nil && strings.Contains(err.Error(), secret) {
			t.Errorf("the error has %q in it: %v", secret, err)
		}
	}
}

// pipe is a network of one server inside a synctest bubble: time in it passes
// only while everybody waits.
type pipe struct {
	conns  chan net.Conn
	closed chan struct{}
	close  func()
}

// inBubble serves handler through a pipe, and returns a client of it with the
// default timeout.
func inBubble(t *testing.T, handler http.Handler, generation func() uint64) *core.Client {
	p := &pipe{conns: make(chan net.Conn), closed: make(chan struct{})}
	p.close = sync.OnceFunc(func() { close(p.closed) })
	server := &http.Server{Handler: handler}
	go func() { _ = server.Serve(p) }()
	client := core.New(core.Config{URL: "http://core.example", Token: token, Generation: generation})
	client.DialWith(func(ctx context.Context, _, _ string) (net.Conn, error) {
		ours, theirs := net.Pipe()
		select {
		case p.conns <- theirs:
			return ours, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	})
	t.Cleanup(func() {
		client.Close()
		_ = server.Close()
	})
	return client
}

func (p *pipe) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipe) Close() error {
	p.close()
	return nil
}

func (*pipe) Addr() net.Addr { return &net.UnixAddr{Name: "pipe"} }
