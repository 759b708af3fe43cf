package tenant

import (
	"encoding/json"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestNewIDsSortByAge(t *testing.T) {
	last := ""
	for range 10_000 {
		id := NewID("acct")
		if len(id) != len("acct_")+IDLength || !strings.HasPrefix(id, "acct_") {
			t.Fatalf("id %q", id)
		}
		if strings.Trim(id[len("acct_"):], "0123456789abcdefghijklmnopqrstuv") != "" {
			t.Fatalf("id %q has other characters than lowercase base32hex", id)
		}
		if id <= last {
			t.Fatalf("id %q was made after %q and sorts before it", id, last)
		}
		last = id
	}
}

func TestDerivedIDs(t *testing.T) {
	a, b, made := DerivedID("hold", "x"), DerivedID("hold", "y"), NewID("hold")
	if a != DerivedID("hold", "x") || a == b || len(a) != len(made) {
		t.Errorf("derived %q and %q", a, b)
	}
	for id, want := range map[string]bool{a: true, b: true, made: false, "": false, "hold_": false, "hold_x": false, a + "0": false} {
		if IsDerivedID(id) != want {
			t.Errorf("IsDerivedID(%q) is %v", id, !want)
		}
	}
}

func TestNewIDsAreUniqueUnderConcurrency(t *testing.T) {
	const makers, each = 8, 2_000
	ids := make([][]string, makers)
	var wg sync.WaitGroup
	for i := range makers {
		wg.Go(func() {
			for range each {
				ids[i] = append(ids[i], NewID("hold"))
			}
		})
	}
	wg.Wait()
	seen := make(map[string]bool)
	for _, made := range ids {
		for _, id := range made {
			seen[id] = true
		}
	}
	if len(seen) != makers*each {
		t.Errorf("%d different ids of %d", len(seen), makers*each)
	}
}

func TestRateLimitsBelowOneAreRefused(t *testing.T) {
	for _, tc := range []struct {
		limits RateLimit
		ok     bool
	}{
		{RateLimit{80, 4_800}, true},
		{RateLimit{1, 1}, true},
		{RateLimit{100, 10}, true},
		{RateLimit{0, 10}, false},
		{RateLimit{10, 0}, false},
		{RateLimit{-1, 10}, false},
		{RateLimit{}, false},
	} {
		if err := tc.limits.Validate(); (err == nil) != tc.ok {
			t.Errorf("%+v: %v", tc.limits, err)
		}
	}
}

func TestGrantExpires(t *testing.T) {
	at := time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)
	g := &Grant{ExpiresAt: &at}
	for _, tc := range []struct {
		now     time.Time
		expired bool
	}{{at.Add(-1), false}, {at, true}, {at.Add(1), true}, {at.In(time.FixedZone("", 3_600)), true}} {
		if got := g.Expired(tc.now); got != tc.expired {
			t.Errorf("Expired is %v %v after the expiry", got, tc.now.Sub(at))
		}
	}
	if (&Grant{}).Expired(at) {
		t.Error("a grant without expiry has expired")
	}
}

func TestGrantReadsWhatTheCoreServiceAnswers(t *testing.T) {
	expiry := time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, tc := range []struct {
		name, document string
		want           Grant
	}{
		{"everything", `{"key_id":"key_1","expires_at":"2027-01-01T00:00:00Z",
			"app":{"id":"app_1","account_id":"acct_1","rate_limit":{"per_second":80,"per_minute":4800},
			"waba_id":"1000001","phone_number_id":"111","access_token":"v1.k1.AAAA"}}`, Grant{
			KeyID: "key_1", ExpiresAt: &expiry, App: App{
				ID: "app_1", AccountID: "acct_1", RateLimit: &RateLimit{80, 4_800},
				WABAID: "1000001", PhoneNumberID: "111", AccessToken: "v1.k1.AAAA",
			},
		}},
		{"nulls", `{"key_id":"key_1","expires_at":null,"app":{"id":"app_1","account_id":null,"rate_limit":null,
			"waba_id":null,"phone_number_id":null,"access_token":null}}`, Grant{KeyID: "key_1", App: App{ID: "app_1"}}},
		{"nothing else", `{"key_id":"key_1","app":{"id":"app_1"}}`, Grant{KeyID: "key_1", App: App{ID: "app_1"}}},
	} {
		var got Grant
		if err := json.Unmarshal([]byte(tc.document), &got); err != nil {
			t.Errorf("%s: %v", tc.name, err)
		}
		if diff := cmp.Diff(tc.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tc.name, diff)
		}
		document, err := json.Marshal(got)
		if err != nil {
			t.Fatal(err)
		}
		var again Grant
		if err := json.Unmarshal(document, &again); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(got, again); diff != "" {
			t.Errorf("%s, written and read again (-want +got):\n%s", tc.name, diff)
		}
	}
}
