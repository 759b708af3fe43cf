package event

import (
	"bytes"
	"encoding/json"
	"testing"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// FuzzSplit checks against encoding/json that the changes that go out are
// exactly those that came in, and that they say what was read in them.
func FuzzSplit(f *testing.F) {
	const cb = `"biz_opaque_callback_data":`
	for _, body := range []string{
		bodyOf(numberChange("messages", textMessage)),
		bodyOf(numberChange("messages", `"statuses":[`+statusOf("delivered", onePricing+`,`+cb+`"own"`)+`,{`+cb+` "\u0041\ud83d\ude00x"} ]`), `{}`, ` 1e9 `, `"\ud800"`),
		bodyOf(`{"field":"messages","value":{"statuses":[{ ` + cb + `"a" , ` + cb + `"b", "id":1,` + cb + `"\\c"}]}}`),
		bodyOf(changeOf("account_update", `"a":1,"a":"`+"\xff"+`"`)),
		`{"entry":[{"changes":[{"field":"a"},{"field":"a"}],"id":7},{"changes":[]}],"object":"x","Entry":1}` + "\n",
		`{"object":"x","entry":[{"time":1e400,"changes":[[{}]]}],"object":"y"}`,
		`{"object":"x","entry":[]}`, `[]`, `{`, `{"object":"x","entry":[{"changes":[{},]}]}`,
	} {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		before := bytes.Clone(body)
		changes, err := Split(body)
		if !bytes.Equal(body, before) {
			t.Fatal("splitting changed the body")
		}
		want, object := plainSplit(body)
		if err != nil {
			if _, ok := err.(refusal); !ok || changes != nil {
				t.Fatalf("%d changes and error %T", len(changes), err)
			}
			return
		}
		if len(changes) != len(want) {
			t.Fatalf("%d changes, encoding/json reads %d", len(changes), len(want))
		}
		for i := range changes {
			checkOut(t, &changes[i], want[i], object)
			checkUnderstood(t, &changes[i], want[i].raw)
			checkRewritten(t, &changes[i])
		}
		if !bytes.Equal(body, before) {
			t.Fatal("envelopes changed the body")
		}
	})
}

// plainChange is a change as encoding/json reads it, and the id of its entry.
type plainChange struct{ raw, id json.RawMessage }

// plainSplit splits a body with nothing but encoding/json. (Maps, since structs
// do not tell "entry" from "Entry".)
func plainSplit(body []byte) (changes []plainChange, object json.RawMessage) {
	var top map[string]json.RawMessage
	var entries []json.RawMessage
	if json.Unmarshal(body, &top) != nil || json.Unmarshal(top["entry"], &entries) != nil {
		return nil, nil
	}
	for _, raw := range entries {
		var entry map[string]json.RawMessage
		var items []json.RawMessage
		if json.Unmarshal(raw, &entry) != nil || json.Unmarshal(entry["changes"], &items) != nil {
			return nil, nil
		}
		for _, item := range items {
			changes = append(changes, plainChange{item, entry["id"]})
		}
	}
	return changes, top["object"]
}

// checkOut checks that an envelope has the one change in it, byte for byte.
func checkOut(t *testing.T, c *Change, want plainChange, object json.RawMessage) {
	out := c.Envelope(nil)
	got, gotObject := plainSplit(out)
	if len(got) != 1 || !bytes.Equal(got[0].raw, want.raw) || !bytes.Equal(gotObject, object) {
		t.Fatalf("%q goes out as\n%q", want.raw, out)
	}
	if got[0].id != nil && !bytes.Equal(got[0].id, want.id) || got[0].id == nil && c.WABA != "" {
		t.Fatalf("id %q goes out as %q", want.id, got[0].id)
	}
}

// understood is what a change says, without duplicate names and invalid UTF-8 in it.
type understood struct {
	field, number string
	statuses      []Status
	messages      bool
}

// checkUnderstood compares what was read in a change with what encoding/json reads.
func checkUnderstood(t *testing.T, c *Change, raw []byte) {
	if len(c.Events) == 0 {
		t.Fatalf("%q is no event at all", raw)
	}
	if !jsontext.Value(raw).IsValid() {
		return // which of duplicates counts, and what invalid UTF-8 becomes, is for us to say
	}
	want := understand(raw)
	if len(want.field) > maxID || len(want.number) > maxID {
		if c.Problem == "" {
			t.Fatalf("%q has no problem", raw)
		}
		return
	}
	got := understood{field: c.Field, number: c.PhoneNumberID, statuses: c.Statuses, messages: c.Events[0] == "messages"}
	want.messages = want.messages && want.field == "messages"
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(understood{}), cmpopts.EquateEmpty()); diff != "" {
		t.Fatalf("%q: %s", raw, diff)
	}
}

func understand(raw []byte) (u understood) {
	var tree any
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.UseNumber()
	if decoder.Decode(&tree) != nil {
		return u
	}
	change, _ := tree.(map[string]any)
	value, _ := change["value"].(map[string]any)
	meta, _ := value["metadata"].(map[string]any)
	messages, _ := value["messages"].([]any)
	statuses, _ := value["statuses"].([]any)
	u.field, _ = change["field"].(string)
	u.messages = len(messages) > 0
	switch id := meta["phone_number_id"].(type) {
	case string:
		u.number = id
	case json.Number:
		u.number = id.String()
	}
	for _, item := range statuses {
		var s Status
		status, _ := item.(map[string]any)
		pricing, _ := status["pricing"].(map[string]any)
		s.MessageID, _ = status["id"].(string)
		s.State, _ = status["status"].(string)
		s.Recipient, _ = status["recipient_id"].(string)
		s.CallbackData, _ = status["biz_opaque_callback_data"].(string)
		s.Billable, _ = pricing["billable"].(bool)
		s.Category, _ = pricing["category"].(string)
		if s.MessageID != "" && len(s.MessageID) <= 256 {
			u.statuses = append(u.statuses, s)
		}
	}
	return u
}

// firstRune and everything are what may be the gateway's of a callback value.
func firstRune(text string) int  { _, n := utf8.DecodeRuneInString(text); return n }
func everything(text string) int { return len(text) }

// checkRewritten checks that a change says the same with something taken off
// its callback values, but for just that.
func checkRewritten(t *testing.T, c *Change) {
	for _, ours := range []func(string) int{firstRune, everything} {
		out, _ := plainSplit(c.Envelope(ours))
		if len(out) != 1 {
			t.Fatalf("%q is rewritten to %q", c.raw, c.Envelope(ours))
		}
		if !jsontext.Value(c.raw).IsValid() {
			continue
		}
		var want, got any
		if json.Unmarshal(c.raw, &want) != nil {
			continue // a number that float64 does not hold
		}
		takeOff(want, ours)
		if err := json.Unmarshal(out[0].raw, &got); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("%q is rewritten to %q: %s", c.raw, out[0].raw, diff)
		}
	}
}

// takeOff does to a tree what Envelope does to the bytes.
func takeOff(tree any, ours func(string) int) {
	const name = "biz_opaque_callback_data"
	change, _ := tree.(map[string]any)
	value, _ := change["value"].(map[string]any)
	statuses, _ := value["statuses"].([]any)
	for _, item := range statuses {
		status, _ := item.(map[string]any)
		text, ok := status[name].(string)
		if n := ours(text); ok && n > 0 && n < len(text) {
			status[name] = text[n:]
		} else if ok && n > 0 {
			delete(status, name)
		}
	}
}
