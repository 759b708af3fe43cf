package caddytest

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// fate is what became of the money of one send.
type fate string

const (
	// captured: Meta accepted the message.
	captured fate = "captured"
	// released: the message was not sent.
	released fate = "released"
	// inDoubt: nobody knows, and the fee stays on hold.
	inDoubt fate = "in doubt"
)

// outcome is what became of a send, which a test has a name for.
type outcome struct {
	send string
	fate fate
}

// wantOutcomes fails the test unless the sends of a tenant had these outcomes,
// in their order. Sends that held nothing are left out.
func (g *gateway) wantOutcomes(t testing.TB, who tenant, want ...outcome) {
	t.Helper()
	ledger := g.ledger(t, who.account)
	entries := make(map[string]bool)
	for _, e := range ledger {
		entries[e.ID] = true
	}
	var got []outcome
	total := balance{available: 1_000_000}
	for _, e := range ledger {
		id, isHold := strings.CutPrefix(e.ID, "hold_")
		if !isHold {
			continue
		}
		o := outcome{fate: inDoubt}
		switch {
		case entries["capture_"+id] && entries["release_"+id]:
			o.fate = "both captured and released"
		case entries["capture_"+id]:
			o.fate = captured
			total.available, total.captured = total.available-fee, total.captured+fee
		case entries["release_"+id]:
			o.fate = released
		default:
			total.available, total.held = total.available-fee, total.held+fee
		}
		if len(got) < len(want) {
			o.send = want[len(got)].send
		}
		got = append(got, o)
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(outcome{})); diff != "" {
		t.Errorf("what became of the sends: %s", diff)
	}
	g.wantBalance(t, who.account, total)
}

// The descriptions of GW_001 where Meta did not say what is wrong.
const (
	unreachable = "Meta could not be reached. The message was not sent."
	insecure    = "No secure connection to Meta could be made. The message was not sent."
	timedOut    = "Meta did not answer in time. The message may have been sent."
	broken      = "The connection to Meta broke. The message may have been sent."
	oversize    = "Meta's answer is too large. The message may have been sent."
	unclear     = "Meta's answer could not be understood. The message may have been sent."
)

// gw001 is the body of a GW_001 with these params.
func gw001(description, params string) string {
	return `{"isSuccess":false,"errors":{"code":"GW_001","group":"UPSTREAM_ERROR","description":"` + description + `","params":{` + params + `}}}`
}

func TestSendsInDoubtAreSettledByThePolicyAtTheNextStart(t *testing.T) {
	t.Parallel()
	for policy, want := range map[string]fate{"capture": captured, "release": released} {
		t.Run(policy, func(t *testing.T) {
			t.Parallel()
			u := startUpstream(t)
			g := behind(t, u, settings{app: "in_doubt 5s " + policy, handler: "upstream_timeout 900ms"})
			who := g.tenant(t, profile{})
			u.play(who, reset)
			g.send(t, who.key, g.message(accepted)).wantCode(t, "GW_001")
			g.wantOutcomes(t, who, outcome{"reset", inDoubt})
			made := time.Now()
			eventually(t, "the policy's time", func() error {
				if time.Since(made) < 5*time.Second {
					return errors.New("it is not yet up")
				}
				return nil
			})
			g.restart(t)
			eventually(t, "the hold's end", func() error {
				if held := g.balance(t, who.account).held; held != 0 {
					return fmt.Errorf("%d are held", held)
				}
				return nil
			})
			g.wantOutcomes(t, who, outcome{"reset", want})
			g.restart(t)
			g.wantOutcomes(t, who, outcome{"reset", want})
		})
	}
}
