package redis

import (
	"bytes"
	"testing"

	goredis "github.com/redis/go-redis/v9"

	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

// bundleOf are jobs with these requests, which are alike.
func bundleOf(t testing.TB, requests ...request) *bundle {
	var g group
	for _, r := range requests {
		j := newJob()
		j.request, j.command = r, goredis.NewStringCmd(t.Context())
		g.join(j)
	}
	if len(g.bundles) != 1 {
		t.Fatalf("there are %d bundles", len(g.bundles))
	}
	return &g.bundles[0]
}

// captures are requests that are alike.
func captures(n int) (all []request) {
	account := tenant.AccountID(tenant.NewID("acct"))
	first := store.NewHoldIDFor(account)
	for range n {
		id := first[:9] + store.NewHoldIDFor(account)[9:] // of the same days
		all = append(all, request{kind: settles[store.Captured], hold: id, message: messageOf(id)})
	}
	return all
}

func TestABundleOfOneIsAsItsRequestAlone(t *testing.T) {
	a := store.Admission{HoldID: store.NewHoldIDFor("acct_1"), App: "app_1", Account: "acct_1", Fee: testFee, Limits: tenant.RateLimit{PerSecond: 1, PerMinute: 2}}
	for _, r := range []request{
		captures(1)[0], {kind: settles[store.Released], hold: a.HoldID}, toAdmit(store.Hold, true, true, a), toAdmit(store.Count, true, false, a),
	} {
		got, err := bundleOf(t, r).MarshalBinary()
		if noError(t, err); !bytes.Equal(got, r.packed(nil)) {
			t.Errorf("a bundle of %+v is %q, and alone it is %q", r, got, r.packed(nil))
		}
	}
}

func TestWhatIsInABundle(t *testing.T) {
	a := store.Admission{HoldID: store.NewHoldIDFor("acct_1"), App: "app_1", Account: "acct_1", Fee: testFee}
	hold := toAdmit(store.Hold, true, true, a)
	other := func(change func(*request)) request {
		r := hold
		change(&r)
		return r
	}
	again := captures(1)[0]
	again.terms = hold.terms
	for name, tc := range map[string]struct {
		one, other request
		alike      bool
	}{
		"another hold":             {hold, other(func(r *request) { r.hold = r.hold[:len(r.hold)-1] + "z" }), true},
		"another kind":             {hold, toAdmit(store.Check, true, true, a), false},
		"a hold of other days":     {hold, other(func(r *request) { r.hold = "hold_zzzz" + r.hold[9:] }), false},
		"another length":           {hold, other(func(r *request) { r.hold += "0" }), false},
		"windows alone":            {hold, toAdmit(store.Hold, true, false, a), false},
		"a message more":           {hold, other(func(r *request) { r.message = "wamid.1" }), false},
		"holds to be made anew":    {again, again, false},
		"windows of the same app":  {toAdmit(store.Count, true, false, a), toAdmit(store.Count, true, false, a), true},
		"a release and a capture":  {request{kind: settles[store.Released], hold: a.HoldID}, request{kind: settles[store.Captured], hold: a.HoldID}, false},
		"what is shorter than ids": {request{kind: settles[store.Released], hold: "x"}, request{kind: settles[store.Released], hold: "y"}, true},
	} {
		if got := tc.one.like(&tc.other); got != tc.alike {
			t.Errorf("%s: that it is like the other one is %v", name, got)
		}
	}
}

// Whatever the script answers, each job has an answer, an error, or is sent again.
func FuzzAnswersOfABundle(f *testing.F) {
	f.Add(uint8(3), "A"+string(packed(nil).number(7).number(70))+"\x01")
	f.Add(uint8(2), "S")
	f.Add(uint8(3), "*\x07settled\x00\x07settled")
	f.Add(uint8(2), "*\xffx")
	f.Add(uint8(1), "settled")
	f.Add(uint8(2), "")
	f.Add(uint8(2), "Sx")
	f.Fuzz(func(t *testing.T, n uint8, reply string) {
		b := bundleOf(t, captures(1+int(n%8))...)
		again := make(map[*job]bool)
		b.answer(reply, func(j *job) { again[j] = true })
		for i, j := range b.jobs {
			if want := j.err == nil && j.command.Val() == ""; want != again[j] {
				t.Errorf("job %d of %d is answered %q, %v, and is sent again: %v", i, len(b.jobs), j.command.Val(), j.err, again[j])
			}
			if (j.err == nil) != (b.jobs[0].err == nil) {
				t.Errorf("job %d of %d takes %q for an answer, and others do not", i, len(b.jobs), reply)
			}
		}
	})
}
