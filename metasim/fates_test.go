package metasim

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"go/parser"
	"go/token"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/google/go-cmp/cmp"
)

func TestFateIsChosenByTheLastFourDigits(t *testing.T) {
	for address, digits := range map[string]string{
		"15550101026":             "1026",
		"+1 (555) 010-10 26":      "1026",
		"US.13491208655302741026": "1026",
		"1026":                    "1026",
		"026":                     "0000",
		"15550104477":             "0000",
		"no digits":               "0000",
		"":                        "0000",
	} {
		if got := fateOf(address).digits; got != digits {
			t.Errorf("%q has fate %s, want %s", address, got, digits)
		}
	}
}

func TestDocumentationListsTheFates(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "metasim.go", nil, parser.ParseComments|parser.PackageClauseOnly)
	if err != nil {
		t.Fatal(err)
	}
	var listed []string
	for line := range strings.Lines(file.Doc.Text()) {
		if line = strings.TrimSpace(line); len(line) > 6 && len(onlyDigits(line[:4])) == 4 && line[4:6] == "  " {
			listed = append(listed, line)
		}
	}
	var want []string
	for _, f := range fates {
		outcome := "refused"
		if f.accepted {
			outcome = "accepted"
		}
		want = append(want, fmt.Sprintf("%s  %-8s  %s", f.digits, outcome, f.meaning))
	}
	if diff := cmp.Diff(want, listed); diff != "" {
		t.Error(diff)
	}
	if len(fateByDigits) != len(fates) {
		t.Error("two fates have the same digits")
	}
}

func TestErrorsOfMeta(t *testing.T) {
	for _, test := range []struct {
		digits string
		status int
		want   string
	}{
		{"0429", 429, `{"error":{"message":"(#130429) Rate limit hit","type":"OAuthException","code":130429,"error_data":{"messaging_product":"whatsapp","details":"Cloud API message throughput has been reached."}}}`},
		{"1016", 500, `{"error":{"message":"(#131016) Service unavailable","type":"OAuthException","code":131016,"error_subcode":2494055,"is_transient":true,"error_user_title":"Service unavailable","error_user_msg":"A service is temporarily unavailable. Please try again later.","error_data":{"messaging_product":"whatsapp","details":"Service temporarily unavailable"}}}`},
		{"1026", 400, `{"error":{"message":"(#131026) Message undeliverable","type":"OAuthException","code":131026,"error_data":{"messaging_product":"whatsapp","details":"Message Undeliverable."}}}`},
		{"1047", 400, `{"error":{"message":"(#131047) Re-engagement message","type":"OAuthException","code":131047,"error_data":{"messaging_product":"whatsapp","details":"Message failed to send because more than 24 hours have passed since the customer last replied to this number."}}}`},
		{"1052", 400, `{"error":{"message":"(#131052) Media download error","type":"OAuthException","code":131052,"error_data":{"messaging_product":"whatsapp","details":"Failed to download the media from the sender. See href for details."}}}`},
		{"1053", 400, `{"error":{"message":"(#131053) Media upload error","type":"OAuthException","code":131053,"error_data":{"messaging_product":"whatsapp","details":"Unable to upload the media used in the message."}}}`},
		{"2001", 404, `{"error":{"message":"(#132001) Template name does not exist in the translation","type":"OAuthException","code":132001,"error_data":{"messaging_product":"whatsapp","details":"template name does not exist in the language"}}}`},
		{"0190", 401, `{"error":{"message":"Malformed access token EAAtest0token","type":"OAuthException","code":190,"error_subcode":467,"error_user_title":"Malformed access token EAAtest0token","error_user_msg":"Malformed access token EAAtest0token","error_data":{"messaging_product":"whatsapp","details":"Malformed access token EAAtest0token"}}}`},
	} {
		t.Run(test.digits, func(t *testing.T) {
			m := startMeta(t, new(MetaSimulator), false)
			resp, body := m.do(m.request("1555010" + test.digits))
			if resp.StatusCode != test.status {
				t.Errorf("status is %d, want %d", resp.StatusCode, test.status)
			}
			if diff := cmp.Diff(object(t, []byte(test.want)), withoutChance(t, body)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestEveryFateIsCountedAsItSays drives the whole table, over HTTP/1 and HTTP/2.
func TestEveryFateIsCountedAsItSays(t *testing.T) {
	for name, http2 := range map[string]bool{"HTTP/1.1": false, "HTTP/2.0": true} {
		t.Run(name, func(t *testing.T) {
			m := startMeta(t, &MetaSimulator{SlowAnswer: 1}, http2)
			accepted, refused := 0, 0
			for _, f := range fates {
				if f.accepted {
					accepted++
				} else {
					refused++
				}
				ctx, cancel := context.WithCancel(t.Context())
				answered := make(chan struct{})
				go func() {
					defer close(answered)
					resp, err := m.Client().Do(m.request("1555010" + f.digits).WithContext(ctx))
					if err != nil {
						return
					}
					if resp.Proto != name {
						t.Errorf("protocol is %s", resp.Proto)
					}
					_, _ = io.Copy(io.Discard, resp.Body)
					resp.Body.Close()
				}()
				if strings.HasPrefix(f.meaning, "no answer") {
					waitFor(t, func() bool { got := m.counted(); return got.Accepted == accepted && got.Refused == refused })
					cancel()
				}
				<-answered
				cancel()
				if got := m.counted(); got.Accepted != accepted || got.Refused != refused {
					t.Errorf("%s: accepted %d and refused %d, want %d and %d", f.digits, got.Accepted, got.Refused, accepted, refused)
					accepted, refused = got.Accepted, got.Refused
				}
			}
		})
	}
}

func TestResetHasNoAnswer(t *testing.T) {
	for name, http2 := range map[string]bool{"HTTP/1.1": false, "HTTP/2.0": true} {
		for _, digits := range []string{"9001", "9002", "9102"} {
			t.Run(name+" "+digits, func(t *testing.T) {
				m := startMeta(t, new(MetaSimulator), http2)
				resp, err := m.Client().Do(m.request("1555010" + digits))
				if err == nil {
					resp.Body.Close()
				}
				if !isCut(err) {
					t.Fatalf("got %v", err)
				}
				if !http2 && !errors.Is(err, syscall.ECONNRESET) {
					t.Errorf("got %v, want a reset by TCP", err)
				}
			})
		}
	}
}

// TestPhoneNumberIDResetsBeforeTheBody sends headers that promise a body and
// never the body itself.
func TestPhoneNumberIDResetsBeforeTheBody(t *testing.T) {
	m := startMeta(t, new(MetaSimulator), false)
	conn, err := net.Dial("tcp", m.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(conn, "POST /v23.0/1059001/messages HTTP/1.1\r\nHost: meta\r\nContent-Length: 100000\r\n\r\n{"); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(conn); !errors.Is(err, syscall.ECONNRESET) || len(got) > 0 {
		t.Errorf("got %q and %v, want a reset", got, err)
	}
	if got := m.counted(); got.Refused != 1 || got.PhoneNumbers["1059001"].Refused != 1 {
		t.Errorf("counted %+v", got)
	}
}

func TestNoAnswerUntilTheClientGoesAway(t *testing.T) {
	for name, http2 := range map[string]bool{"HTTP/1.1": false, "HTTP/2.0": true} {
		t.Run(name, func(t *testing.T) {
			m := startMeta(t, new(MetaSimulator), http2)
			ctx, cancel := context.WithCancel(t.Context())
			failed := make(chan error)
			go func() {
				resp, err := m.Client().Do(m.request("15550109103").WithContext(ctx))
				if err == nil {
					resp.Body.Close()
				}
				failed <- err
			}()
			waitFor(t, func() bool { defer func() { <-m.left }(); return m.counted().Accepted == 1 })
			cancel()
			if err := <-failed; !errors.Is(err, context.Canceled) {
				t.Errorf("got %v before the client went away", err)
			}
			m.receive()
		})
	}
}

func TestSlowAnswerTakesItsTime(t *testing.T) {
	const delay = 30 * time.Millisecond
	m := startMeta(t, &MetaSimulator{SlowAnswer: caddy.Duration(delay)}, false)
	start := time.Now()
	resp, body := m.do(m.request("15550109109"))
	if took := time.Since(start); resp.StatusCode != http.StatusOK || took < delay {
		t.Errorf("status %d after %v: %s", resp.StatusCode, took, body)
	}
}

func TestSlowAnswerCountsThoughTheClientIsGone(t *testing.T) {
	m := startMeta(t, &MetaSimulator{SlowAnswer: caddy.Duration(time.Hour)}, false)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		waitFor(t, func() bool { defer func() { <-m.left }(); return m.counted().Accepted == 1 })
		cancel()
	}()
	resp, err := m.Client().Do(m.request("15550109109").WithContext(ctx))
	if err == nil {
		resp.Body.Close()
		t.Fatal("there was an answer")
	}
	m.receive()
	if got := m.counted(); got.Accepted != 1 {
		t.Errorf("accepted %d", got.Accepted)
	}
}

func TestStrangeAnswers(t *testing.T) {
	for _, test := range []struct {
		digits string
		status int
		check  func(*testing.T, *http.Response, []byte, string)
	}{
		{"9004", 500, func(t *testing.T, resp *http.Response, body []byte, _ string) {
			if resp.Header.Get("Content-Type") != "text/html; charset=utf-8" || !bytes.Contains(body, []byte("<html")) {
				t.Errorf("got %q", body)
			}
		}},
		{"9005", 200, func(t *testing.T, _ *http.Response, body []byte, _ string) {
			if messages, ok := withoutChance(t, body)["messages"].([]any); !ok || len(messages) > 0 {
				t.Errorf("got %q", body)
			}
		}},
		{"9006", 200, func(t *testing.T, _ *http.Response, body []byte, _ string) {
			if json.Valid(body) {
				t.Errorf("got %q", body)
			}
		}},
		{"9107", 200, func(t *testing.T, resp *http.Response, body []byte, id string) {
			if resp.Header.Get("Content-Encoding") != "gzip" {
				t.Error("Content-Encoding is not gzip")
			}
			plain := must(io.ReadAll(must(gzip.NewReader(bytes.NewReader(body)))))
			if !json.Valid(plain) || !bytes.Contains(plain, []byte(id)) {
				t.Errorf("got %q", plain)
			}
		}},
		{"9108", 200, func(t *testing.T, resp *http.Response, body []byte, id string) {
			if resp.ContentLength != -1 || len(body) < 10<<20 || !json.Valid(body) || !bytes.Contains(body[:512], []byte(id)) {
				t.Errorf("got %d bytes", len(body))
			}
		}},
	} {
		t.Run(test.digits, func(t *testing.T) {
			m := startMeta(t, new(MetaSimulator), false)
			r := m.request("1555010" + test.digits)
			r.Header.Set("Accept-Encoding", "identity") // keeps the client from unpacking
			resp, body := m.do(r)
			if resp.StatusCode != test.status {
				t.Errorf("status is %d, want %d", resp.StatusCode, test.status)
			}
			id := ""
			if messages := m.counted().Messages; len(messages) == 1 {
				id = messages[0].ID
			}
			test.check(t, resp, body, id)
		})
	}
}

func TestHalfAnAnswerEndsInAnError(t *testing.T) {
	for name, http2 := range map[string]bool{"HTTP/1.1": false, "HTTP/2.0": true} {
		t.Run(name, func(t *testing.T) {
			m := startMeta(t, new(MetaSimulator), http2)
			resp, err := m.Client().Do(m.request("15550109110"))
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			body, err := io.ReadAll(resp.Body)
			if resp.StatusCode != http.StatusOK || !isCut(err) || len(body) == 0 || bytes.Contains(body, []byte("wamid")) {
				t.Errorf("status %d, %q, %v", resp.StatusCode, body, err)
			}
		})
	}
}
