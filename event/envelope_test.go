package event

import (
	"encoding/json"
	"strings"
	"testing"
)

const hold = "hold_0123456789abcdefghijklmnop"

// holdPart tells how much of a callback value is the gateway's.
func holdPart(callbackData string) int {
	rest, ok := strings.CutPrefix(callbackData, hold)
	switch {
	case !ok:
		return 0
	case rest == "":
		return len(hold)
	case rest[0] == ':':
		return len(hold) + 1
	}
	return 0
}

// onlyChange splits a body that has one change.
func onlyChange(t *testing.T, body string) *Change {
	t.Helper()
	changes, err := Split([]byte(body))
	if err != nil || len(changes) != 1 {
		t.Fatalf("%d changes, error %v", len(changes), err)
	}
	return &changes[0]
}

func TestEnvelopeHasWhatStoodAroundTheChange(t *testing.T) {
	fits := strings.Repeat("9", maxTime)
	for name, tc := range map[string]struct{ in, want string }{
		"id and time":            {`{"id":"1","time":2,"changes":[ {} ]}`, `{"id":"1","time":2,"changes":[{}]}`},
		"behind the changes":     {`{"changes":[{}],"time" : 2 ,"id" : "1" }`, `{"id":"1","time":2,"changes":[{}]}`},
		"an id that is escaped":  {`{"id":"\u0031","changes":[{}]}`, `{"id":"\u0031","changes":[{}]}`},
		"an id that is a number": {`{"id":1,"changes":[{}]}`, `{"id":1,"changes":[{}]}`},
		"an empty id":            {`{"id":"","changes":[{}]}`, `{"id":"","changes":[{}]}`},
		"no id":                  {`{"time":2,"changes":[{}]}`, `{"time":2,"changes":[{}]}`},
		"an id of another kind":  {`{"id":{},"changes":[{}]}`, `{"changes":[{}]}`},
		"an id that is too long": {`{"id":"` + strings.Repeat("1", maxID+1) + `","changes":[{}]}`, `{"changes":[{}]}`},
		"time as a string":       {`{"id":"1","time":"2","changes":[{}]}`, `{"id":"1","changes":[{}]}`},
		"time without end":       {`{"id":"1","time":` + fits + `9,"changes":[{}]}`, `{"id":"1","changes":[{}]}`},
		"time just fits":         {`{"id":"1","time":` + fits + `,"changes":[{}]}`, `{"id":"1","time":` + fits + `,"changes":[{}]}`},
		"members that are new":   {`{"id":"1","new":{},"changes":[{"new" : 1}]}`, `{"id":"1","changes":[{"new" : 1}]}`},
		"not an object":          {`{"id":"1","changes":[ 7 ]}`, `{"id":"1","changes":[7]}`},
	} {
		c := onlyChange(t, `{"entry":[`+tc.in+`], "object" : "whats\u0061pp"}`)
		if got, want := string(c.Envelope(nil)), `{"object":"whats\u0061pp","entry":[`+tc.want+`]}`; got != want {
			t.Errorf("%s:\n got %s\nwant %s", name, got, want)
		}
	}
}

func TestEachEntryHasItsOwnEnvelope(t *testing.T) {
	changes, err := Split([]byte(`{"object":"x","entry":[{"id":"1","changes":[1,2]},{"id":"0","changes":[]},{"changes":[3],"id":"2","time":5}]}`))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, c := range changes {
		got = append(got, c.WABA+" "+string(c.Envelope(nil)))
	}
	want := `1 {"object":"x","entry":[{"id":"1","changes":[1]}]}
1 {"object":"x","entry":[{"id":"1","changes":[2]}]}
2 {"object":"x","entry":[{"id":"2","time":5,"changes":[3]}]}`
	if all := strings.Join(got, "\n"); all != want {
		t.Errorf("got\n%s\nwant\n%s", all, want)
	}
}

func TestCustomersOwnValueComesBackUntouched(t *testing.T) {
	const (
		bare = `"biz_opaque_callback_data":"` + hold + `"`
		with = `"biz_opaque_callback_data":"` + hold + `:`
		name = `"biz_opaque_callback_data":"`
	)
	escaped := strings.Replace(hold, "_", `\u005f`, 1)
	for title, tc := range map[string]struct{ in, want string }{
		"the only member":               {`[{` + bare + `}]`, `[{}]`},
		"the only one, with space":      {"[{ \n" + bare + "\t}]", "[{ \n\t}]"},
		"first":                         {`[{` + bare + `,"id":"a"}]`, `[{"id":"a"}]`},
		"first, with space":             {`[{ ` + bare + ` , "id" : "a" }]`, `[{  "id" : "a" }]`},
		"in the middle":                 {`[{"id":"a",` + bare + `,"status":"sent"}]`, `[{"id":"a","status":"sent"}]`},
		"in the middle, with space":     {"[{ \"id\" : \"a\" ,\n" + bare + " ,\n\"status\":\"sent\" }]", "[{ \"id\" : \"a\"  ,\n\"status\":\"sent\" }]"},
		"last":                          {`[{"id":"a",` + bare + `}]`, `[{"id":"a"}]`},
		"last, with space":              {`[{"id":"a" , ` + bare + ` }]`, `[{"id":"a"  }]`},
		"behind a comma in a text":      {`[{"id":"a,",` + bare + `}]`, `[{"id":"a,"}]`},
		"space around the colon":        {`[{"biz_opaque_callback_data" : "` + hold + `","id":"a"}]`, `[{"id":"a"}]`},
		"the name escaped":              {`[{"biz\u005fopaque_callback_data":"` + hold + `:own"}]`, `[{"biz\u005fopaque_callback_data":"own"}]`},
		"with an own value":             {`[{` + with + `own","id":"a"}]`, `[{` + name + `own","id":"a"}]`},
		"an own value with space":       {`[{"biz_opaque_callback_data" : "` + hold + `: own " }]`, `[{"biz_opaque_callback_data" : " own " }]`},
		"an own value with escapes":     {`[{` + with + `\"\u00e9\/\\\ud83d\ude00"}]`, `[{` + name + `\"\u00e9\/\\\ud83d\ude00"}]`},
		"an own value with bytes":       {"[{" + with + "\xff\"}]", "[{" + name + "\xff\"}]"},
		"an own value like a hold":      {`[{` + with + hold + `:x"}]`, `[{` + name + hold + `:x"}]`},
		"the hold escaped":              {`[{` + name + escaped + `"}]`, `[{}]`},
		"the hold escaped, own value":   {`[{` + name + escaped + `:\u00e9\"\n"}]`, `[{` + name + `é\"\n"}]`},
		"the separator escaped":         {`[{` + name + hold + `\u003aown"}]`, `[{` + name + `own"}]`},
		"not ours":                      {`[{` + name + `own"}]`, `[{` + name + `own"}]`},
		"an empty value":                {`[{` + name + `"}]`, `[{` + name + `"}]`},
		"not a text":                    {`[{"biz_opaque_callback_data":null},{"biz_opaque_callback_data":["` + hold + `"]}]`, `[{"biz_opaque_callback_data":null},{"biz_opaque_callback_data":["` + hold + `"]}]`},
		"several statuses":              {`[{` + bare + `},{"id":"a"},{` + with + `own"},{` + name + `x"},{"id":"b",` + bare + `}]`, `[{},{"id":"a"},{` + name + `own"},{` + name + `x"},{"id":"b"}]`},
		"a status without message":      {`[{"id":"",` + bare + `}]`, `[{"id":""}]`},
		"twice, nothing else":           {`[{` + bare + `,` + bare + `}]`, `[{}]`},
		"twice in front":                {`[{` + bare + `, ` + bare + `,"id":"a"}]`, `[{ "id":"a"}]`},
		"twice at the end":              {`[{"id":"a",` + bare + `,` + bare + `}]`, `[{"id":"a"}]`},
		"twice around another":          {`[{` + bare + `,"id":"a",` + bare + `}]`, `[{"id":"a"}]`},
		"twice, one with an own value":  {`[{` + bare + `,` + with + `own",` + bare + `}]`, `[{` + name + `own"}]`},
		"the name in another place":     {`[{"conversation":{` + bare + `},"x":"\"` + `biz_opaque_callback_data"}]`, `[{"conversation":{` + bare + `},"x":"\"` + `biz_opaque_callback_data"}]`},
		"the name as somebody's value":  {`[{"x":"biz_opaque_callback_data","id":"` + hold + `"}]`, `[{"x":"biz_opaque_callback_data","id":"` + hold + `"}]`},
		"a long row of other statuses":  {`[` + strings.Repeat(`{"id":"a"},`, 500) + `{` + bare + `}]`, `[` + strings.Repeat(`{"id":"a"},`, 500) + `{}]`},
		"an own value of only a colon":  {`[{` + with + `:"}]`, `[{` + name + `:"}]`},
		"an empty text in front of it":  {`[{"":"",` + bare + `}]`, `[{"":""}]`},
		"an object in front of it":      {`[{"x":{},` + bare + `}]`, `[{"x":{}}]`},
		"space without any other token": {"[ { " + bare + " } ]", "[ {  } ]"},
	} {
		in, want := numberChange("messages", `"statuses":`+tc.in), numberChange("messages", `"statuses":`+tc.want)
		c := onlyChange(t, bodyOf(in))
		if got := string(c.Envelope(holdPart)); got != bodyOf(want) {
			t.Errorf("%s:\n got %s\nwant %s", title, got, bodyOf(want))
		}
		if got := string(c.Envelope(nil)); got != bodyOf(in) {
			t.Errorf("%s, untouched:\n got %s\nwant %s", title, got, bodyOf(in))
		}
	}
}

// What a value says is longer than the value itself where bytes were replaced.
func TestInvalidCallbackValueIsCutWithinItsBounds(t *testing.T) {
	const front = `{"field":"messages","value":{"statuses":[{"biz_opaque_callback_data":"`
	c := onlyChange(t, bodyOf(front+strings.Repeat("\xff", 50)+`"}]}}`))
	got := string(c.Envelope(func(text string) int { return len(text) - len("\ufffd") }))
	if want := bodyOf(front + "\ufffd\"}]}}"); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestAnythingMayBeTakenOffACallbackValue(t *testing.T) {
	const in = `{"statuses":[{"id":"a","biz_opaque_callback_data":"\\\\x\"é"}]}`
	for n, want := range map[int]string{
		-1: `"\\\\x\"é"`, 0: `"\\\\x\"é"`, 1: `"\\x\"é"`, 2: `"x\"é"`, 3: `"\"é"`, 4: `"é"`, 6: ``, 100: ``,
	} {
		c := onlyChange(t, bodyOf(`{"field":"messages","value":`+in+`}`))
		out := c.Envelope(func(string) int { return n })
		var got struct {
			Entry []struct {
				Changes []struct {
					Value struct{ Statuses []map[string]json.RawMessage }
				}
			}
		}
		if err := json.Unmarshal(out, &got); err != nil {
			t.Fatalf("%d off: %v", n, err)
		}
		if value := string(got.Entry[0].Changes[0].Value.Statuses[0]["biz_opaque_callback_data"]); value != want {
			t.Errorf("%d off: %s, want %s", n, value, want)
		}
	}
}
