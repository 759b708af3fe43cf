package gateway

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"unicode/utf8"

	"github.com/connexease/caddy-whatsapp-gateway/store"
)

const testHold = store.HoldID("hold_0123456789abcdefghijklmnop")

// object with the required fields and, in front of them, what is given.
func bodyWith(members string) string {
	return `{` + members + `"messaging_product":"whatsapp","to":"x","type":"text","text":{"body":"y"}}`
}

func nested(levels int) string {
	return strings.Repeat("[", levels) + strings.Repeat("]", levels)
}

func TestBodiesThatAreForwarded(t *testing.T) {
	for name, tc := range map[string]struct {
		body    string
		receipt bool
	}{
		"a send":                               {bodyWith(``), false},
		"white space all around":               {" \r\n\t" + bodyWith(``) + "\n ", false},
		"a recipient in place of to":           {`{"messaging_product":"whatsapp","recipient":"US.1","type":"text"}`, false},
		"a read receipt":                       {`{"messaging_product":"whatsapp","status":"read","message_id":"wamid.1"}`, true},
		"a typing indicator":                   {`{"messaging_product":"whatsapp","status":"read","message_id":"wamid.1","typing_indicator":{"type":"text"}}`, true},
		"escaped names and values":             {`{"messaging\u005fproduct":"whats\u0061pp","\u0074o":"x","type":"text"}`, false},
		"another status is Meta's to judge":    {bodyWith(`"status":"sent",`), false},
		"a number as recipient":                {`{"messaging_product":"whatsapp","to":4915,"type":"text"}`, false},
		"huge numbers elsewhere":               {bodyWith(`"n":1e999999,"m":-123456789012345678901234567890,`), false},
		"duplicates in what is not read":       {bodyWith(`"text":1,"context":{"a":1,"a":2},`), false},
		"as deep as allowed":                   {bodyWith(`"deep":` + nested(maxNesting-1) + `,`), false},
		"brackets and quotes in a string":      {bodyWith(`"s":"` + strings.Repeat(`[{\"\\`, 50) + `",`), false},
		"names that only resemble":             {bodyWith(`"tos":1,"t o":2,"":3,"method_":4,`), false},
		"the name of a field, deeper":          {bodyWith(`"x":{"to":1,"to":2,"TO":3,"access_token":4},`), false},
		"null where nothing is required":       {bodyWith(`"status":null,"recipient":null,`), false},
		"escapes of every kind in the opaque":  {bodyWith(`"biz_opaque_callback_data":"\ud83d\ude00\"\\\/\b",`), false},
		"an opaque value that is not a string": {bodyWith(`"biz_opaque_callback_data":7,`), false},
	} {
		m, err := parseMessage([]byte(tc.body))
		if err != nil || m.receipt != tc.receipt {
			t.Errorf("%s: receipt %v, error %v", name, m.receipt, err)
		}
	}
}

func TestBodiesThatAreRefused(t *testing.T) {
	for name, tc := range map[string]struct{ body, want string }{
		"nothing":                 {``, "must be one JSON object"},
		"white space":             {" \n", "must be one JSON object"},
		"an array":                {`[` + bodyWith(``) + `]`, "must be one JSON object"},
		"a string":                {`"whatsapp"`, "must be one JSON object"},
		"null":                    {`null`, "must be one JSON object"},
		"a byte order mark":       {"\ufeff" + bodyWith(``), "must be one JSON object"},
		"text":                    {`to=1&type=text`, "must be one JSON object"},
		"cut off":                 {`{"to":"x"`, "not valid JSON"},
		"a comma too many":        {`{"to":"x",}`, "not valid JSON"},
		"a name without quotes":   {`{to:"x"}`, "not valid JSON"},
		"invalid UTF-8":           {bodyWith("\"a\":\"\xff\","), "not valid JSON"},
		"half a surrogate":        {bodyWith(`"a":"\ud800",`), "not valid JSON"},
		"a control character":     {bodyWith("\"a\":\"\x01\","), "not valid JSON"},
		"something behind it":     {bodyWith(``) + `{}`, "nothing behind it"},
		"too deep":                {bodyWith(`"deep":` + nested(maxNesting) + `,`), "nested more than 32"},
		"far too deep":            {bodyWith(`"deep":` + nested(20_000) + `,`), ""},
		"a field twice":           {bodyWith(`"to":"z",`), `"to" stands twice`},
		"a field twice, escaped":  {bodyWith(`"t\u006f":"z",`), `"to" stands twice`},
		"null and then a value":   {bodyWith(`"type":null,`), `"type" stands twice`},
		"another letter case":     {bodyWith(`"To":"z",`), `"to" must be written in lower case`},
		"a letter that folds":     {bodyWith("\"\u017ftatus\":\"read\","), `"status" must be written in lower case`},
		"a parameter of Graph's":  {bodyWith(`"access_token":"z",`), `"access_token" is not allowed`},
		"one in another case":     {bodyWith(`"Method":"DELETE",`), "lower case"},
		"another product":         {`{"messaging_product":"sms","to":"x","type":"text"}`, `must be "whatsapp"`},
		"no product":              {`{"to":"x","type":"text"}`, `"messaging_product" is missing`},
		"no recipient":            {`{"messaging_product":"whatsapp","type":"text"}`, `"to" or "recipient" is missing`},
		"an empty recipient":      {`{"messaging_product":"whatsapp","to":"","type":"text"}`, `"to" or "recipient" is missing`},
		"no type":                 {`{"messaging_product":"whatsapp","to":"x"}`, `"type" is missing`},
		"a receipt of nothing":    {`{"messaging_product":"whatsapp","status":"read"}`, `"message_id" is missing`},
		"a receipt and a message": {bodyWith(`"status":"read","message_id":"wamid.1",`), `"read" goes with "message_id" alone`},
	} {
		_, err := parseMessage([]byte(tc.body))
		if _, ok := err.(sentence); !ok || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q", name, err, tc.want)
		}
	}
}

func TestHoldIDTravelsInFrontOfTheCustomersOwnValue(t *testing.T) {
	prefix := string(testHold) + holdSeparator
	room := maxOpaque - len(prefix)
	for name, tc := range map[string]struct{ in, want string }{
		"absent":                 {`{"to":"x" }`, `{"to":"x" ,"biz_opaque_callback_data":"` + string(testHold) + `"}`},
		"null":                   {`{"biz_opaque_callback_data": null ,"to":"x"}`, `{"biz_opaque_callback_data": "` + string(testHold) + `" ,"to":"x"}`},
		"a text":                 {`{"biz_opaque_callback_data" : "own","to":"x"}`, `{"biz_opaque_callback_data" : "` + prefix + `own","to":"x"}`},
		"an empty text":          {`{"biz_opaque_callback_data":""}`, `{"biz_opaque_callback_data":"` + prefix + `"}`},
		"escapes":                {`{"biz_opaque_callback_data":"\"\u00e9"}`, `{"biz_opaque_callback_data":"` + prefix + `\"\u00e9"}`},
		"a number":               {`{"biz_opaque_callback_data":1}`, `{"biz_opaque_callback_data":1}`},
		"just fits":              {`{"biz_opaque_callback_data":"` + strings.Repeat("é", room) + `"}`, `{"biz_opaque_callback_data":"` + prefix + strings.Repeat("é", room) + `"}`},
		"does not fit":           {`{"biz_opaque_callback_data":"` + strings.Repeat("é", room+1) + `"}`, `{"biz_opaque_callback_data":"` + strings.Repeat("é", room+1) + `"}`},
		"the name in a string":   {`{"a":"\"biz_opaque_callback_data\":1"}`, `{"a":"\"biz_opaque_callback_data\":1","biz_opaque_callback_data":"` + string(testHold) + `"}`},
		"the name escaped":       {`{"biz_opaque_callback_dat\u0061":"own"}`, `{"biz_opaque_callback_dat\u0061":"` + prefix + `own"}`},
		"a brace behind a value": {`{"a":"}"}`, `{"a":"}","biz_opaque_callback_data":"` + string(testHold) + `"}`},
	} {
		m, _ := parseMessage([]byte(tc.in)) // the required fields are left out for brevity
		if got := string(m.withHold(testHold)); got != tc.want {
			t.Errorf("%s:\n got %s\nwant %s", name, got, tc.want)
		}
	}
}

// FuzzParseMessage checks what is let through against encoding/json: it is one
// object, means the same with the hold's id in it, and only differs in that.
func FuzzParseMessage(f *testing.F) {
	for _, body := range []string{
		bodyWith(``), bodyWith(`"biz_opaque_callback_data":"own",`), bodyWith(`"biz_opaque_callback_data":null,`),
		bodyWith(`"biz_opaque_callback_data":7,`), bodyWith(`"deep":` + nested(31) + `,`), bodyWith(`"To":1,`), bodyWith(`"n":1e999,`),
		`{"messaging_product":"whatsapp","status":"read","message_id":"wamid.1"}`, `{`, `[]`, "{\"a\":\"\xff\"}", `{"a":"\ud800"}`, `{"a":"\"}"} `,
	} {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		before := bytes.Clone(body)
		m, err := parseMessage(body)
		if !bytes.Equal(body, before) {
			t.Fatal("parsing changed the body")
		}
		if err != nil {
			if description := err.Error(); !utf8.ValidString(description) || len(description) > 200 {
				t.Fatalf("not a sentence for a client: %q", description)
			}
			return
		}
		var plain map[string]json.RawMessage
		if err := json.Unmarshal(body, &plain); err != nil {
			t.Fatalf("let through, and yet: %v", err)
		}
		if m.receipt {
			return
		}
		if err := checkHoldAdded(plain, m.withHold(testHold)); err != nil {
			t.Fatal(err)
		}
	})
}

// checkHoldAdded checks that changed is the object plain but for the hold's id.
func checkHoldAdded(plain map[string]json.RawMessage, changed []byte) error {
	const name = "biz_opaque_callback_data"
	var after map[string]json.RawMessage
	if err := json.Unmarshal(changed, &after); err != nil {
		return fmt.Errorf("no JSON any more: %w", err)
	}
	var own, sent string
	had := json.Unmarshal(plain[name], &own) == nil && string(plain[name]) != "null"
	switch json.Unmarshal(after[name], &sent); {
	case had && sent == own, len(plain[name]) > 0 && !had && string(plain[name]) != "null":
		if utf8.RuneCountInString(own)+len(testHold)+1 <= maxOpaque && had {
			return fmt.Errorf("no hold id in front of a value with room for it")
		}
	case had && sent != string(testHold)+holdSeparator+own, !had && sent != string(testHold):
		return fmt.Errorf("%d characters sent for %d", len(sent), len(own))
	}
	delete(plain, name)
	delete(after, name)
	if len(plain) != len(after) {
		return fmt.Errorf("%d other members, of %d", len(after), len(plain))
	}
	for key, value := range plain {
		if !bytes.Equal(value, after[key]) {
			return fmt.Errorf("another member has changed")
		}
	}
	return nil
}

func BenchmarkParseMessage(b *testing.B) {
	for name, body := range map[string]string{
		"300B":  bodyWith(`"context":{"message_id":"` + strings.Repeat("m", 200) + `"},`),
		"60KiB": bodyWith(`"context":{"message_id":"` + strings.Repeat("m", 60<<10) + `"},`),
	} {
		b.Run(name, func(b *testing.B) {
			text := slices.Grow([]byte(body), spareRoom)
			b.ReportAllocs()
			for b.Loop() {
				copy(text, body) // the hold's id was put into it
				m, err := parseMessage(text)
				if err != nil {
					b.Fatal(err)
				}
				m.withHold(testHold)
			}
		})
	}
}

// What Meta gives back in a status is what it got.
func FuzzHoldComesBackInFrontOfTheCustomersOwn(f *testing.F) {
	for _, own := range []string{"", "own", "héllo \"\\\n", strings.Repeat("x", 480), strings.Repeat("é", 481), "hold_06h06un2e5o9n80r4fosomi78c:x"} {
		f.Add(own)
	}
	f.Fuzz(func(t *testing.T, own string) {
		own = strings.ToValidUTF8(own, "")
		text, err := json.Marshal(own)
		if err != nil {
			t.Fatal(err)
		}
		m, err := parseMessage([]byte(`{"messaging_product":"whatsapp","to":"1","type":"text","biz_opaque_callback_data":` + string(text) + `}`))
		if err != nil {
			t.Fatal(err)
		}
		id := store.NewHoldID()
		var sent struct {
			CallbackData string `json:"biz_opaque_callback_data"`
		}
		if err := json.Unmarshal(m.withHold(id), &sent); err != nil {
			t.Fatal(err)
		}
		if utf8.RuneCountInString(sent.CallbackData) > maxOpaque && sent.CallbackData != own {
			t.Fatal("what is sent is too long for Meta")
		}
		got, length := splitHold(sent.CallbackData)
		if sent.CallbackData == own {
			if utf8.RuneCountInString(own)+len(id)+len(holdSeparator) <= maxOpaque {
				t.Error("there is room for the hold, and it is not there")
			}
			return
		}
		if got != id || sent.CallbackData[length:] != own {
			t.Errorf("the hold comes back as %q with %d bytes of the customer's", got, len(sent.CallbackData)-length)
		}
	})
}

func TestWhatOnlyLooksLikeAHoldIsTheCustomersOwn(t *testing.T) {
	id := string(store.NewHoldID())
	for _, own := range []string{"", "hold_", id[:len(id)-1], id + "x", strings.ToUpper(id), "x" + id, strings.Replace(id, "_", "-", 1), id[:len(id)-1] + "w", id[:len(id)-1] + ":"} {
		if got, length := splitHold(own); got != "" || length != 0 {
			t.Errorf("%q is taken for the hold %q", own, got)
		}
	}
}

func TestSignatureHeader(t *testing.T) {
	digits := strings.Repeat("0aF", 21) + "9"
	for header, want := range map[string]bool{
		"sha256=" + digits: true, digits: false, "sha1=" + digits: false, "SHA256=" + digits: false, "sha256=": false,
		"sha256=" + digits[1:]: false, "sha256=" + digits + "00": false, "sha256=" + digits[:63] + "g": false, "sha256= " + digits[1:]: false,
	} {
		if signature, ok := parseSignature(header); ok != want || ok && hex.EncodeToString(signature) != strings.ToLower(digits) {
			t.Errorf("a header of %d characters is a signature: %v", len(header), ok)
		}
	}
}

func FuzzSigned(f *testing.F) {
	f.Add([]byte("{}"), "secret", "other")
	f.Fuzz(func(t *testing.T, body []byte, secret, other string) {
		a := &App{MetaAppSecrets: []string{"first", secret}}
		sign := func(secret string) []byte {
			mac := hmac.New(sha256.New, []byte(secret))
			mac.Write(body)
			return mac.Sum(nil)
		}
		if !a.signed(body, sign(secret)) {
			t.Error("a genuine webhook is refused")
		}
		// HMAC pads keys with zeros, so those that differ in nothing else are one key.
		if strings.TrimRight(other, "\x00") != strings.TrimRight(secret, "\x00") && other != "first" && len(other) <= 64 && len(secret) <= 64 &&
			strings.TrimRight(other, "\x00") != "first" && a.signed(body, sign(other)) {
			t.Error("a forged webhook is taken")
		}
		changed := append([]byte{' '}, body...)
		if a.signed(changed, sign(secret)) {
			t.Error("a webhook is taken that was changed")
		}
	})
}

func TestReadBody(t *testing.T) {
	for name, tc := range map[string]struct {
		size, announced int
		limit           int64
		want            string // the code; "": none
	}{
		"nothing":                    {0, 0, 100, ""},
		"a usual one":                {300, 300, 1000, ""},
		"one of unknown length":      {300, -1, 1000, ""},
		"a large one":                {60 << 10, 60 << 10, 128 << 10, ""},
		"a large one without length": {60 << 10, -1, 128 << 10, ""},
		"as large as can be":         {maxBodySize, maxBodySize, maxBodySize, ""},
		"at the limit":               {1000, 1000, 1000, ""},
		"at the limit, unannounced":  {1000, -1, 1000, ""},
		"announced over the limit":   {1001, 1001, 1000, "REQ_002"},
		"over the limit":             {1001, -1, 1000, "REQ_002"},
		"far over the limit":         {1 << 20, -1, 1000, "REQ_002"},
	} {
		content := bytes.Repeat([]byte("0123456789abcde"), tc.size/15+1)[:tc.size]
		for _, reader := range []io.Reader{bytes.NewReader(content), iotest.HalfReader(bytes.NewReader(content)), iotest.DataErrReader(bytes.NewReader(content))} {
			r := httptest.NewRequest(http.MethodPost, messagePath, io.NopCloser(reader))
			r.ContentLength = int64(tc.announced)
			body, refusal := readBody(httptest.NewRecorder(), r, tc.limit, bodyTimeout)
			switch {
			case tc.want != "" && (refusal == nil || refusal.code != tc.want):
				t.Errorf("%s: %+v, want %s", name, refusal, tc.want)
			case tc.want == "" && (refusal != nil || !bytes.Equal(body, content)):
				t.Errorf("%s: %d bytes, want %d: %+v", name, len(body), tc.size, refusal)
			case tc.want == "" && cap(body) > 2*tc.size+maxFirstRead+2*spareRoom:
				t.Errorf("%s: %d bytes take the memory of %d", name, tc.size, cap(body))
			}
		}
	}
}

func TestABodyIsNotGivenTheMemoryThatItAnnounces(t *testing.T) {
	r := httptest.NewRequest(http.MethodPost, messagePath, nil)
	r.ContentLength = maxBodySize
	reached := 0
	r.Body = io.NopCloser(readerFunc(func(p []byte) (int, error) {
		if reached++; len(p) > maxFirstRead+2*spareRoom {
			t.Errorf("room for %d bytes before any has come", len(p))
		}
		return 0, io.ErrUnexpectedEOF
	}))
	if _, refusal := readBody(httptest.NewRecorder(), r, maxBodySize, bodyTimeout); refusal == nil || refusal.code != "REQ_001" || reached != 1 {
		t.Errorf("%+v after %d reads", refusal, reached)
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }
