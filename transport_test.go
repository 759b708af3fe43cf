package gateway

import (
	"bytes"
	"context"
	"errors"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"github.com/google/go-cmp/cmp"

	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

// roundTripper answers requests as it is told.
type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

const testBody = `{"to":"x"}`

// testRequest is what the guest hands to its transport.
func testRequest() *http.Request {
	s := testSend(false)
	s.grant.Grant = &tenant.Grant{App: tenant.App{PhoneNumberID: "100"}}
	s.message.body = []byte(testBody)
	x := &exchange{Context: context.Background(), client: context.Background(), send: s, replacer: caddy.NewReplacer()}
	h := &Handler{GraphVersion: defaultGraphVersion}
	return h.metaRequest(x, httptest.NewRequest(http.MethodPost, messagePath, nil))
}

func TestWhatMayBeAtMetaIsNotSentAgain(t *testing.T) {
	broken, notDialled := errors.New("broken"), reverseproxy.DialError{}
	for name, tc := range map[string]struct {
		outcomes []error
		reached  int
	}{
		"an answer":                      {[]error{nil, nil}, 1},
		"a broken connection":            {[]error{broken, nil}, 1},
		"no connection, then one":        {[]error{notDialled, nil, nil}, 2},
		"no connection, then broken one": {[]error{notDialled, broken, nil}, 2},
	} {
		t.Run(name, func(t *testing.T) {
			reached := 0
			transport := &Transport{inner: roundTripper(func(r *http.Request) (*http.Response, error) {
				reached++
				if tc.outcomes[reached-1] == notDialled {
					return nil, notDialled
				}
				if body, err := io.ReadAll(r.Body); err != nil || string(body) != testBody {
					t.Errorf("body %q: %v", body, err)
				}
				return &http.Response{Header: http.Header{}}, tc.outcomes[reached-1]
			})}
			r := testRequest()
			for i := range tc.outcomes {
				if _, err := transport.RoundTrip(r); errors.Is(err, errOnce) != (i >= tc.reached) {
					t.Errorf("attempt %d: %v", i, err)
				}
			}
			if reached != tc.reached {
				t.Errorf("%d attempts were made, want %d", reached, tc.reached)
			}
		})
	}
}

func TestNothingIsLeftToSendBehindTheGuest(t *testing.T) {
	transport := &Transport{inner: roundTripper(func(*http.Request) (*http.Response, error) {
		return &http.Response{Header: http.Header{}}, nil
	})}
	r := testRequest()
	if _, err := transport.RoundTrip(r); err != nil {
		t.Fatal(err)
	}
	if left, err := io.ReadAll(r.Body); err != nil || len(left) > 0 {
		t.Errorf("a handler of the answer could send %d bytes again, %v", len(left), err)
	}
}

func TestTheTokenIsAddedBehindTheLog(t *testing.T) {
	r := testRequest()
	r.Header["Via"] = []string{"1.1 Caddy"}
	before := maps.Clone(r.Header)
	transport := &Transport{inner: roundTripper(func(out *http.Request) (*http.Response, error) {
		want := http.Header{
			"Accept": {"application/json"}, "Content-Type": {"application/json"}, "User-Agent": {userAgent},
			"Authorization": {bearer + testToken},
		}
		if diff := cmp.Diff(want, out.Header); diff != "" {
			t.Error(diff)
		}
		return &http.Response{Header: http.Header{}}, nil
	})}
	if _, err := transport.RoundTrip(r); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, r.Header); diff != "" {
		t.Errorf("the request that is logged has changed: %s", diff)
	}
}

func TestHeadersThatNobodyLogsAreLeftOut(t *testing.T) {
	r := testRequest()
	transport := &Transport{quiet: true, inner: roundTripper(func(out *http.Request) (*http.Response, error) {
		if out.Header.Get("Authorization") == "" || r.Header == nil {
			t.Error("headers are left out before the request is sent")
		}
		return &http.Response{Header: http.Header{}}, nil
	})}
	if _, err := transport.RoundTrip(r); err != nil {
		t.Fatal(err)
	}
	if r.Header != nil {
		t.Errorf("what is logged has the headers %v", r.Header)
	}
}

// A connection that only notes what is written to it.
type writes struct{ pieces [][]byte }

func (w *writes) Write(p []byte) (int, error) {
	w.pieces = append(w.pieces, bytes.Clone(p))
	return len(p), nil
}

func TestHeadersAndBodyGoInOnePieceAndCannotBeRepeated(t *testing.T) {
	r := testRequest()
	// As reverse_proxy does, which net/http could not see through.
	r.Body = struct{ io.ReadCloser }{r.Body}
	transport := &Transport{inner: roundTripper(func(out *http.Request) (*http.Response, error) {
		if out.GetBody != nil {
			t.Error("the body could be sent again")
		}
		out.Host = "meta.example"
		var connection writes
		if err := out.Write(&connection); err != nil {
			t.Error(err)
		}
		if len(connection.pieces) != 1 || !bytes.HasSuffix(connection.pieces[0], []byte("\r\n\r\n"+testBody)) {
			t.Errorf("%d writes: %q", len(connection.pieces), connection.pieces)
		}
		return &http.Response{Header: http.Header{}}, nil
	})}
	if _, err := transport.RoundTrip(r); err != nil {
		t.Fatal(err)
	}
}

func TestWhatIsSetBehindTheStatusIsNoHeader(t *testing.T) {
	w := &recorder{header: make(http.Header)}
	w.Header().Set("X-Fb-Trace-Id", "header")
	w.WriteHeader(http.StatusContinue)
	w.Header().Set("Retry-After", "1")
	w.WriteHeader(http.StatusOK)
	w.Header().Set("X-Fb-Trace-Id", "trailer")
	w.Header().Set("X-App-Usage", "trailer")
	if diff := cmp.Diff(http.Header{"X-Fb-Trace-Id": {"header"}, "Retry-After": {"1"}}, w.header); diff != "" {
		t.Error(diff)
	}
}
