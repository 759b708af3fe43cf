package coretest_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/connexease/caddy-whatsapp-gateway/core"
	"github.com/connexease/caddy-whatsapp-gateway/core/coretest"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const token = "secret"

var digest = tenant.NewPepper("p").Digest("k")

// ask asks the service as a client with the right token does.
func ask(s http.Handler, method, path, body string) (string, int) {
	request := httptest.NewRequest(method, path, strings.NewReader(body))
	request.Header.Set("Authorization", "Bearer "+token)
	recorder := httptest.NewRecorder()
	s.ServeHTTP(recorder, request)
	return recorder.Body.String(), recorder.Code
}

// paths is a request of each route.
var paths = map[coretest.Route]string{
	coretest.Grants: "/v1/grants/" + digest.String(), coretest.Apps: "/v1/apps?waba_id=1",
	coretest.Accounts: "/v1/accounts/acct_1", coretest.Ledger: "/v1/ledger-entries",
}

const oneEntry = `{"entries":[{"id":"a","account_id":"x","kind":"credit","amount_micros":0,"at":"2026-11-22T10:00:00Z"}]}`

func method(route coretest.Route) string {
	name, _, _ := strings.Cut(string(route), " ")
	return name
}

func TestNobodyIsAnsweredWithoutTheToken(t *testing.T) {
	s := coretest.New(token)
	requests := map[string]string{"/admin/ledger": http.MethodGet, "/admin/accounts/acct_1/credit": http.MethodPost}
	for route, path := range paths {
		requests[path] = method(route)
	}
	for path, method := range requests {
		for _, header := range []string{"", "Bearer", "Bearer ", "Bearer wrong", "Bearer secret2", "Basic secret", "secret"} {
			request := httptest.NewRequest(method, path, strings.NewReader(oneEntry))
			if header != "" {
				request.Header.Set("Authorization", header)
			}
			recorder := httptest.NewRecorder()
			s.ServeHTTP(recorder, request)
			if recorder.Code != http.StatusUnauthorized {
				t.Errorf("%s with %q: status %d", path, header, recorder.Code)
			}
		}
	}
	if len(s.Entries()) != 0 {
		t.Error("entries were stored")
	}
}

func TestBatchesOfAnotherShapeAreRefusedWhole(t *testing.T) {
	s := coretest.New(token)
	const good = `{"id":"good","account_id":"x","kind":"capture","amount_micros":1,"at":"2026-11-22T10:00:00Z"}`
	for name, body := range map[string]string{
		"nothing":            ``,
		"HTML":               `<p>`,
		"no entries":         `{}`,
		"null entries":       `{"entries":null}`,
		"empty entries":      `{"entries":[]}`,
		"a bare array":       `[` + good + `]`,
		"text behind":        `{"entries":[` + good + `]}x`,
		"half":               `{"entries":[` + good,
		"too many":           `{"entries":[` + strings.Repeat(good+",", core.MaxEntries) + good + `]}`,
		"a null entry":       `{"entries":[` + good + `,null]}`,
		"no id":              `{"entries":[` + good + `,{"account_id":"x","kind":"capture","amount_micros":1,"at":"2026-11-22T10:00:00Z"}]}`,
		"no account":         `{"entries":[` + good + `,{"id":"b","kind":"capture","amount_micros":1,"at":"2026-11-22T10:00:00Z"}]}`,
		"no kind":            `{"entries":[` + good + `,{"id":"b","account_id":"x","amount_micros":1,"at":"2026-11-22T10:00:00Z"}]}`,
		"a hold":             `{"entries":[` + good + `,{"id":"b","account_id":"x","kind":"hold","amount_micros":1,"at":"2026-11-22T10:00:00Z"}]}`,
		"no amount":          `{"entries":[` + good + `,{"id":"b","account_id":"x","kind":"capture","at":"2026-11-22T10:00:00Z"}]}`,
		"a decimal amount":   `{"entries":[` + good + `,{"id":"b","account_id":"x","kind":"capture","amount_micros":"0.01","at":"2026-11-22T10:00:00Z"}]}`,
		"a fee below zero":   `{"entries":[` + good + `,{"id":"b","account_id":"x","kind":"template_fee","amount_micros":-1,"at":"2026-11-22T10:00:00Z"}]}`,
		"no time":            `{"entries":[` + good + `,{"id":"b","account_id":"x","kind":"capture","amount_micros":1}]}`,
		"a time without day": `{"entries":[` + good + `,{"id":"b","account_id":"x","kind":"capture","amount_micros":1,"at":"10:00"}]}`,
	} {
		if answer, status := ask(s, http.MethodPost, paths[coretest.Ledger], body); status != http.StatusBadRequest {
			t.Errorf("%s: status %d: %s", name, status, answer)
		}
	}
	if entries := s.Entries(); len(entries) != 0 {
		t.Errorf("%v were stored", entries)
	}
}

func TestAppsAreAskedForByOneThing(t *testing.T) {
	s := coretest.New(token)
	for _, app := range []tenant.App{{ID: "app_2", PhoneNumberID: "1", WABAID: "7"}, {ID: "app_1", WABAID: "7"}, {ID: "app_3"}} {
		if err := s.PutApp(app); err != nil {
			t.Fatal(err)
		}
	}
	for query, want := range map[string]string{
		"?phone_number_id=1": `{"apps":[{"id":"app_2","waba_id":"7","phone_number_id":"1"}]}`,
		"?waba_id=7":         `{"apps":[{"id":"app_1","waba_id":"7"},{"id":"app_2","waba_id":"7","phone_number_id":"1"}]}`,
		"?waba_id=1":         `{"apps":[]}`,
		"":                   "", "?waba_id=": "", "?waba_id=7&phone_number_id=1": "",
	} {
		body, status := ask(s, http.MethodGet, "/v1/apps"+query, "")
		if want == "" && status != http.StatusBadRequest || want != "" && body != want {
			t.Errorf("%q: status %d: %s", query, status, body)
		}
	}
	if err := s.RemoveApp("app_2"); err != nil {
		t.Fatal(err)
	}
	if body, _ := ask(s, http.MethodGet, "/v1/apps?phone_number_id=1", ""); body != `{"apps":[]}` {
		t.Errorf("a removed app: %s", body)
	}
}

func TestAChangeThatCouldNotBeSavedIsNotAnswered(t *testing.T) {
	var saved coretest.State
	full := errors.New("disk full")
	s := coretest.NewFrom(token, coretest.State{}, func(state coretest.State) error {
		if full != nil {
			return full
		}
		document, err := json.Marshal(state)
		return errors.Join(err, json.Unmarshal(document, &saved))
	})
	if _, status := ask(s, http.MethodPost, paths[coretest.Ledger], oneEntry); status != http.StatusInternalServerError {
		t.Errorf("status %d", status)
	}
	full = nil
	if _, status := ask(s, http.MethodPost, paths[coretest.Ledger], oneEntry); status != http.StatusOK || len(saved.Entries) != 1 {
		t.Errorf("repeated: status %d, %d entries saved", status, len(saved.Entries))
	}
	again := coretest.NewFrom(token, saved, nil)
	if _, status := ask(again, http.MethodPost, paths[coretest.Ledger], oneEntry); status != http.StatusOK {
		t.Errorf("status %d", status)
	}
	if diff := cmp.Diff(s.Entries(), again.Entries()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestCreditsAreChecked(t *testing.T) {
	s := coretest.New(token)
	if _, err := s.Credit("acct_1", 1); !errors.Is(err, coretest.ErrUnknown) {
		t.Errorf("an unknown account: %v", err)
	}
	if _, status := ask(s, http.MethodPost, "/admin/accounts/acct_1/credit", `{"amount_micros":1}`); status != http.StatusNotFound {
		t.Errorf("an unknown account: status %d", status)
	}
	if err := s.PutAccount("acct_1", "USD"); err != nil {
		t.Fatal(err)
	}
	for amount, ok := range map[string]bool{"5": true, "-9": true, "9223372036854775807": true, "null": false, `"5"`: false, "0.5": false} {
		fresh := coretest.New(token)
		if err := fresh.PutAccount("acct_1", "USD"); err != nil {
			t.Fatal(err)
		}
		body, status := ask(fresh, http.MethodPost, "/admin/accounts/acct_1/credit", `{"amount_micros":`+amount+`}`)
		want := `{"account_id":"acct_1","currency":"USD","credited_micros":` + amount + `,"version":2}`
		if ok && body != want || !ok && status != http.StatusBadRequest {
			t.Errorf("%s: status %d: %s", amount, status, body)
		}
	}
	for _, amount := range []int64{1<<63 - 1, -1 << 62} {
		if _, err := s.Credit("acct_1", amount); err != nil {
			t.Fatal(err)
		}
	}
	before, _ := s.Account("acct_1")
	if _, err := s.Credit("acct_1", 1<<63-1); err == nil {
		t.Error("a total beyond 64 bits was taken")
	}
	if after, _ := s.Account("acct_1"); after != before {
		t.Errorf("%v became %v", before, after)
	}
}

func TestFaultsAreSetByRoute(t *testing.T) {
	s := coretest.New(token)
	s.Set(coretest.Error, coretest.Apps, coretest.Ledger)
	for route, path := range paths {
		_, status := ask(s, method(route), path, oneEntry)
		if failed := status == http.StatusInternalServerError; failed != (route == coretest.Apps || route == coretest.Ledger) {
			t.Errorf("%s: status %d", route, status)
		}
		if n := s.Requests(route); n != 1 {
			t.Errorf("%s was counted %d times", route, n)
		}
	}
	if len(s.Entries()) != 0 {
		t.Error("what failed was done")
	}
	s.Set(coretest.Fault{Late: true, Status: http.StatusInternalServerError}, coretest.Ledger)
	if _, status := ask(s, http.MethodPost, paths[coretest.Ledger], oneEntry); status != http.StatusInternalServerError || len(s.Entries()) != 1 {
		t.Errorf("what fails late: status %d, %d entries", status, len(s.Entries()))
	}
	s.Heal(coretest.Apps)
	if _, status := ask(s, http.MethodGet, paths[coretest.Apps], ""); status != http.StatusOK {
		t.Errorf("healed: status %d", status)
	}
}

func TestWaitsEndWithTheRequestOrTheService(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, fault := range []coretest.Fault{coretest.Slow(time.Hour), {Until: make(chan struct{})}} {
			s := coretest.New(token)
			s.Set(fault)
			aborted := make(chan any)
			go func() {
				defer func() { aborted <- recover() }()
				ask(s, http.MethodGet, paths[coretest.Grants], "")
			}()
			synctest.Wait()
			s.Close()
			if v := <-aborted; v != http.ErrAbortHandler {
				t.Errorf("%v", v)
			}
		}
	})
}

func TestServiceIsSafeForConcurrentUse(t *testing.T) {
	s := coretest.New(token)
	if err := s.PutAccount("acct_1", "USD"); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(s)
	defer server.Close()
	defer server.Client().CloseIdleConnections()
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 20 {
				app := tenant.App{ID: tenant.AppID(fmt.Sprint(i)), RateLimit: &tenant.RateLimit{PerSecond: 1, PerMinute: 1}}
				_, creditErr := s.Credit("acct_1", 1)
				err := errors.Join(s.PutApp(app), s.PutKey(digest, coretest.Key{ID: "key_1", AppID: app.ID}), creditErr)
				if err != nil {
					t.Error(err)
				}
				app.RateLimit.PerSecond++ // which is the caller's own
				s.Set(coretest.Slow(0), coretest.Apps)
				get(t, server, paths[coretest.Grants])
				_, status := ask(s, http.MethodPost, paths[coretest.Ledger], strings.ReplaceAll(oneEntry, `"a"`, fmt.Sprintf(`"%d"`, j)))
				if status != http.StatusOK {
					t.Errorf("status %d", status)
				}
				s.EntriesOf("x")
				s.Requests(coretest.Ledger)
			}
		})
	}
	wg.Wait()
	if a, err := s.Account("acct_1"); err != nil || a.Credited != 160 || a.Version != 161 {
		t.Errorf("%+v, %v", a, err)
	}
	if n := len(s.Entries()); n != 20 {
		t.Errorf("%d entries of 20", n)
	}
}

func get(t *testing.T, server *httptest.Server, path string) {
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL+path, nil)
	if err != nil {
		t.Error(err)
		return
	}
	request.Header.Set("Authorization", "Bearer "+token)
	answer, err := server.Client().Do(request)
	if err != nil {
		t.Error(err)
		return
	}
	_, _ = io.Copy(io.Discard, answer.Body)
	_ = answer.Body.Close()
}
