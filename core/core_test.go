package core_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/connexease/caddy-whatsapp-gateway/core"
	"github.com/connexease/caddy-whatsapp-gateway/core/coretest"
	"github.com/connexease/caddy-whatsapp-gateway/pricing"
	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

func TestLookUpsFindWhatTheServiceKnows(t *testing.T) {
	s, client := service(t)
	for route, call := range calls {
		if err := call(t.Context(), client); err != nil {
			t.Errorf("%s: %v", route, err)
		}
	}
	apps, err := client.AppsOfWABA(t.Context(), waba)
	if err != nil || len(apps) != 1 || apps[0].AccountID != "acct_1" {
		t.Errorf("%d apps, %v", len(apps), err)
	}
	if err := s.Revoke(digest); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Grant(t.Context(), digest); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("a revoked key: %v", err)
	}
}

func TestUnknownIsNotFound(t *testing.T) {
	s, client := service(t)
	if _, err := client.Grant(t.Context(), tenant.KeyDigest{1}); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("a grant: %v", err)
	}
	if _, err := client.Account(t.Context(), "acct_2"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("an account: %v", err)
	}
	if apps, err := client.AppsWithNumber(t.Context(), "2"); err != nil || len(apps) != 0 {
		t.Errorf("apps: %d, %v", len(apps), err)
	}
	asked := s.Requests(coretest.Apps) + s.Requests(coretest.Accounts)
	if apps, err := client.AppsOfWABA(t.Context(), ""); err != nil || apps != nil {
		t.Errorf("apps of no account: %d, %v", len(apps), err)
	}
	for _, id := range []tenant.AccountID{"", ".", ".."} {
		if _, err := client.Account(t.Context(), id); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("account %q: %v", id, err)
		}
	}
	if s.Requests(coretest.Apps)+s.Requests(coretest.Accounts) != asked {
		t.Error("the service was asked for what cannot be")
	}
}

func TestIdsOfAnyCharactersArriveAsTheyAre(t *testing.T) {
	s, client := service(t)
	for _, id := range []string{"a/b", "a/../b", "../v1/grants/x", "a?b=c", "a#b", "a%2Fb", "a b", "a+b", "ü€", "a&b", "a;b", `a"\`, "…", "a//b", "-"} {
		if err := errors.Join(s.PutAccount(tenant.AccountID(id), "EUR"), s.PutApp(tenant.App{ID: "app_2", PhoneNumberID: id})); err != nil {
			t.Fatal(err)
		}
		total, err := client.Account(t.Context(), tenant.AccountID(id))
		if err != nil || total.Currency != "EUR" {
			t.Errorf("account %q: %v", id, err)
		}
		apps, err := client.AppsWithNumber(t.Context(), id)
		if err != nil || len(apps) != 1 {
			t.Errorf("number %q: %d apps, %v", id, len(apps), err)
		}
	}
}

func TestCallersShareARequestAndNoRecord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, heal := coretest.New(token), make(chan struct{})
		fill(t, s)
		if err := s.PutApp(tenant.App{ID: "app_1", RateLimit: &tenant.RateLimit{PerSecond: 1, PerMinute: 1}}); err != nil {
			t.Fatal(err)
		}
		s.Set(coretest.Fault{Until: heal})
		client := inBubble(t, s, nil)
		grants := make(chan *tenant.Grant)
		leaving, leave := context.WithCancel(t.Context())
		left := make(chan error)
		go func() { // the first to ask, who begins the request
			_, err := client.Grant(leaving, digest)
			left <- err
		}()
		synctest.Wait()
		for range 99 {
			go func() {
				g, err := client.Grant(t.Context(), digest)
				if err != nil {
					t.Error(err)
				}
				grants <- g
			}()
		}
		synctest.Wait()
		leave()
		if err := <-left; !errors.Is(err, context.Canceled) {
			t.Errorf("who went away got %v", err)
		}
		close(heal)
		seen := make(map[*tenant.RateLimit]bool)
		for range 99 {
			if g := <-grants; g != nil {
				seen[g.App.RateLimit] = true
			}
		}
		if n := s.Requests(coretest.Grants); n != 1 || len(seen) != 99 {
			t.Errorf("%d requests, %d records", n, len(seen))
		}
	})
}

func TestLookUpsOfAnotherGenerationAreNotJoined(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, heal := coretest.New(token), make(chan struct{})
		fill(t, s)
		s.Set(coretest.Fault{Until: heal})
		var generation uint64
		client := inBubble(t, s, func() uint64 { return generation })
		done := make(chan error)
		for range 2 {
			generation++
			go func() { done <- calls[coretest.Grants](t.Context(), client) }()
			synctest.Wait()
		}
		close(heal)
		if err := errors.Join(<-done, <-done); err != nil {
			t.Error(err)
		}
		if n := s.Requests(coretest.Grants); n != 2 {
			t.Errorf("%d requests", n)
		}
	})
}

// Different things are never one request, even if they have the same id.
func TestLookUpsOfDifferentThingsAreDifferentRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, heal := coretest.New(token), make(chan struct{})
		fill(t, s)
		if err := s.PutApp(tenant.App{ID: "app_2", WABAID: number}); err != nil {
			t.Fatal(err)
		}
		s.Set(coretest.Fault{Until: heal})
		client := inBubble(t, s, nil)
		byNumber, byWABA := make(chan []tenant.App), make(chan []tenant.App)
		go func() { apps, _ := client.AppsWithNumber(t.Context(), number); byNumber <- apps }()
		go func() { apps, _ := client.AppsOfWABA(t.Context(), number); byWABA <- apps }()
		synctest.Wait()
		close(heal)
		if a, b := <-byNumber, <-byWABA; len(a) != 1 || len(b) != 1 || a[0].ID != "app_1" || b[0].ID != "app_2" {
			t.Errorf("%v and %v", a, b)
		}
	})
}

func TestCloseEndsWhatIsUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := coretest.New(token)
		s.Set(coretest.Fault{Until: make(chan struct{})})
		client := inBubble(t, s, nil)
		done := make(chan error)
		for _, call := range calls {
			go func() { done <- call(t.Context(), client) }()
		}
		synctest.Wait()
		began := time.Now()
		client.Close()
		for range calls {
			if err := <-done; err == nil || !strings.Contains(err.Error(), "closed") {
				t.Errorf("%v", err)
			}
		}
		if time.Since(began) != 0 {
			t.Errorf("they ended %v later", time.Since(began))
		}
		if err := calls[coretest.Grants](t.Context(), client); err == nil {
			t.Error("a closed client answers")
		}
	})
}

func TestReportWritesTheContractsEntries(t *testing.T) {
	var body string
	client, _ := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		body = r.Method + " " + r.URL.Path + " " + r.Header.Get("Content-Type") + " " + r.Header.Get("Authorization") + " " + string(b)
	}))
	list := append(entries("capture_1"), store.ReportedEntry{Account: "acct_2", Entry: store.Entry{
		ID: "top-up 7", Kind: store.KindCredit, Amount: -9_007_199_254_740_993, At: time.Date(2026, 1, 1, 0, 0, 0, 1_000, time.UTC),
	}})
	if err := client.Report(t.Context(), list); err != nil {
		t.Fatal(err)
	}
	want := `POST /v1/ledger-entries application/json Bearer ` + token + ` {"entries":[` +
		`{"id":"capture_1","account_id":"acct_1","kind":"capture","amount_micros":1000,"message_id":"wamid.1","app_id":"app_1","at":"2026-11-22T10:00:01.25Z"},` +
		`{"id":"top-up 7","account_id":"acct_2","kind":"credit","amount_micros":-9007199254740993,"at":"2026-01-01T00:00:00.000001Z"}]}`
	if diff := cmp.Diff(want, body); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestReportedEntriesAreStoredOnceInTheirOrder(t *testing.T) {
	s, client := service(t)
	for _, ids := range [][]string{{"capture_1", "capture_2"}, {"capture_1", "capture_2", "capture_3"}, {"capture_3"}} {
		if err := client.Report(t.Context(), entries(ids...)); err != nil {
			t.Fatal(err)
		}
	}
	var got []string
	for _, e := range s.EntriesOf("acct_1") {
		got = append(got, e.ID)
	}
	if diff := cmp.Diff([]string{"capture_1", "capture_2", "capture_3"}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	many := make([]store.ReportedEntry, core.MaxEntries+1)
	if err := client.Report(t.Context(), many); err == nil {
		t.Error("a batch over the limit was sent")
	}
	if err := client.Report(t.Context(), many[:1]); err == nil {
		t.Error("an entry of nothing was stored")
	}
}

func TestAccountsAreReadStrictly(t *testing.T) {
	var body string
	client, _ := serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, body) }))
	for _, tc := range []struct {
		name, body string
		want       pricing.Micros
		corrupt    bool
	}{
		{"as it should be", `{"account_id":"acct_1","currency":"USD","credited_micros":12340000,"version":17}`, 12_340_000, false},
		{"unknown fields", `{"name":null,"account_id":"acct_1","currency":"USD","credited_micros":0,"version":1}`, 0, false},
		{"a debt", `{"account_id":"acct_1","currency":"USD","credited_micros":-5,"version":1}`, -5, false},
		{"beyond what a float64 holds", `{"account_id":"acct_1","currency":"USD","credited_micros":9007199254740993,"version":9007199254740993}`, 9_007_199_254_740_993, false},
		{"another account", `{"account_id":"acct_2","currency":"USD","credited_micros":1,"version":1}`, 0, true},
		{"no account", `{"currency":"USD","credited_micros":1,"version":1}`, 0, true},
		{"no currency", `{"account_id":"acct_1","credited_micros":1,"version":1}`, 0, true},
		{"a currency in small letters", `{"account_id":"acct_1","currency":"usd","credited_micros":1,"version":1}`, 0, true},
		{"no total", `{"account_id":"acct_1","currency":"USD","version":1}`, 0, true},
		{"a null total", `{"account_id":"acct_1","currency":"USD","credited_micros":null,"version":1}`, 0, true},
		{"a total with a fraction", `{"account_id":"acct_1","currency":"USD","credited_micros":1.5,"version":1}`, 0, true},
		{"a total that is text", `{"account_id":"acct_1","currency":"USD","credited_micros":"1","version":1}`, 0, true},
		{"a total beyond 64 bits", `{"account_id":"acct_1","currency":"USD","credited_micros":9223372036854775808,"version":1}`, 0, true},
		{"two totals", `{"account_id":"acct_1","currency":"USD","credited_micros":1,"credited_micros":2,"version":1}`, 0, true},
		{"no version", `{"account_id":"acct_1","currency":"USD","credited_micros":1}`, 0, true},
		{"version zero", `{"account_id":"acct_1","currency":"USD","credited_micros":1,"version":0}`, 0, true},
		{"an array", `[]`, 0, true},
		{"nothing", ``, 0, true},
		{"text behind", `{"account_id":"acct_1","currency":"USD","credited_micros":1,"version":1} echo`, 0, true},
	} {
		body = tc.body
		total, err := client.Account(t.Context(), "acct_1")
		if errors.Is(err, store.ErrCorrupt) != tc.corrupt || !tc.corrupt && err != nil {
			t.Errorf("%s: %v", tc.name, err)
		}
		if total.Credited != tc.want {
			t.Errorf("%s: %v", tc.name, total.Credited)
		}
		checkNoSecret(t, err)
	}
}

func TestTheBaseMayHaveAPath(t *testing.T) {
	s := coretest.New(token)
	fill(t, s)
	server := httptest.NewServer(http.StripPrefix("/internal/core", s))
	defer server.Close()
	for _, base := range []string{"/internal/core", "/internal/core/"} {
		client := newClient(t, core.Config{URL: server.URL + base, Token: token})
		for route, call := range calls {
			if err := call(t.Context(), client); err != nil {
				t.Errorf("%s: %v", route, err)
			}
		}
	}
}

func TestConfigurationsThatCannotWorkAreRefused(t *testing.T) {
	good := core.Config{URL: "https://core.example/path", Token: "secret"}
	for _, tc := range []struct {
		name   string
		change func(*core.Config)
		ok     bool
	}{
		{"as it should be", func(*core.Config) {}, true},
		{"http, with a port", func(c *core.Config) { c.URL = "http://127.0.0.1:8090" }, true},
		{"an IPv6 address", func(c *core.Config) { c.URL = "http://[::1]:8090/" }, true},
		{"no URL", func(c *core.Config) { c.URL = "" }, false},
		{"no scheme", func(c *core.Config) { c.URL = "core.example" }, false},
		{"another scheme", func(c *core.Config) { c.URL = "ftp://core.example" }, false},
		{"no host", func(c *core.Config) { c.URL = "https:///v1" }, false},
		{"only a port", func(c *core.Config) { c.URL = "https://:443" }, false},
		{"a bad port", func(c *core.Config) { c.URL = "https://core.example:secret" }, false},
		{"a user", func(c *core.Config) { c.URL = "https://u:secret@core.example" }, false},
		{"a query", func(c *core.Config) { c.URL = "https://core.example/?secret" }, false},
		{"a fragment", func(c *core.Config) { c.URL = "https://core.example/#" }, false},
		{"no token", func(c *core.Config) { c.Token = "" }, false},
		{"a token of two lines", func(c *core.Config) { c.Token = "secret\r\nX: y" }, false},
		{"a token with a space", func(c *core.Config) { c.Token = "Bearer secret" }, false},
		{"a negative timeout", func(c *core.Config) { c.Timeout = -1 }, false},
		{"a User-Agent of two lines", func(c *core.Config) { c.UserAgent = "a\nb" }, false},
	} {
		c := good
		tc.change(&c)
		err := c.Validate()
		if (err == nil) != tc.ok {
			t.Errorf("%s: %v", tc.name, err)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: the error has a secret: %v", tc.name, err)
		}
	}
}
