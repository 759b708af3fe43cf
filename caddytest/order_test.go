package caddytest

import (
	"fmt"
	"net/http"
	"strconv"
	"testing"
)

// remaining is what an answer says is left of the minute.
func (a answer) remaining(t testing.TB) int {
	t.Helper()
	n, err := strconv.Atoi(a.header.Get("X-RateLimit-min-Remaining"))
	if err != nil {
		t.Fatalf("X-RateLimit-min-Remaining: %v", err)
	}
	return n
}

// spent is a tenant whose limit for the minute is used up, by sends that cost nothing.
func (g *gateway) spent(t testing.TB) tenant {
	t.Helper()
	const limit = 3
	who := g.tenant(t, profile{perMinute: limit})
	for range limit {
		g.send(t, who.key, g.message(accepted), "is_fake=true").wantCode(t, "")
	}
	return who
}

// twoFailures is a request that fails two neighbouring checks.
type twoFailures struct {
	name string
	// who makes a tenant for whom both checks fail, with this body.
	who  func(t *testing.T) tenant
	body string
	code string
	// remaining of the minute, after this request as before; -1 is not told.
	remaining int
}

// That a message fails at Meta, too, is seen by its not getting there.
func (g *gateway) twoFailures() []twoFailures {
	return []twoFailures{
		{"authentication before rate", func(t *testing.T) tenant {
			who := g.spent(t)
			g.run(t, "key", "revoke", who.keyID)
			return who
		}, g.message(accepted), "AUTH_001", -1},
		{"rate before BILL_001", func(t *testing.T) tenant {
			who := g.spent(t)
			g.run(t, "account", "credit", who.account, "-1.00")
			return who
		}, g.message(accepted), "RATE_001", 0},
		{"rate before BILL_002", func(t *testing.T) tenant {
			who := g.spent(t)
			g.run(t, "app", "set", who.app, "--account", "none")
			return who
		}, g.message(accepted), "RATE_001", 0},
		{"BILL_001 before REQ_001", func(t *testing.T) tenant {
			return g.tenant(t, profile{credit: "0"})
		}, `{}`, "BILL_001", 4800},
		{"BILL_001 before REQ_002", func(t *testing.T) tenant {
			return g.tenant(t, profile{credit: "0"})
		}, g.tooLarge(), "BILL_001", 4800},
		{"BILL_002 before REQ_001", func(t *testing.T) tenant {
			return g.tenant(t, profile{noAccount: true})
		}, `{}`, "BILL_002", 4800},
		{"REQ_001 before WABA_001", func(t *testing.T) tenant {
			return g.tenant(t, profile{noCredentials: true})
		}, `{}`, "REQ_001", 4800},
		{"REQ_002 before WABA_001", func(t *testing.T) tenant {
			return g.tenant(t, profile{noCredentials: true})
		}, g.tooLarge(), "REQ_002", 4800},
		{"REQ_002 before REQ_001", func(t *testing.T) tenant {
			return g.tenant(t, profile{})
		}, g.tooLarge() + "}", "REQ_002", 4800},
		{"WABA_001 before SEC_001", func(t *testing.T) tenant {
			who := g.tenant(t, profile{})
			g.corruptToken(t, who.app)
			g.run(t, "app", "set", who.app, "--phone-number-id", "")
			return who
		}, g.message(accepted), "WABA_001", 4800},
		{"SEC_001 before Meta", func(t *testing.T) tenant {
			who := g.tenant(t, profile{})
			g.corruptToken(t, who.app)
			return who
		}, g.message(refused), "SEC_001", 4800},
	}
}

func TestTheEarlierOfTwoFailingChecksAnswers(t *testing.T) {
	t.Parallel()
	g := startGateway(t, settings{})
	for _, c := range g.twoFailures() {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			who := c.who(t)
			before := g.wallet(t, who)
			// A request that counted would leave less to the next one.
			for range 3 {
				a := g.send(t, who.key, c.body)
				a.wantCode(t, c.code)
				if c.remaining >= 0 && a.remaining(t) != c.remaining {
					t.Errorf("%d requests remain, want %d", a.remaining(t), c.remaining)
				}
			}
			if after := g.wallet(t, who); after != before {
				t.Errorf("balance %+v, was %+v", after, before)
			}
			if n := g.tally(t).sends(who); n != 0 {
				t.Errorf("%d messages reached Meta", n)
			}
		})
	}
}

// wallet is the balance of a tenant, who may have no account.
func (g *gateway) wallet(t testing.TB, who tenant) balance {
	t.Helper()
	if who.account == "none" {
		return balance{}
	}
	return g.balance(t, who.account)
}

// Each case fails one check only; probes before and after it tell what it took.
func TestARefusedRequestTakesNothingFromTheWindows(t *testing.T) {
	t.Parallel()
	g := startGateway(t, settings{})
	who := g.tenant(t, profile{perSecond: 1000})
	revokedID, revoked := g.newKey(t, who.app)
	g.run(t, "key", "revoke", revokedID)
	for _, c := range []struct{ key, body, code string }{
		{revoked, g.message(accepted), "AUTH_001"},
		{"pk_", g.message(accepted), "AUTH_001"},
		{who.key, `{`, "REQ_001"},
		{who.key, `{"messaging_product":"whatsapp"}`, "REQ_001"},
		{who.key, g.tooLarge(), "REQ_002"},
	} {
		before := g.send(t, who.key, g.message(accepted), "is_fake=true").remaining(t)
		for range 2 {
			g.send(t, c.key, c.body).wantCode(t, c.code)
			g.send(t, c.key, c.body, "is_fake=true").wantCode(t, c.code)
		}
		after := g.send(t, who.key, g.message(accepted), "is_fake=true").remaining(t)
		if after != before-1 {
			t.Errorf("%s took %d of the minute", c.code, before-1-after)
		}
	}
	g.wantBalance(t, who.account, balance{available: 1_000_000})
}

// What Meta refuses has been sent: it counts, and costs nothing.
func TestAMessageThatMetaRefusesCountsAndIsNotCharged(t *testing.T) {
	t.Parallel()
	g := startGateway(t, settings{})
	who := g.tenant(t, profile{})
	first := g.send(t, who.key, g.message(refused))
	first.wantCode(t, "GW_001")
	second := g.send(t, who.key, g.message(refused))
	if first.remaining(t) != 4799 || second.remaining(t) != 4798 {
		t.Errorf("%d and %d remain", first.remaining(t), second.remaining(t))
	}
	g.wantBalance(t, who.account, balance{available: 1_000_000})
}

func TestARequestRefusedByTheSecondDoesNotCountInTheMinute(t *testing.T) {
	t.Parallel()
	g := startGateway(t, settings{})
	who := g.tenant(t, profile{perSecond: 2, perMinute: 1000})
	admitted, refusals := 0, 0
	for refusals < 20 {
		a := g.send(t, who.key, g.message(accepted), "is_fake=true")
		switch a.status {
		case http.StatusOK:
			admitted++
		case http.StatusTooManyRequests:
			refusals++
		default:
			t.Fatalf("status %d, code %s", a.status, a.Errors.Code)
		}
		if want := 1000 - admitted; a.remaining(t) != want {
			t.Fatalf("after %d admissions and %d refusals %d of the minute remain, want %d", admitted, refusals, a.remaining(t), want)
		}
	}
}

func TestQuotaHeadersOnEveryAnswerPastAuthentication(t *testing.T) {
	t.Parallel()
	g := startGateway(t, settings{app: "rate_limit 20 30"})
	who := g.tenant(t, profile{})
	own := g.tenant(t, profile{perSecond: 5, perMinute: 7})
	poor := g.tenant(t, profile{credit: "0"})
	corrupt := g.tenant(t, profile{})
	g.corruptToken(t, corrupt.app)
	for _, c := range []struct {
		key, body, query   string
		code               string
		second, minute     int
		takenSec, takenMin int
	}{
		{who.key, g.message(accepted), "", "", 20, 30, 1, 1},
		{own.key, g.message(accepted), "", "", 5, 7, 1, 1},
		{own.key, g.message(accepted), "is_fake=true", "", 5, 7, 2, 2},
		{own.key, g.message(refused), "", "GW_001", 5, 7, 3, 3},
		{own.key, `{"messaging_product":"whatsapp","status":"read","message_id":"wamid.1"}`, "", "", 5, 7, 4, 4},
		{own.key, `{}`, "", "REQ_001", 5, 7, 4, 4},
		{poor.key, g.message(accepted), "", "BILL_001", 20, 30, 0, 0},
		{g.tenant(t, profile{noAccount: true}).key, g.message(accepted), "", "BILL_002", 20, 30, 0, 0},
		{g.tenant(t, profile{noCredentials: true}).key, g.message(accepted), "", "WABA_001", 20, 30, 0, 0},
		{corrupt.key, g.message(accepted), "", "SEC_001", 20, 30, 0, 0},
	} {
		a := g.send(t, c.key, c.body, c.query)
		a.wantCode(t, c.code)
		// Of the second some may have come back meanwhile.
		atLeast, err := strconv.Atoi(a.header.Get("X-RateLimit-sec-Remaining"))
		if err != nil || atLeast < c.second-c.takenSec || atLeast > c.second {
			t.Errorf("%s: X-RateLimit-sec-Remaining %q", c.code, a.header.Get("X-RateLimit-sec-Remaining"))
		}
		for name, want := range map[string]int{
			"X-RateLimit-sec-Limit": c.second, "X-RateLimit-min-Limit": c.minute, "X-RateLimit-min-Remaining": c.minute - c.takenMin,
		} {
			if got := a.header.Values(name); len(got) != 1 || got[0] != fmt.Sprint(want) {
				t.Errorf("%s: %s %q, want %d", c.code, name, got, want)
			}
		}
	}
	for _, key := range []string{"", "nobody-has-this-key-2"} {
		if a := g.send(t, key, g.message(accepted)); a.header.Get("X-RateLimit-sec-Limit") != "" {
			t.Errorf("%s: quota before authentication", a.Errors.Code)
		}
	}
}
