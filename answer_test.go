package gateway

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

const (
	testToken = "EAAGm0PX4ZCpsBO7exampletokenZD"
	testKey   = tenant.Key("pk_0123456789abcdefghijklmnopqrstuvwxyz")
)

func testSend(receipt bool) *send {
	return &send{key: testKey, grant: &openedGrant{authorization: bearer + testToken, token: testToken}, message: message{receipt: receipt}}
}

func answered(status int, body string) *recorder {
	r := &recorder{header: make(http.Header)}
	r.WriteHeader(status)
	_, _ = r.Write([]byte(body))
	return r
}

func intp(n int) *int { return &n }

func TestJudgement(t *testing.T) {
	const ok = `{"messaging_product":"whatsapp","contacts":[{"input":"1","wa_id":"1"}],"messages":[{"id":"wamid.1"}]}`
	for name, tc := range map[string]struct {
		receipt     bool
		status      int
		body        string
		fate        fate
		description string // "": success
		params      *upstreamParams
	}{
		"a message id":              {false, 200, ok, accepted, "", nil},
		"white space around":        {false, 200, "\n" + ok + "\n", accepted, "", nil},
		"user_id and no wa_id":      {false, 200, `{"contacts":[{"input":"US.1","user_id":"US.1"}],"messages":[{"id":"wamid.1","message_status":"accepted"}]}`, accepted, "", nil},
		"a receipt":                 {true, 200, `{"success":true}`, accepted, "", nil},
		"a receipt without success": {true, 200, `{"success":false}`, unknown, metaUnclear, &upstreamParams{Status: 200}},
		"a send with success alone": {false, 200, `{"success":true}`, unknown, metaUnclear, &upstreamParams{Status: 200}},
		"no message":                {false, 200, `{"messages":[]}`, unknown, metaUnclear, &upstreamParams{Status: 200}},
		"an empty id":               {false, 200, `{"messages":[{"id":""}]}`, unknown, metaUnclear, &upstreamParams{Status: 200}},
		"an id, but not 200":        {false, 202, ok, unknown, metaUnclear, &upstreamParams{Status: 202}},
		"HTML":                      {false, 500, `<html><body>Sorry</body></html>`, unknown, metaUnclear, &upstreamParams{Status: 500}},
		"nothing":                   {false, 200, ``, unknown, metaUnclear, &upstreamParams{Status: 200}},
		"half a JSON":               {false, 200, ok[:40], unknown, metaUnclear, &upstreamParams{Status: 200}},
		"a redirect":                {false, 302, ``, unknown, metaUnclear, &upstreamParams{Status: 302}},
		"every member of an error": {
			false, 400, `{"error":{"message":"(#131026) Message undeliverable","type":"OAuthException","code":131026,"error_subcode":2494010,` +
				`"error_data":{"messaging_product":"whatsapp","details":"Not on WhatsApp"},"fbtrace_id":"AbC","is_transient":false}}`,
			refused, "(#131026) Message undeliverable",
			&upstreamParams{Code: intp(131026), Subcode: intp(2494010), Type: "OAuthException", Status: 400, Details: "Not on WhatsApp", TraceID: "AbC", RetrySafe: true},
		},
		"an error with 200":       {false, 200, `{"error":{"message":"no","code":100}}`, refused, "no", &upstreamParams{Code: intp(100), Status: 200, RetrySafe: true}},
		"code 0":                  {false, 401, `{"error":{"message":"no","code":0}}`, refused, "no", &upstreamParams{Code: intp(0), Status: 401, RetrySafe: true}},
		"an error Meta is unsure": {false, 500, `{"error":{"message":"Something went wrong","code":131000}}`, refused, "Something went wrong", &upstreamParams{Code: intp(131000), Status: 500}},
		"a message alone":         {false, 504, `{"error":{"message":"upstream request timeout"}}`, unknown, metaUnclear, &upstreamParams{Status: 504}},
		"a code that is a string": {false, 500, `{"error":{"message":"no","code":"131000"}}`, unknown, metaUnclear, &upstreamParams{Status: 500}},
		"an id and an error":      {false, 200, `{"messages":[{"id":"wamid.1"}],"error":{"message":"no","code":100}}`, accepted, "", nil},
		"no service":              {false, 503, `{"error":{"message":"no","code":131016}}`, refused, "no", &upstreamParams{Code: intp(131016), Status: 503}},
		"members of other types": {
			false, 400, `{"error":{"message":"no","code":100,"error_data":"details","fbtrace_id":7,"error_subcode":"x"}}`,
			refused, "no", &upstreamParams{Code: intp(100), Status: 400, RetrySafe: true},
		},
		"an error that is a string": {false, 400, `{"error":"no"}`, unknown, metaUnclear, &upstreamParams{Status: 400}},
		"an empty error":            {false, 400, `{"error":{}}`, unknown, metaUnclear, &upstreamParams{Status: 400}},
		"letters that HTML escapes": {false, 400, `{"error":{"message":"<a> & b","code":100}}`, refused, "<a> & b", &upstreamParams{Code: intp(100), Status: 400, RetrySafe: true}},
		"the token and the key in it": {
			false, 401, `{"error":{"message":"Malformed token ` + testToken + `","type":"` + string(testKey) + `","code":190,"fbtrace_id":"` + testToken + `","error_data":{"details":"x` + testToken[:12] + `..."}}}`,
			refused, "Malformed token ***", &upstreamParams{Code: intp(190), Type: masked, Status: 401, Details: "x***...", TraceID: masked, RetrySafe: true},
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := testSend(tc.receipt)
			f := s.judge(answered(tc.status, tc.body))
			if s.fate != tc.fate {
				t.Errorf("fate %d, want %d", s.fate, tc.fate)
			}
			if tc.description == "" {
				if f != nil || string(s.answer) != tc.body {
					t.Errorf("failure %v, answer %q", f, s.answer)
				}
				return
			}
			if f == nil || f.problem != upstreamFailed || f.description != tc.description {
				t.Fatalf("failure %+v, want %q", f, tc.description)
			}
			if diff := cmp.Diff(tc.params, f.params); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestCompressedAnswersAreRead(t *testing.T) {
	var body bytes.Buffer
	w := gzip.NewWriter(&body)
	_, _ = w.Write([]byte(`{"messages":[{"id":"wamid.1"}]}`))
	w.Close()
	for _, tc := range []struct {
		coding, body string
		want         fate
	}{
		{"gzip", body.String(), accepted},
		{"GZIP", body.String(), accepted},
		{"identity", `{"messages":[{"id":"wamid.1"}]}`, accepted},
		{"gzip", `{"messages":[{"id":"wamid.1"}]}`, unknown},
		{"gzip", body.String()[:20], unknown},
		{"br", "\x0b", unknown},
	} {
		r := answered(200, tc.body)
		r.header.Set("Content-Encoding", tc.coding)
		s := testSend(false)
		s.judge(r)
		if s.fate != tc.want {
			t.Errorf("%s: fate %d, want %d", tc.coding, s.fate, tc.want)
		}
	}
}

func TestAnswersThatUnpackWithoutEndAreGivenUp(t *testing.T) {
	var body bytes.Buffer
	w := gzip.NewWriter(&body)
	_, _ = w.Write(make([]byte, 8*maxAnswerSize))
	w.Close()
	r := answered(200, body.String())
	r.header.Set("Content-Encoding", "gzip")
	if f := testSend(false).judge(r); f == nil || f.description != metaOversize {
		t.Errorf("failure %+v, want %q", f, metaOversize)
	}
}

func TestMaskTakesOutSecretsAndNothingElse(t *testing.T) {
	s := testSend(false)
	for text, want := range map[string]string{
		"Param task_identifier and risk_assessment, disk_1 EAA": "Param task_identifier and risk_assessment, disk_1 EAA",
		"AbCEAAxyz12345678":                       "AbCEAAxyz12345678",
		"x" + testToken + "y":                     "x***y",
		testToken[:15] + "%" + testToken[16:]:     "***%***",
		"..." + testToken[len(testToken)-12:]:     "...***",
		"EAAanothertokenofmanycharacters, said":   "***, said",
		"sk_" + strings.Repeat("0", 36) + " gone": "*** gone",
		"": "",
	} {
		if got := s.mask(text); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestEveryProblemStandsOnceInTheCatalogue(t *testing.T) {
	seen := make(map[string]bool)
	for _, p := range catalogue {
		if seen[p.code] || p.status < 400 || p.group == "" {
			t.Errorf("%+v", p)
		}
		seen[p.code] = true
	}
}

// FuzzJudge checks that whatever Meta answers, nothing of the request's secrets
// comes out, and that the envelope is valid and true to the fate.
func FuzzJudge(f *testing.F) {
	for _, body := range []string{
		`{"messages":[{"id":"wamid.1"}]}`, `{"success":true}`, `{"error":{"message":"no","code":131026}}`,
		`{"error":{"message":"` + testToken + `","code":190}}`, `{"error":{"message":"` + testToken[:9] + string(testKey) + `"}}`,
		`{"error":{"code":1e3}}`, `{"error":{"message":"\ud800"}}`, `<html>`, ``, `null`, `[]`, `{"error":null,"messages":[{"id":"x"}]}`,
	} {
		f.Add(200, []byte(body))
		f.Add(500, []byte(body))
	}
	f.Fuzz(func(t *testing.T, status int, body []byte) {
		if status < 200 || status > 999 {
			return
		}
		s := testSend(false)
		failure := s.judge(answered(status, string(body)))
		if (failure == nil) != (s.fate == accepted) {
			t.Fatalf("fate %d, failure %v", s.fate, failure)
		}
		w := httptest.NewRecorder()
		if failure == nil {
			_ = s.writeSuccess(w)
		} else {
			_ = failure.write(w)
			for _, secret := range []string{testToken, string(testKey), testToken[:12], string(testKey[:12])} {
				if strings.Contains(w.Body.String(), secret) {
					t.Fatal("a secret came out")
				}
			}
			if p := failure.params.(*upstreamParams); p.RetrySafe && s.fate != refused {
				t.Fatalf("said to be safe to retry with fate %d", s.fate)
			}
		}
		if !json.Valid(w.Body.Bytes()) {
			t.Fatalf("not JSON: %q", w.Body)
		}
	})
}
