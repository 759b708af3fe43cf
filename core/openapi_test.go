package core_test

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"

	"github.com/connexease/caddy-whatsapp-gateway/core"
	"github.com/connexease/caddy-whatsapp-gateway/core/coretest"
	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

// object is a mapping of the contract, or of JSON.
type object = map[string]any

// contract is openapi.yaml with the values that JSON has.
type contract struct {
	t    *testing.T
	root object
}

func readContract(t *testing.T) contract {
	t.Helper()
	text, err := os.ReadFile("openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var parsed any
	if err := yaml.Unmarshal(text, &parsed); err != nil {
		t.Fatal(err)
	}
	document, err := json.Marshal(parsed)
	if err != nil {
		t.Fatal(err)
	}
	return contract{t, decode(t, document).(object)}
}

func decode(t *testing.T, document []byte) (v any) {
	t.Helper()
	if err := json.Unmarshal(document, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

// at walks down a path of names. What is not there fails the test.
func (c contract) at(from object, path ...string) object {
	c.t.Helper()
	for _, name := range path {
		next, ok := c.resolve(from)[name].(object)
		if !ok {
			c.t.Fatalf("the contract has no %s of %v", name, path)
		}
		from = next
	}
	return c.resolve(from)
}

// resolve follows a $ref.
func (c contract) resolve(o object) object {
	c.t.Helper()
	ref, ok := o["$ref"].(string)
	if !ok {
		return o
	}
	return c.at(c.root, strings.Split(strings.TrimPrefix(ref, "#/"), "/")...)
}

func (c contract) schema(name string) object { return c.at(c.root, "components", "schemas", name) }

// example is an example of the contract, with its schema.
type example struct {
	where  string
	schema object
	value  any
}

// examples yields all that there are.
func (c contract) examples(yield func(example) bool) {
	var walk func(where string, v any) bool
	walk = func(where string, v any) bool {
		if list, ok := v.([]any); ok {
			return !slices.ContainsFunc(list, func(v any) bool { return !walk(where, v) })
		}
		o, ok := v.(object)
		if !ok {
			return true
		}
		schema, hasSchema := o["schema"].(object)
		examples, hasExamples := o["examples"].(object)
		if hasSchema && hasExamples {
			for name, one := range examples {
				if !yield(example{where + " " + name, schema, one.(object)["value"]}) {
					return false
				}
			}
			return true
		}
		if one, ok := o["example"]; ok && hasSchema && !yield(example{where, schema, one}) {
			return false
		}
		for name, v := range o {
			if !walk(where+"/"+name, v) {
				return false
			}
		}
		return true
	}
	walk("", c.root["paths"])
	walk("", c.root["components"])
}

func TestContractHasTheRoutesOfTheService(t *testing.T) {
	c := readContract(t)
	var got []string
	for path, operations := range c.at(c.root, "paths") {
		for method := range operations.(object) {
			got = append(got, strings.ToUpper(method)+" "+path)
		}
	}
	var want []string
	for _, route := range coretest.Routes {
		want = append(want, string(route))
	}
	slices.Sort(got)
	slices.Sort(want)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if most := c.at(c.schema("LedgerEntries"), "properties", "entries")["maxItems"]; most != float64(core.MaxEntries) {
		t.Errorf("a batch has up to %v entries", most)
	}
}

func TestExamplesOfTheContractFitTheirSchemas(t *testing.T) {
	c, n := readContract(t), 0
	for e := range c.examples {
		n++
		if err := c.check(e.schema, e.value); err != nil {
			t.Errorf("%s: %v", e.where, err)
		}
	}
	if n < 10 {
		t.Errorf("only %d examples were found", n)
	}
	c.resolveAll(c.root)
}

// resolveAll fails the test where a $ref leads nowhere.
func (c contract) resolveAll(v any) {
	switch v := v.(type) {
	case object:
		c.resolve(v)
		for _, v := range v {
			c.resolveAll(v)
		}
	case []any:
		for _, v := range v {
			c.resolveAll(v)
		}
	}
}

// Each example answer is given to the client, by a server that knows nothing else.
func TestExampleAnswersAreUnderstood(t *testing.T) {
	c := readContract(t)
	var answer []byte
	client, _ := serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(answer) }))
	understood := map[coretest.Route]func() error{
		coretest.Grants:   func() error { _, err := client.Grant(t.Context(), digest); return err },
		coretest.Apps:     func() error { _, err := client.AppsWithNumber(t.Context(), number); return err },
		coretest.Accounts: func() error { _, err := client.Account(t.Context(), "acct_1"); return err },
		coretest.Ledger:   func() error { return client.Report(t.Context(), entries("capture_1")) },
	}
	for _, route := range coretest.Routes {
		method, path, _ := strings.Cut(string(route), " ")
		examples := c.at(c.root, "paths", path, strings.ToLower(method), "responses", "200", "content", "application/json", "examples")
		for name, example := range examples {
			answer, _ = json.Marshal(example.(object)["value"])
			if err := understood[route](); err != nil {
				t.Errorf("%s: %s: %v", route, name, err)
			}
		}
		if len(examples) == 0 {
			t.Errorf("%s has no examples", route)
		}
	}
}

func TestTheExampleBatchIsStored(t *testing.T) {
	c := readContract(t)
	example := c.at(c.root, "paths", "/v1/ledger-entries", "post", "requestBody", "content", "application/json", "examples", "batch")["value"]
	body, err := json.Marshal(example)
	if err != nil {
		t.Fatal(err)
	}
	s := coretest.New(token)
	request := httptest.NewRequest(http.MethodPost, "/v1/ledger-entries", strings.NewReader(string(body)))
	request.Header.Set("Authorization", "Bearer "+token)
	recorder := httptest.NewRecorder()
	s.ServeHTTP(recorder, request)
	if n := len(s.Entries()); recorder.Code != http.StatusOK || n != len(example.(object)["entries"].([]any)) {
		t.Errorf("status %d, %d entries", recorder.Code, n)
	}
	total := store.Total{Account: "acct_1", Version: 1}
	if prefix, _, _ := strings.Cut(total.TotalID(), "_"); !strings.HasPrefix(s.Entries()[0].ID, prefix+"_") {
		t.Errorf("the echo of a total is %q, but stores write %s_", s.Entries()[0].ID, prefix)
	}
}

// What the reference service answers and the client sends is looked at on the
// wire, and compared to the schemas.
func TestWhatIsExchangedFitsTheSchemas(t *testing.T) {
	c := readContract(t)
	s := coretest.New(token)
	fill(t, s)
	full := tenant.App{
		ID: "app_1", Name: "Shop", AccountID: "acct_1", RateLimit: &tenant.RateLimit{PerSecond: 1, PerMinute: 2},
		WABAID: waba, PhoneNumberID: number, AccessToken: "v1.k1.AAAA", Webhook: &tenant.Webhook{
			URL: "https://customer.example", Secret: "x", Events: tenant.Events, Headers: map[string]tenant.Secret{"X-Team": "a"},
			DisabledAt: new(time.Time),
		},
	}
	for _, app := range []tenant.App{{ID: "app_1", PhoneNumberID: number}, full} {
		if err := s.PutApp(app); err != nil {
			t.Fatal(err)
		}
		client, _ := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			r.Body = io.NopCloser(strings.NewReader(string(body)))
			recorder := httptest.NewRecorder()
			s.ServeHTTP(recorder, r)
			w.WriteHeader(recorder.Code)
			_, _ = w.Write(recorder.Body.Bytes())
			if len(body) > 0 {
				if err := c.check(c.schema("LedgerEntries"), decode(t, body)); err != nil {
					t.Errorf("what the client sends: %v", err)
				}
				return
			}
			name := map[string]string{"grants": "Grant", "apps": "Apps", "accounts": "Account"}[strings.Split(r.URL.Path, "/")[2]]
			if err := c.check(c.schema(name), decode(t, recorder.Body.Bytes())); err != nil {
				t.Errorf("what the service answers: %s: %v", name, err)
			}
		}))
		for route, call := range calls {
			if err := call(t.Context(), client); err != nil {
				t.Errorf("%s: %v", route, err)
			}
		}
	}
}

// The contract names what the gateway reads: no more and no less.
func TestContractDescribesEveryField(t *testing.T) {
	c := readContract(t)
	for name, record := range map[string]any{
		"Grant": tenant.Grant{}, "App": tenant.App{}, "RateLimit": tenant.RateLimit{}, "Webhook": tenant.Webhook{},
		"Account": coretest.Account{}, "LedgerEntry": coretest.Entry{},
	} {
		var want []string
		for field := range reflect.TypeOf(record).Fields() {
			if tag, _, _ := strings.Cut(field.Tag.Get("json"), ","); tag != "-" {
				want = append(want, tag)
			}
		}
		slices.Sort(want)
		got := slices.Sorted(maps.Keys(c.at(c.schema(name), "properties")))
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	var events []string
	for _, event := range tenant.Events {
		events = append(events, string(event))
	}
	got := c.at(c.schema("Webhook"), "properties", "events", "items")["enum"]
	if diff := cmp.Diff(fmt.Sprint(events), fmt.Sprint(got)); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
}
