package caddytest

import (
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
)

// messagePath is where messages are sent.
const messagePath = "/v1/wa/message"

// answer is the gateway's answer to one request.
type answer struct {
	status int
	header http.Header
	body   string
	envelope
}

// envelope is the JSON of every answer of the gateway.
type envelope struct {
	IsSuccess bool            `json:"isSuccess"`
	Data      json.RawMessage `json:"data"`
	Errors    problem         `json:"errors"`
}

// problem is the error of an envelope; it is empty in a success.
type problem struct {
	Code        string         `json:"code"`
	Group       string         `json:"group"`
	Description string         `json:"description"`
	Params      map[string]any `json:"params"`
}

// messageID is Meta's id of a message that was sent, or "".
func (a answer) messageID() string {
	var data struct {
		Messages []struct{ ID string }
	}
	if json.Unmarshal(a.Data, &data) != nil || len(data.Messages) == 0 {
		return ""
	}
	return data.Messages[0].ID
}

// send posts a message with key and returns the answer. query has pairs such as
// "is_fake=true". Whatever holds for every answer of the gateway is checked.
func (g *gateway) send(t testing.TB, key, body string, query ...string) answer {
	t.Helper()
	return g.sendTo(t, messagePath, key, body, query...)
}

// sendTo is send for another path, where a handle_path leads to a gateway of its own.
func (g *gateway) sendTo(t testing.TB, path, key, body string, query ...string) answer {
	t.Helper()
	a, err := g.trySend(t, path, key, body, query...)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// trySend is sendTo for a connection that may break.
func (g *gateway) trySend(t testing.TB, path, key, body string, query ...string) (answer, error) {
	t.Helper()
	req := g.request(t, http.MethodPost, path, body)
	req.URL.RawQuery = strings.Join(query, "&")
	req.Header.Set("Authorization", "Bearer "+key)
	return g.tryDo(t, req)
}

// request is a request to the gateway that a test may change before it is sent.
func (g *gateway) request(t testing.TB, method, path, body string) *http.Request {
	t.Helper()
	u := &url.URL{Scheme: "http", Host: g.site, Path: path}
	req, err := http.NewRequestWithContext(t.Context(), method, u.String(), strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	return req
}

// do sends a request that the gateway itself answers.
func (g *gateway) do(t testing.TB, req *http.Request) answer {
	t.Helper()
	a, err := g.tryDo(t, req)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func (g *gateway) tryDo(t testing.TB, req *http.Request) (answer, error) {
	t.Helper()
	response, err := g.client.Do(req)
	if err != nil {
		return answer{}, err
	}
	a, err := readAnswer(response)
	if err == nil {
		g.check(t, &a)
	}
	return a, err
}

// readAnswer reads a response as it is, and checks nothing.
func readAnswer(response *http.Response) (answer, error) {
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return answer{status: response.StatusCode, header: response.Header, body: string(body)}, err
}

var requestID = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`)

// check checks what holds for every answer of the gateway, and decodes it.
func (g *gateway) check(t testing.TB, a *answer) {
	t.Helper()
	if err := json.Unmarshal([]byte(a.body), &a.envelope); err != nil {
		t.Errorf("status %d with a body that is not JSON: %v", a.status, err)
	}
	if got := a.header.Get("Content-Type"); got != "application/json; charset=utf-8" {
		t.Errorf("Content-Type %q", got)
	}
	if id := a.header.Values("X-Request-Id"); len(id) != 1 || !requestID.MatchString(id[0]) {
		t.Errorf("X-Request-Id %q", id)
	}
	challenge := a.header.Get("WWW-Authenticate")
	if want := map[bool]string{true: "Bearer"}[a.status == http.StatusUnauthorized]; challenge != want {
		t.Errorf("status %d with WWW-Authenticate %q", a.status, challenge)
	}
	if a.IsSuccess != (a.status == http.StatusOK) || a.IsSuccess != (a.Errors.Code == "") {
		t.Errorf("status %d with isSuccess %v and code %q", a.status, a.IsSuccess, a.Errors.Code)
	}
	var header strings.Builder
	_ = a.header.Write(&header)
	if kind := g.inAnswer(header.String() + a.body); kind != "" {
		t.Errorf("a %s is in the answer: %s", kind, g.masked(header.String()+a.body))
	}
}
