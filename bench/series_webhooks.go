package main

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/connexease/caddy-whatsapp-gateway/store"
)

// hookSeries is one kind of webhooks, all of which the same app gets.
type hookSeries struct {
	name   string
	events int // in each webhook
	// change is the part of an event that differs, of the same length for each number.
	change func(n int) string
	// past is how many sends the gateway has made that the webhooks tell of.
	past func(webhooks int) int

	rounds []hookRound
}

// hookRound is what one round has measured: sends is of the embedded gateway in it.
type hookRound struct {
	sample
	events          int
	sends           float64
	delivered, wait int // events, when the gateway was killed
}

func (h hookRound) perSecond() float64 { return h.sample.perSecond() * float64(h.events) }

func noPast(int) int           { return 0 }
func onePast(webhooks int) int { return webhooks }

// hookKinds are what is measured.
func hookKinds() []*hookSeries {
	return []*hookSeries{
		{name: "a user's message", events: 1, change: userMessage, past: noPast},
		{name: "a user's message", events: 100, change: userMessage, past: noPast},
		{name: "a delivered template, charged", events: 1, change: delivered, past: onePast},
	}
}

func userMessage(n int) string {
	return fmt.Sprintf(`"contacts":[{"profile":{"name":"A"},"wa_id":"491510%09d"}],`+
		`"messages":[{"from":"491510%09d","id":"wamid.user%012d","timestamp":"1760000000","type":"text","text":{"body":"Hello, is my order on its way?"}}]`, n, n, n)
}

// delivered is the status of the past send of this number, counted from 0.
func delivered(n int) string {
	return fmt.Sprintf(`"statuses":[{"id":%q,"status":"delivered","timestamp":"1760000000","recipient_id":"12025550100",`+
		`"biz_opaque_callback_data":"%s:order-%012d","conversation":{"id":"c","origin":{"type":"marketing"}},`+
		`"pricing":{"billable":true,"pricing_model":"PMP","type":"regular","category":"marketing"}}]`, pastMessage(n+1), pastHold(n+1), n)
}

// signed is the request of one webhook, as Meta makes it.
func (h *hookSeries) signed(number int, phone, secret string) []byte {
	changes := make([]string, h.events)
	for i := range changes {
		changes[i] = fmt.Sprintf(`{"value":{"messaging_product":"whatsapp","metadata":{"display_phone_number":"15550001111","phone_number_id":%q},%s},"field":"messages"}`,
			phone, h.change(number*h.events+i))
	}
	body := `{"object":"whatsapp_business_account","entry":[{"id":"9` + phone + `","changes":[` + strings.Join(changes, ",") + `]}]}`
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(body))
	return fmt.Appendf(nil, "POST /v1/wa/webhook HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nX-Hub-Signature-256: sha256=%s\r\nContent-Length: %d\r\n\r\n%s",
		hex.EncodeToString(mac.Sum(nil)), len(body), body)
}

// webhookSeries compares the events that the embedded gateway takes in with the sends
// that it makes. It delivers them meanwhile, to an endpoint that answers at once.
func (r *rig) webhookSeries() error {
	send, err := r.send(r.embedded.name, r.embedded, smallBody)
	if err != nil {
		return err
	}
	if err := r.warm(send); err != nil {
		return err
	}
	r.hooks = hookKinds()
	for round := range r.rounds {
		s, err := r.measure(send, r.duration)
		if err != nil {
			return err
		}
		for i := range r.hooks {
			h := r.hooks[(i+round)%len(r.hooks)]
			if err := r.hookRound(h, s.perSecond()); err != nil {
				return fmt.Errorf("%s: %w", h.name, err)
			}
		}
	}
	t := newTable("webhooks of", "events each", "events/s", "against sends/s", "p50", "p99", "CPU an event", "delivered meanwhile", "errors")
	for _, h := range r.hooks {
		t.add(h.name, number(float64(h.events)), number(h.median(hookRound.perSecond)), h.againstSends().ratio(),
			millis(h.median(func(o hookRound) float64 { return p50(o.sample) })), millis(h.median(func(o hookRound) float64 { return p99(o.sample) })),
			micros(h.median(func(o hookRound) float64 { return cpu(o.sample) / float64(o.events) })),
			number(h.median(func(o hookRound) float64 { return float64(o.delivered) / o.duration.Seconds() }))+"/s",
			number(h.median(func(o hookRound) float64 { return failures(o.sample) })))
	}
	r.print("Webhooks, embedded", t)
	r.webhookBars()
	return nil
}

func (h *hookSeries) median(figure func(hookRound) float64) float64 {
	var values []float64
	for _, o := range h.rounds {
		values = append(values, figure(o))
	}
	return median(values)
}

func (h *hookSeries) againstSends() spread {
	var values []float64
	for _, o := range h.rounds {
		values = append(values, ratio(o.perSecond(), o.sends))
	}
	return spreadOf(values)
}

// hookRound has a gateway of its own take in webhooks, and sees that it has lost none.
func (r *rig) hookRound(h *hookSeries, sends float64) error {
	webhooks := max(1, r.webhooks/h.events)
	sink, err := r.startStub("endpoint", 0)
	if err != nil {
		return err
	}
	defer sink.stop()
	g, err := r.newGateway("gateway for webhooks", plan{apps: 1, limits: generous, hook: "http://" + sink.fast + "/hook", entries: 2 * h.past(webhooks)})
	if err != nil {
		return err
	}
	r.gateways = r.gateways[:len(r.gateways)-1] // its books are checked here
	defer os.RemoveAll(g.dir)
	defer g.process.kill()
	l, err := r.newLoad("webhooks", func(i int) []byte {
		if i == webhooks {
			return nil
		}
		return h.signed(i, g.tenants.active[0].phone, g.config.AppSecret)
	})
	if err != nil {
		return err
	}
	defer os.Remove(l.file)
	s, err := r.measure(&probe{name: h.name, target: g.target, address: g.fast, load: l, connections: r.connections}, r.duration)
	if err != nil {
		return err
	}
	if s.requests > webhooks {
		r.noteOnce("There were %d different webhooks of %d events; some came more than once, which made new events of users' messages, and no new charges.", webhooks, h.events)
	}
	o := hookRound{sample: s, events: h.events, sends: sends}
	if err := o.account(r.ctx, g, sink, h, webhooks); err != nil {
		return err
	}
	h.rounds = append(h.rounds, o)
	r.progress("%-34s %3d each %7.0f events/s p50 %v, %d delivered, %d wait", h.name, h.events, o.perSecond(), o.p50, o.delivered, o.wait)
	return nil
}

// account kills the gateway and looks for every event that it has said to have: at the
// endpoint, or in the store. A template that was told of has been charged.
func (o *hookRound) account(ctx context.Context, g *gateway, sink *stub, h *hookSeries, webhooks int) error {
	g.process.kill()
	counts, err := sink.counts()
	if err != nil {
		return err
	}
	fees, err := o.look(ctx, g)
	if err != nil {
		return err
	}
	o.delivered = int(counts.Hooks)
	if accepted := (o.requests - o.errors) * h.events; o.delivered+o.wait < accepted {
		return fmt.Errorf("of %d events that were taken in, %d were delivered and %d wait", accepted, o.delivered, o.wait)
	}
	if told := min(o.requests-o.errors, h.past(webhooks)); fees < told {
		return fmt.Errorf("of %d templates that were delivered, %d were charged", told, fees)
	}
	return nil
}

// look counts in the store the events that wait and the template fees that were charged.
func (o *hookRound) look(ctx context.Context, g *gateway) (fees int, err error) {
	st, err := g.open(ctx)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	for _, err := range st.Events(ctx, store.EventFilter{State: store.Pending}) {
		if err != nil {
			return 0, err
		}
		o.wait++
	}
	accounts, err := st.Accounts(ctx)
	if err != nil {
		return 0, err
	}
	for _, account := range accounts {
		for entry, err := range st.Ledger(ctx, account.ID, time.Time{}) {
			if err != nil {
				return 0, err
			}
			if entry.Kind == store.KindTemplateFee {
				fees++
			}
		}
	}
	return fees, nil
}
