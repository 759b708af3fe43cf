package caddytest

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// want fails the test unless the answer is this one, to the last byte.
func (a answer) want(t testing.TB, status int, body string) {
	t.Helper()
	if a.status != status || a.body != body {
		t.Errorf("status %d: %s\nwant   %d: %s", a.status, a.body, status, body)
	}
}

// wantCode fails the test unless the answer has this code; "" is success.
func (a answer) wantCode(t testing.TB, code string) {
	t.Helper()
	if a.Errors.Code != code {
		t.Errorf("status %d with code %q, want %q: %s", a.status, a.Errors.Code, code, a.Errors.Description)
	}
}

// failure is the body of a failure without params.
func failure(code, group, description string) string {
	return fmt.Sprintf(`{"isSuccess":false,"errors":{"code":"%s","group":"%s","description":"%s"}}`, code, group, description)
}

// The bodies of the answers that are always the same.
var (
	auth001 = failure("AUTH_001", "UNAUTHORIZED", "API Key not found, invalid, or expired.")
	auth002 = failure("AUTH_002", "UNAUTHORIZED", "Missing Authorization header.")
	auth003 = failure("AUTH_003", "UNAUTHORIZED", "Invalid token format. It must be 'Bearer <token>'.")
	auth004 = failure("AUTH_004", "INTERNAL_ERROR", "An error occurred in the authentication service.")
	auth005 = failure("AUTH_005", "INTERNAL_ERROR", "Authentication data is corrupted.")
	bill001 = failure("BILL_001", "PAYMENT_REQUIRED", "Insufficient balance. Please top up your account to continue sending messages.")
	bill002 = failure("BILL_002", "BAD_REQUEST", "API Key does not have an associated billing account. Please contact support.")
	bill003 = failure("BILL_003", "INTERNAL_ERROR", "The billing service is unavailable. Please retry.")
	waba001 = failure("WABA_001", "UNAUTHORIZED", "WABA credentials are missing or invalid. Please check your configuration.")
	sec001  = failure("SEC_001", "INTERNAL_ERROR", "Access token decryption failed. Please contact support.")
	req002  = failure("REQ_002", "PAYLOAD_TOO_LARGE", "The request body is over the limit of 131072 bytes.")
	req003  = failure("REQ_003", "METHOD_NOT_ALLOWED", "This path does not take the method; the Allow header lists those that it does.")

	rate001 = func(limitType, retryAfter string) string {
		return `{"isSuccess":false,"errors":{"code":"RATE_001","group":"TOO_MANY_REQUESTS",` +
			`"description":"Rate limit exceeded. Please try again later.",` +
			`"params":{"limit_type":"` + limitType + `","retry_after":"` + retryAfter + `"}}}`
	}
)

// tooLarge is a good message but for its size, which is over the default limit
// by one byte.
func (g *gateway) tooLarge() string {
	body := g.message(accepted)
	return body[:len(body)-1] + `,"padding":"` + strings.Repeat("x", 128<<10+1-len(body)-len(`,"padding":""`)) + `"}`
}

// corruptToken changes one character of an app's sealed access token.
func (g *gateway) corruptToken(t testing.TB, app string) {
	t.Helper()
	g.exec(t, `UPDATE apps SET access_token = substr(access_token, 1, 20) ||
		CASE substr(access_token, 21, 1) WHEN 'A' THEN 'B' ELSE 'A' END || substr(access_token, 22) WHERE id = ?`, app)
}

// provocation gets one code answered.
type provocation struct {
	name    string
	provoke func(t *testing.T) answer
	status  int
	body    string
}

func TestEveryCodeIsAnsweredAsPublished(t *testing.T) {
	t.Parallel()
	g := startGateway(t, settings{})
	anybody := g.tenant(t, profile{})
	for _, p := range append(g.authenticationCodes(anybody), g.otherCodes(anybody)...) {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			p.provoke(t).want(t, p.status, p.body)
		})
	}
}

func (g *gateway) authenticationCodes(anybody tenant) []provocation {
	return []provocation{
		{"AUTH_001 for a key that nobody has", func(t *testing.T) answer {
			return g.send(t, "nobody-has-this-key-1", g.message(accepted))
		}, 401, auth001},
		{"AUTH_001 for a key of ours that is mistyped", func(t *testing.T) answer {
			mistyped := []byte(anybody.key)
			mistyped[10] ^= 1
			return g.send(t, string(mistyped), g.message(accepted))
		}, 401, auth001},
		{"AUTH_001 for a revoked key", func(t *testing.T) answer {
			id, key := g.newKey(t, anybody.app)
			g.run(t, "key", "revoke", id)
			return g.send(t, key, g.message(accepted))
		}, 401, auth001},
		{"AUTH_001 for an expired key", func(t *testing.T) answer {
			_, key := g.newKey(t, anybody.app, "--expires", "1s")
			return g.sendUntil(t, http.StatusUnauthorized, key, "{}")
		}, 401, auth001},
		{"AUTH_002", func(t *testing.T) answer {
			return g.do(t, g.request(t, http.MethodPost, messagePath, g.message(accepted)))
		}, 401, auth002},
		{"AUTH_003", func(t *testing.T) answer {
			req := g.request(t, http.MethodPost, messagePath, g.message(accepted))
			req.Header.Set("Authorization", anybody.key)
			return g.do(t, req)
		}, 401, auth003},
		{"AUTH_005 for a key that cannot be read", func(t *testing.T) answer {
			who := g.tenant(t, profile{})
			g.exec(t, "UPDATE api_keys SET expires_at = 'soon' WHERE id = ?", who.keyID)
			return g.send(t, who.key, g.message(accepted))
		}, 500, auth005},
		{"AUTH_005 for an app that cannot be read", func(t *testing.T) answer {
			who := g.tenant(t, profile{})
			g.exec(t, "UPDATE apps SET per_second = -1, per_minute = 1 WHERE id = ?", who.app)
			return g.send(t, who.key, g.message(accepted))
		}, 500, auth005},
	}
}

func (g *gateway) otherCodes(anybody tenant) []provocation {
	return []provocation{
		{"RATE_001 for the second", func(t *testing.T) answer {
			who := g.tenant(t, profile{perSecond: 1})
			a := g.sendUntil(t, http.StatusTooManyRequests, who.key, g.message(accepted), "is_fake=true")
			if got := a.header.Get("Retry-After"); got != "1" {
				t.Errorf("Retry-After %q", got)
			}
			return a
		}, 429, rate001("sec", "1s")},
		{"RATE_001 for the minute", func(t *testing.T) answer {
			who := g.tenant(t, profile{perMinute: 1})
			a := g.sendUntil(t, http.StatusTooManyRequests, who.key, g.message(accepted), "is_fake=true")
			if got := a.header.Get("Retry-After"); got != "60" {
				t.Errorf("Retry-After %q", got)
			}
			return a
		}, 429, rate001("min", "60s")},
		{"BILL_001", func(t *testing.T) answer {
			return g.send(t, g.tenant(t, profile{credit: "0"}).key, g.message(accepted))
		}, 402, bill001},
		{"BILL_002", func(t *testing.T) answer {
			return g.send(t, g.tenant(t, profile{noAccount: true}).key, g.message(accepted))
		}, 400, bill002},
		{"REQ_001", func(t *testing.T) answer {
			return g.send(t, anybody.key, `[]`)
		}, 400, failure("REQ_001", "BAD_REQUEST", "The request body must be one JSON object.")},
		{"REQ_002", func(t *testing.T) answer {
			return g.send(t, anybody.key, g.tooLarge())
		}, 413, req002},
		{"WABA_001", func(t *testing.T) answer {
			return g.send(t, g.tenant(t, profile{noCredentials: true}).key, g.message(accepted))
		}, 401, waba001},
		{"SEC_001", func(t *testing.T) answer {
			who := g.tenant(t, profile{})
			g.corruptToken(t, who.app)
			return g.send(t, who.key, g.message(accepted))
		}, 500, sec001},
		{"GW_001", func(t *testing.T) answer {
			a := g.send(t, anybody.key, g.message(refused))
			// The one part that differs from one request to the next.
			a.body = strings.Replace(a.body, a.header.Get("X-Fb-Trace-Id"), "TRACE", 1)
			return a
		}, 502, `{"isSuccess":false,"errors":{"code":"GW_001","group":"UPSTREAM_ERROR","description":"(#131026) Message undeliverable",` +
			`"params":{"meta_code":131026,"meta_type":"OAuthException","meta_status":400,"meta_details":"Message Undeliverable.",` +
			`"fbtrace_id":"TRACE","retry_safe":true}}}`},
	}
}

// sendUntil sends until the answer has this status, and returns that answer.
func (g *gateway) sendUntil(t testing.TB, status int, key, body string, query ...string) (a answer) {
	t.Helper()
	eventually(t, http.StatusText(status), func() error {
		if a = g.send(t, key, body, query...); a.status != status {
			return fmt.Errorf("status %d, code %s", a.status, a.Errors.Code)
		}
		return nil
	})
	return a
}

func TestAnotherMethodIsREQ003(t *testing.T) {
	t.Parallel()
	g := startGateway(t, settings{})
	who := g.tenant(t, profile{})
	methods := []string{"GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND", "post"}
	g.wantMethodsRefused(t, methods, "POST", func(method string) *http.Request {
		req := g.request(t, method, messagePath, g.message(accepted))
		req.Header.Set("Authorization", "Bearer "+who.key)
		return req
	})
	if n := g.tally(t).sends(who); n != 0 {
		t.Errorf("%d messages reached Meta", n)
	}
}

func TestAStoreThatCannotBeReadIsAUTH004(t *testing.T) {
	t.Parallel()
	g := startGateway(t, settings{})
	known, unknown := g.tenant(t, profile{}), g.tenant(t, profile{})
	g.send(t, known.key, g.message(accepted)).wantCode(t, "")
	g.exec(t, "ALTER TABLE api_keys RENAME TO misplaced")
	g.send(t, unknown.key, g.message(accepted)).want(t, http.StatusInternalServerError, auth004)

	g.exec(t, "ALTER TABLE misplaced RENAME TO api_keys")
	g.send(t, unknown.key, g.message(accepted)).wantCode(t, "")
	g.send(t, known.key, g.message(accepted)).wantCode(t, "")
}

func TestAWalletThatCannotBeWrittenIsBILL003(t *testing.T) {
	t.Parallel()
	for name, failing := range map[string]string{
		"a statement":     "CREATE TRIGGER broken BEFORE INSERT ON ledger_tail BEGIN SELECT RAISE(FAIL, 'disk is full'); END",
		"a send":          "CREATE TRIGGER broken BEFORE INSERT ON ledger_tail BEGIN SELECT RAISE(ABORT, 'disk is full'); END",
		"a transaction":   "CREATE TRIGGER broken BEFORE INSERT ON ledger_tail BEGIN SELECT RAISE(ROLLBACK, 'disk is full'); END",
		"free admissions": "CREATE TRIGGER broken BEFORE INSERT ON free_admissions BEGIN SELECT RAISE(FAIL, 'disk is full'); END",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := startGateway(t, settings{})
			who := g.tenant(t, profile{})
			var query []string
			if name == "free admissions" {
				query = []string{"is_fake=true"}
			}
			g.exec(t, failing)
			g.send(t, who.key, g.message(accepted), query...).want(t, http.StatusInternalServerError, bill003)
			g.exec(t, "DROP TRIGGER broken")

			if n := g.tally(t).sends(who); n != 0 {
				t.Errorf("%d messages reached Meta", n)
			}
			g.wantBalance(t, who.account, balance{available: 1_000_000})
			// It was not counted either, and the next one is as good as the first.
			a := g.send(t, who.key, g.message(accepted), query...)
			a.wantCode(t, "")
			if got := a.header.Get("X-RateLimit-min-Remaining"); got != "4799" {
				t.Errorf("%s of 4800 remain", got)
			}
		})
	}
}

// A program that holds the database's write lock, such as a shell in a
// transaction, must not make the gateway wait for ever, nor lose money.
func TestADatabaseLockedForLongIsBILL003(t *testing.T) {
	t.Parallel()
	g := startGateway(t, settings{})
	who := g.tenant(t, profile{})
	db := g.open(t)
	defer db.Close()
	conn, err := db.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.ExecContext(t.Context(), "BEGIN IMMEDIATE"); err != nil {
		t.Fatal(err)
	}
	g.send(t, who.key, g.message(accepted)).want(t, http.StatusInternalServerError, bill003)
	if _, err := conn.ExecContext(t.Context(), "ROLLBACK"); err != nil {
		t.Fatal(err)
	}
	a := g.sendUntil(t, http.StatusOK, who.key, g.message(accepted))
	g.wantBalance(t, who.account, balance{available: 1_000_000 - fee, captured: fee})
	if sent := g.tally(t).sends(who); sent != 1 || a.messageID() == "" {
		t.Errorf("%d messages reached Meta", sent)
	}
}

// wantMethodsRefused makes a request with each method and wants REQ_003 with this
// header Allow.
func (g *gateway) wantMethodsRefused(t *testing.T, methods []string, allow string, request func(method string) *http.Request) {
	t.Helper()
	for _, method := range methods {
		response, err := g.client.Do(request(method))
		if err != nil {
			t.Fatal(err)
		}
		a, err := readAnswer(response)
		if err != nil {
			t.Fatal(err)
		}
		if method != http.MethodHead { // whose answer has no body
			g.check(t, &a)
			a.want(t, http.StatusMethodNotAllowed, req003)
		}
		if got := a.header.Get("Allow"); a.status != http.StatusMethodNotAllowed || got != allow {
			t.Errorf("%s: status %d with Allow %q", method, a.status, got)
		}
	}
}
