package event

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

func TestBodiesThatAreRefused(t *testing.T) {
	const change = `{"field":"messages"}`
	entry := func(members string) string { return `{"object":"x","entry":[{` + members + `}]}` }
	for name, tc := range map[string]struct {
		body string
		want refusal
	}{
		"nothing":                    {``, errNotJSON},
		"white space":                {" \n", errNotJSON},
		"a form":                     {`object=x&entry=1`, errNotJSON},
		"a byte order mark":          {"\ufeff" + bodyOf(change), errNotJSON},
		"cut off":                    {strings.TrimSuffix(bodyOf(change), `}`), errNotJSON},
		"cut off in a change":        {`{"object":"x","entry":[{"changes":[{"field":"mess`, errNotJSON},
		"a comma too many":           {`{"object":"x","entry":[{"changes":[{},]}]}`, errNotJSON},
		"no comma":                   {`{"object":"x","entry":[{"changes":[{}{}]}]}`, errNotJSON},
		"a word that is none":        {`{"object":"x","entry":[{"changes":[nil]}]}`, errNotJSON},
		"brackets that do not match": {`{"object":"x","entry":[{"changes":[{}}]}]`, errNotJSON},
		"far too deep":               {bodyOf(strings.Repeat("[", 20_000) + strings.Repeat("]", 20_000)), errNotJSON},
		"an array":                   {`[` + bodyOf(change) + `]`, errNotObject},
		"a string":                   {`"whatsapp"`, errNotObject},
		"null":                       {`null`, errNotObject},
		"two objects":                {bodyOf(change) + bodyOf(change), errTrailing},
		"something behind it":        {bodyOf(change) + " x", errTrailing},
		"an empty object":            {`{}`, errObject},
		"no object":                  {`{"entry":[{"changes":[{}]}]}`, errObject},
		"object in another case":     {`{"Object":"x","entry":[{"changes":[{}]}]}`, errObject},
		"object not a string":        {`{"object":1,"entry":[{"changes":[{}]}]}`, errObject},
		"object too long":            {`{"object":"` + strings.Repeat("x", maxObject) + `","entry":[{"changes":[{}]}]}`, errObject},
		"object twice":               {`{"object":"x","entry":[{"changes":[{}]}],"obj\u0065ct":"y"}`, errTwiceObject},
		"no entry":                   {`{"object":"x"}`, errEntry},
		"entry not an array":         {`{"object":"x","entry":{"changes":[{}]}}`, errEntry},
		"entry null":                 {`{"object":"x","entry":null}`, errEntry},
		"entry empty":                {`{"object":"x","entry":[ ]}`, errEntry},
		"entry twice":                {`{"object":"x","entry":[{"changes":[{}]}],"entry":[]}`, errTwiceEntry},
		"an entry not an object":     {`{"object":"x","entry":[{"changes":[{}]},7]}`, errEntryObject},
		"an entry null":              {`{"object":"x","entry":[null]}`, errEntryObject},
		"no changes":                 {entry(`"id":"1"`), errChanges},
		"a messaging entry":          {entry(`"id":"1","messaging":[{"sender":{"id":"1"}}]`), errChanges},
		"changes not an array":       {entry(`"changes":{"0":{}}`), errChanges},
		"changes null":               {entry(`"changes":null`), errChanges},
		"no change in any":           {entry(`"id":"1","changes":[]`), errNoChange},
		"id twice":                   {entry(`"id":"1","changes":[{}],"id":"1"`), errTwiceID},
		"time twice":                 {entry(`"time":1,"time":1,"changes":[{}]`), errTwiceTime},
		"changes twice":              {entry(`"changes":[{}],"changes":[]`), errTwiceChanges},
		"too many changes":           {entry(`"changes":[` + strings.Repeat(`{},`, maxChanges) + `{}]`), errTooMany},
		"too many, of many entries":  {`{"object":"x","entry":[` + strings.Repeat(`{"changes":[{}]},`, maxChanges) + `{"changes":[{}]}]}`, errTooMany},
	} {
		if got, err := Split([]byte(tc.body)); err != tc.want || got != nil {
			t.Errorf("%s: %v with %d changes, want %v", name, err, len(got), tc.want)
		}
	}
}

func TestBodiesThatAreSplit(t *testing.T) {
	for name, tc := range map[string]struct {
		body string
		want int
	}{
		"as many as allowed":             {bodyOf(strings.Repeat(`{},`, maxChanges-1) + `{}`), maxChanges},
		"members that are new":           {`{"new":{"entry":1},"object":"x","entry":[{"new":[{}],"changes":[{}]}],"new":1}`, 1},
		"members in another order":       {`{"entry":[{"changes":[{}],"time":1,"id":"1"}],"object":"x"}`, 1},
		"white space":                    {" {\r\n\t\"object\" : \"x\" , \"entry\" : [ { \"changes\" : [ { } , 1 ] } ] } \n", 2},
		"an entry without changes":       {`{"object":"x","entry":[{"changes":[]},{"changes":[{}]},{"changes":[]}]}`, 1},
		"object as long as allowed":      {`{"object":"` + strings.Repeat("x", maxObject-2) + `","entry":[{"changes":[{}]}]}`, 1},
		"duplicates and bytes in values": {bodyOf("{\"a\":1,\"a\":2,\"value\":{\"\xff\":\"\xff\",\"\xff\":\"\\ud800\"}}"), 1},
		"a number with an exponent":      {`{"object":"x","entry":[{"time":1e400,"changes":[1e999]}]}`, 1},
	} {
		if got, err := Split([]byte(tc.body)); err != nil || len(got) != tc.want {
			t.Errorf("%s: %d changes, error %v", name, len(got), err)
		}
	}
}

// randomBatch is a body of Meta's and what it says.
type randomBatch struct {
	*rand.Rand
	want []randomChange
}

type randomChange struct {
	raw, waba, number, field string
	event                    tenant.Event
	// state is that of the change's one status, where it has any.
	state string
}

// space returns white space, or none.
func (r *randomBatch) space() string {
	return []string{"", "", "", " ", "\n", "\t\t", " \r\n "}[r.IntN(7)]
}

// join puts items between brackets, with white space wherever it may be.
func (r *randomBatch) join(open, shut string, items []string) string {
	var text strings.Builder
	text.WriteString(open + r.space())
	for i, item := range items {
		if i > 0 {
			text.WriteString(r.space() + "," + r.space())
		}
		text.WriteString(item)
	}
	return text.String() + r.space() + shut
}

// object puts members, of alternating names and values, into an object, in any order.
func (r *randomBatch) object(members ...string) string {
	var items []string
	for i := 0; i < len(members); i += 2 {
		items = append(items, fmt.Sprintf("%q%s:%s%s", members[i], r.space(), r.space(), members[i+1]))
	}
	r.Shuffle(len(items), func(i, j int) { items[i], items[j] = items[j], items[i] })
	return r.join("{", "}", items)
}

// change makes up a change and notes what it is.
func (r *randomBatch) change(waba string) string {
	c := randomChange{waba: waba, number: fmt.Sprint(100 + r.IntN(5))}
	meta := r.object("display_phone_number", `"1"`, "phone_number_id", `"`+c.number+`"`)
	noise := fmt.Sprintf(`"%d ]},{\"entry\":[{ é\ud83d\ude00"`, r.Int())
	var value string
	switch kind := r.IntN(4); kind {
	case 0:
		c.field, c.event = "messages", tenant.EventMessages
		value = r.object("metadata", meta, "messages", r.join("[", "]", []string{r.object("text", noise), r.object()}))
	case 1, 2:
		c.field, c.event, c.state = "messages", tenant.EventMessageStatus, "delivered"
		if kind == 2 {
			c.event, c.state = tenant.EventRead, "read"
		}
		status := r.object("id", `"wamid.1"`, "status", `"`+c.state+`"`, "biz_opaque_callback_data", noise, "new", r.object("id", noise))
		value = r.object("metadata", meta, "statuses", r.join("[", "]", []string{status}))
	default:
		c.field, c.event, c.number = "template_category_update", tenant.EventTemplateStatus, ""
		value = r.object("message_template_name", noise)
	}
	c.raw = r.object("value", value, "field", `"`+c.field+`"`)
	r.want = append(r.want, c)
	return c.raw
}

// body makes up a body with up to most changes.
func (r *randomBatch) body(most int) string {
	var entries []string
	for left := 1 + r.IntN(most); left > 0; {
		waba, n := fmt.Sprint(1000+r.IntN(3)), r.IntN(left+1)
		changes := make([]string, n)
		for i := range changes {
			changes[i] = r.change(waba)
		}
		entries = append(entries, r.object("id", `"`+waba+`"`, "time", "1755000000", "changes", r.join("[", "]", changes)))
		left -= max(n, 1)
	}
	return r.space() + r.object("object", `"whatsapp_business_account"`, "entry", r.join("[", "]", entries)) + r.space()
}

func TestRandomBatchesComeApartAsTheyWerePutTogether(t *testing.T) {
	for seed := range uint64(300) {
		r := randomBatch{Rand: rand.New(rand.NewPCG(seed, 1))}
		body := r.body(40)
		got, err := Split([]byte(body))
		if len(r.want) == 0 {
			if err != errNoChange {
				t.Fatalf("seed %d: no changes, error %v", seed, err)
			}
			continue
		}
		if err != nil || len(got) != len(r.want) {
			t.Fatalf("seed %d: %d changes, error %v, want %d", seed, len(got), err, len(r.want))
		}
		for i, want := range r.want {
			c := got[i]
			same := string(c.raw) == want.raw && c.WABA == want.waba && c.PhoneNumberID == want.number &&
				c.Field == want.field && c.Problem == "" && len(c.Events) == 1 && c.Events[0] == want.event
			if want.state != "" {
				same = same && len(c.Statuses) == 1 && c.Statuses[0].State == want.state && c.Statuses[0].MessageID == "wamid.1"
			}
			if !same {
				t.Fatalf("seed %d: change %d is %+v, want %+v", seed, i, c, want)
			}
			envelope := `{"object":"whatsapp_business_account","entry":[{"id":"` + want.waba + `","time":1755000000,"changes":[` + want.raw + `]}]}`
			if out := c.Envelope(nil); string(out) != envelope || !json.Valid(out) {
				t.Fatalf("seed %d: change %d goes out as\n%s, want\n%s", seed, i, out, envelope)
			}
		}
	}
}
