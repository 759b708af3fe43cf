package tenant

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// fullDocument has every field of a grant.
const fullDocument = `{"key_id":"key_1","expires_at":"2027-01-01T00:00:00Z",
	"app":{"id":"app_1","name":"Shop","account_id":"acct_1","rate_limit":{"per_second":80,"per_minute":4800},
	"waba_id":"1000001","phone_number_id":"111","access_token":"v1.k1.AAAA",
	"webhook":{"url":"https://customer.example/hook","secret":"s3cret","events":["messages","message_status"],
	"headers":{"X-Team":"a"},"disabled_at":"2026-01-01T00:00:00Z"}}}`

func fullGrant() *Grant {
	expiry, disabled := time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	return &Grant{KeyID: "key_1", ExpiresAt: &expiry, App: App{
		ID: "app_1", Name: "Shop", AccountID: "acct_1", RateLimit: &RateLimit{80, 4_800},
		WABAID: "1000001", PhoneNumberID: "111", AccessToken: "v1.k1.AAAA",
		Webhook: &Webhook{
			URL: "https://customer.example/hook", Secret: "s3cret", Events: []Event{EventMessages, EventMessageStatus},
			Headers: map[string]Secret{"X-Team": "a"}, DisabledAt: &disabled,
		},
	}}
}

func TestParseGrantReadsWhatMayBeMissing(t *testing.T) {
	least := &Grant{KeyID: "key_1", App: App{ID: "app_1"}}
	for _, tc := range []struct {
		name, document string
		want           *Grant
	}{
		{"everything", fullDocument, fullGrant()},
		{"nothing but the ids", `{"key_id":"key_1","app":{"id":"app_1"}}`, least},
		{"nulls", `{"key_id":"key_1","expires_at":null,"app":{"id":"app_1","name":null,"account_id":null,"rate_limit":null,
			"waba_id":null,"phone_number_id":null,"access_token":null,"webhook":null}}`, least},
		{"nulls in the webhook", `{"key_id":"key_1","app":{"id":"app_1","webhook":
			{"url":null,"secret":null,"events":null,"headers":null,"disabled_at":null}}}`,
			&Grant{KeyID: "key_1", App: App{ID: "app_1", Webhook: &Webhook{}}}},
		{"unknown fields", `{"v":2,"key_id":"key_1","app":{"id":"app_1","tags":[{"a":[]}]},"etc":null}`, least},
		{"fields in another letter case", `{"key_id":"key_1","Expires_At":7,"app":{"id":"app_1","ACCOUNT_ID":"acct_2"}}`, least},
		{"space around", " \r\n\t{\"key_id\":\"key_1\",\"app\":{\"id\":\"app_1\"}}\n", least},
	} {
		got, err := ParseGrant([]byte(tc.document))
		if err != nil {
			t.Errorf("%s: %v", tc.name, err)
			continue
		}
		if diff := cmp.Diff(tc.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tc.name, diff)
		}
	}
}

// marker stands in every broken document: it must not come back in an error.
const marker = "s3cretmark"

// grantsThatAreNone are documents that must not become a grant.
var grantsThatAreNone = map[string]string{
	"nothing":                     ``,
	"space":                       ` `,
	"null":                        `null`,
	"true":                        `true`,
	"a string":                    `"s3cretmark"`,
	"an array":                    `[{"key_id":"key_1","app":{"id":"app_1"}}]`,
	"an empty object":             `{}`,
	"HTML":                        `<!doctype html><p>s3cretmark`,
	"half of it":                  `{"key_id":"key_1","app":{"id":"app_1","access_token":"s3cretma`,
	"two objects":                 `{"key_id":"key_1","app":{"id":"app_1"}}{}`,
	"text behind":                 `{"key_id":"key_1","app":{"id":"app_1"}}s3cretmark`,
	"no key_id":                   `{"app":{"id":"app_1","name":"s3cretmark"}}`,
	"an empty key_id":             `{"key_id":"","app":{"id":"app_1"}}`,
	"a null key_id":               `{"key_id":null,"app":{"id":"app_1"}}`,
	"a key_id in another case":    `{"KEY_ID":"key_1","app":{"id":"app_1"}}`,
	"a key_id that is a number":   `{"key_id":12345,"app":{"id":"app_1"}}`,
	"no app":                      `{"key_id":"key_1"}`,
	"a null app":                  `{"key_id":"key_1","app":null}`,
	"an app that is a string":     `{"key_id":"key_1","app":"s3cretmark"}`,
	"an app that is an array":     `{"key_id":"key_1","app":["app_1"]}`,
	"an app without id":           `{"key_id":"key_1","app":{"name":"s3cretmark"}}`,
	"an app with an empty id":     `{"key_id":"key_1","app":{"id":""}}`,
	"an app id that is a number":  `{"key_id":"key_1","app":{"id":1}}`,
	"key_id twice":                `{"key_id":"key_1","key_id":"s3cretmark","app":{"id":"app_1"}}`,
	"account_id twice":            `{"key_id":"key_1","app":{"id":"app_1","account_id":"a","account_id":"s3cretmark"}}`,
	"a header twice":              `{"key_id":"key_1","app":{"id":"app_1","webhook":{"headers":{"s3cretmark":"a","s3cretmark":"b"}}}}`,
	"an expiry that is a number":  `{"key_id":"key_1","expires_at":1893456000,"app":{"id":"app_1"}}`,
	"an expiry without zone":      `{"key_id":"key_1","expires_at":"2027-01-01T00:00:00","app":{"id":"app_1"}}`,
	"an expiry that is a date":    `{"key_id":"key_1","expires_at":"2027-01-01","app":{"id":"app_1"}}`,
	"an expiry that is text":      `{"key_id":"key_1","expires_at":"s3cretmark","app":{"id":"app_1"}}`,
	"an empty expiry":             `{"key_id":"key_1","expires_at":"","app":{"id":"app_1"}}`,
	"a limit of zero":             `{"key_id":"key_1","app":{"id":"app_1","rate_limit":{"per_second":0,"per_minute":10}}}`,
	"half a limit":                `{"key_id":"key_1","app":{"id":"app_1","rate_limit":{"per_second":80}}}`,
	"an empty limit":              `{"key_id":"key_1","app":{"id":"app_1","rate_limit":{}}}`,
	"a negative limit":            `{"key_id":"key_1","app":{"id":"app_1","rate_limit":{"per_second":-1,"per_minute":10}}}`,
	"a limit that is text":        `{"key_id":"key_1","app":{"id":"app_1","rate_limit":{"per_second":"80","per_minute":10}}}`,
	"a limit with a fraction":     `{"key_id":"key_1","app":{"id":"app_1","rate_limit":{"per_second":1.5,"per_minute":10}}}`,
	"a limit beyond 64 bits":      `{"key_id":"key_1","app":{"id":"app_1","rate_limit":{"per_second":1e30,"per_minute":10}}}`,
	"an account that is a number": `{"key_id":"key_1","app":{"id":"app_1","account_id":77}}`,
	"a token that is an object":   `{"key_id":"key_1","app":{"id":"app_1","access_token":{"t":"s3cretmark"}}}`,
	"a webhook that is a string":  `{"key_id":"key_1","app":{"id":"app_1","webhook":"s3cretmark"}}`,
	"events that are a string":    `{"key_id":"key_1","app":{"id":"app_1","webhook":{"events":"s3cretmark"}}}`,
	"a header that is an array":   `{"key_id":"key_1","app":{"id":"app_1","webhook":{"headers":{"s3cretmark":["s3cretmark"]}}}}`,
	"bytes that are no UTF-8":     "{\"key_id\":\"key_1\",\"app\":{\"id\":\"app_\xff\"}}",
}

func TestParseGrantRefusesWhatIsNone(t *testing.T) {
	for name, document := range grantsThatAreNone {
		g, err := ParseGrant([]byte(document))
		if err == nil || g != nil {
			t.Errorf("%s: parsed", name)
			continue
		}
		if strings.Contains(err.Error(), marker[:8]) {
			t.Errorf("%s: the error repeats the document: %v", name, err)
		}
	}
}

// Whatever the end is cut off, the rest is no grant.
func TestParseGrantRefusesEveryPartOfADocument(t *testing.T) {
	for end := range len(fullDocument) {
		if _, err := ParseGrant([]byte(fullDocument[:end])); err == nil {
			t.Fatalf("the first %d of %d bytes parse", end, len(fullDocument))
		}
	}
}

func TestParseApps(t *testing.T) {
	for _, tc := range []struct {
		name, document string
		want           []AppID // nil: refused
	}{
		{"two", `{"apps":[{"id":"app_1"},{"id":"app_2","rate_limit":{"per_second":1,"per_minute":2}}]}`, []AppID{"app_1", "app_2"}},
		{"none", `{"apps":[]}`, []AppID{}},
		{"null", `{"apps":null}`, []AppID{}},
		{"with something unknown", `{"next":null,"apps":[{"id":"app_1","x":1}]}`, []AppID{"app_1"}},
		{"absent", `{"error":"no such route"}`, nil},
		{"an app without id", `{"apps":[{"id":"app_1"},{"name":"s3cretmark"}]}`, nil},
		{"a null app", `{"apps":[null]}`, nil},
		{"an app with a bad limit", `{"apps":[{"id":"app_1","rate_limit":{"per_second":0,"per_minute":0}}]}`, nil},
		{"an object", `{"apps":{"id":"s3cretmark"}}`, nil},
		{"a bare array", `[{"id":"app_1"}]`, nil},
		{"an id twice in an app", `{"apps":[{"id":"app_1","id":"s3cretmark"}]}`, nil},
		{"half", `{"apps":[{"id":"app_1"},{"id":"s3cretma`, nil},
		{"HTML", `<html>s3cretmark</html>`, nil},
	} {
		apps, err := ParseApps([]byte(tc.document))
		if (err == nil) != (tc.want != nil) {
			t.Errorf("%s: error %v", tc.name, err)
		}
		if err != nil && strings.Contains(err.Error(), marker[:8]) {
			t.Errorf("%s: the error repeats the document: %v", tc.name, err)
		}
		got := []AppID{}
		for _, app := range apps {
			got = append(got, app.ID)
		}
		if diff := cmp.Diff(tc.want, got, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tc.name, diff)
		}
	}
}

// sameGrant takes an empty collection for none, and a webhook of nothing, too:
// they mean the same.
var sameGrant = cmp.Options{
	cmpopts.EquateEmpty(),
	cmp.FilterValues(func(a, b *Webhook) bool { return a == nil || b == nil }, cmp.Transformer("none", func(w *Webhook) Webhook {
		if w == nil {
			return Webhook{}
		}
		return *w
	})),
}

func TestDocumentIsReadBackAsTheSameGrant(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	texts := []string{"", "a", "ü €", `"\/<>&`, "\u0000\u2028", "v1.k1.AAAA", strings.Repeat("x", 300)}
	text := func() string { return texts[random.IntN(len(texts))] }
	moment := func() *time.Time {
		if random.IntN(3) == 0 {
			return nil
		}
		at := time.Unix(random.Int64N(4e9), random.Int64N(1e9)).In(time.FixedZone("", random.IntN(24*60)*60-12*3600))
		return &at
	}
	for range 2_000 {
		want := &Grant{KeyID: KeyID("k" + text()), ExpiresAt: moment(), App: App{
			ID: AppID("a" + text()), Name: text(), AccountID: AccountID(text()), WABAID: text(),
			PhoneNumberID: text(), AccessToken: SealedToken(text()),
		}}
		if random.IntN(2) == 0 {
			want.App.RateLimit = &RateLimit{1 + random.IntN(1e9), 1 + random.IntN(1e9)}
		}
		if random.IntN(2) == 0 {
			w := &Webhook{URL: text(), Secret: Secret(text()), DisabledAt: moment(), Headers: map[string]Secret{}}
			for i := range random.IntN(4) {
				w.Events = append(w.Events, Events[random.IntN(len(Events))])
				w.Headers[fmt.Sprint(i, text())] = Secret(text())
			}
			want.App.Webhook = w
		}
		got, err := ParseGrant(want.Document())
		if err != nil {
			t.Fatalf("%s: %v", want.Document(), err)
		}
		if diff := cmp.Diff(want, got, sameGrant); diff != "" {
			t.Fatalf("(-want +got):\n%s", diff)
		}
	}
}

func TestDocumentCanAlwaysBeWritten(t *testing.T) {
	early, late := time.Date(-5, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(12_000, 1, 1, 0, 0, 0, 0, time.UTC)
	odd := time.Date(2030, 1, 1, 0, 0, 0, 0, time.FixedZone("", 100*3600+7))
	for _, at := range []*time.Time{&early, &late, &odd, new(time.Time)} {
		g := &Grant{KeyID: "key_\xff", ExpiresAt: at, App: App{ID: "app_1", CreatedAt: *at, Webhook: &Webhook{DisabledAt: at}}}
		before := *at
		got, err := ParseGrant(g.Document())
		if err != nil {
			t.Errorf("%v: %v", at, err)
			continue
		}
		if now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC); got.Expired(now) != g.Expired(now) {
			t.Errorf("%v: the expiry turned over to %v", at, got.ExpiresAt)
		}
		if got.KeyID != "key_\ufffd" || !at.Equal(before) || g.App.Webhook.DisabledAt != at {
			t.Errorf("%v: key id %q, or the grant was changed", at, got.KeyID)
		}
	}
}

func TestDocumentHasTheSecrets(t *testing.T) {
	document := string(fullGrant().Document())
	for _, secret := range []string{`"access_token":"v1.k1.AAAA"`, `"secret":"s3cret"`, `"X-Team":"a"`} {
		if !strings.Contains(document, secret) {
			t.Errorf("the document lacks %s", secret)
		}
	}
	if strings.Contains(document, "CreatedAt") || strings.Contains(document, "created_at") {
		t.Error("the document has a field that is the store's own")
	}
}

func FuzzParseGrant(f *testing.F) {
	f.Add([]byte(fullDocument))
	for _, document := range grantsThatAreNone {
		f.Add([]byte(document))
	}
	f.Fuzz(func(t *testing.T, document []byte) {
		if _, err := ParseApps(document); err != nil && len(err.Error()) > 120 {
			t.Errorf("a long error of ParseApps: %v", err)
		}
		g, err := ParseGrant(document)
		if err != nil {
			if g != nil || len(err.Error()) > 120 {
				t.Errorf("a grant beside an error, or a long one: %v", err)
			}
			return
		}
		if g.KeyID == "" || g.App.ID == "" || g.App.RateLimit != nil && g.App.RateLimit.Validate() != nil {
			t.Fatal("half a grant was parsed")
		}
		again, err := ParseGrant(g.Document())
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(g, again, sameGrant); diff != "" {
			t.Errorf("written and read again (-want +got):\n%s", diff)
		}
	})
}
