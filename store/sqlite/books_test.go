package sqlite

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"testing"
	"time"

	"github.com/connexease/caddy-whatsapp-gateway/pricing"
	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/store/storetest"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

// books are a store and what it has to have after random steps. In each round some steps go into
// one commit, in their order, while something fails.
type books struct {
	*testing.T
	*rand.Rand
	s        *Store
	tool     *Store // of a command; nil until one is needed
	path     string
	clock    *storetest.Clock
	accounts []tenant.AccountID
	apps     []tenant.AppID

	round   int
	killed  bool // in this round, by a copy of what is on disk
	entries map[string]*expected
	sent    []*sentHold
	events  map[store.EventID]*expectedEvent
}

// sentHold is a hold, and what is known of its message. A capture names always the same one.
type sentHold struct {
	store.Admission
	message string
	fee     pricing.Micros
	// doubtful: somebody has settled holds in doubt, which names no message.
	doubtful bool
	// named: a capture with its message was answered. early: its fee has come before.
	named, early bool
	accepted     bool // a status was answered: it is charged, whatever became of it before
	abandoned    bool // whoever asked for it has gone before the answer: the store gives it back
}

// step is one operation. call runs on a goroutine of its own, tell once the round is over.
type step struct {
	call    func(context.Context) error
	tell    func(error)
	fixed   bool // its caller cannot go away
	foreign bool // it is a command's

	ctx      context.Context
	cancel   func()
	returned chan struct{}
	err      error
}

// Whatever fails, and wherever the gateway is killed, what was answered is in the books once, and
// what was refused is not. STORETEST_SEED in the environment repeats the random choices, and
// STORETEST_ROUNDS says how many rounds there are.
func TestTheBooksAreRightWhateverFails(t *testing.T) {
	rounds := 60
	if testing.Short() {
		rounds /= 5
	}
	if text := os.Getenv("STORETEST_ROUNDS"); text != "" {
		var err error
		if rounds, err = strconv.Atoi(text); err != nil {
			t.Fatalf("STORETEST_ROUNDS: %v", err)
		}
	}
	t.Logf("rounds to play: STORETEST_ROUNDS=%d", rounds)
	b := newBooks(t, storetest.Rand(t))
	for range rounds {
		b.play()
		if b.killed || b.IntN(16) == 0 {
			b.check()
		}
		switch b.IntN(40) {
		case 0:
			b.reopen(b.path)
		case 1:
			b.inWriter(func(w *writer) error { _, err := w.write("PRAGMA wal_checkpoint(TRUNCATE)"); return err })
		}
	}
	b.check()
	b.deliverAll()
	b.reopen(b.path)
	b.check()
}

func newBooks(t *testing.T, r *rand.Rand) *books {
	b := &books{
		T: t, Rand: r, clock: storetest.NewClock(), path: filepath.Join(t.TempDir(), "gateway.db"), apps: []tenant.AppID{"app_1", "app_2", "app_3"},
		entries: make(map[string]*expected), events: make(map[store.EventID]*expectedEvent),
	}
	b.open(b.path)
	for i := range 12 {
		id := tenant.AccountID("acct_" + strconv.Itoa(i))
		b.accounts = append(b.accounts, id)
		if err := b.s.CreateAccount(t.Context(), tenant.Account{ID: id, Currency: "USD", CreatedAt: b.clock.Now()}); err != nil {
			t.Fatal(err)
		}
		amount := pricing.Micros(1_000_000)
		if i < 3 {
			amount = 4_000
		}
		entry := b.expect(id, store.Entry{ID: tenant.NewID("credit"), Kind: store.KindCredit, Amount: amount})
		if _, err := b.s.Credit(t.Context(), id, amount, entry.ID); err != nil {
			t.Fatal(err)
		}
		entry.be(certain)
	}
	return b
}

// open opens a database, of which the indexes have small batches.
func (b *books) open(path string) {
	b.Helper()
	b.s, b.path = open(b.T, path, b.clock.Now), path
	b.inWriter(func(w *writer) error {
		w.accounts.size, w.messages.size, w.accounts.chunk = 3+b.IntN(8), 2+b.IntN(5), 1+b.IntN(6)
		return nil
	})
	for _, h := range b.sent {
		h.early = false // it was in memory alone
	}
}

// reopen ends the gateway and begins another one, on the same database or on a copy.
func (b *books) reopen(path string) {
	b.Helper()
	if b.tool != nil {
		b.closeStore(b.tool)
		b.tool = nil
	}
	b.closeStore(b.s)
	b.open(path)
}

func (b *books) closeStore(s *Store) {
	b.Helper()
	if err := s.Close(); err != nil {
		b.Fatal(err)
	}
}

func (b *books) inWriter(f func(*writer) error) {
	b.Helper()
	inWriter(b.T, b.s, f)
}

// play plays a round.
func (b *books) play() {
	b.round++
	b.killed = false
	path := b.path
	var steps []*step
	for delivering := false; len(steps) == 0 || len(steps) < 8 && b.IntN(5) > 0; {
		n := b.IntN(40)
		if claims := n >= 16 && n < 19; claims && delivering { // they would wait for one another
			continue
		} else if claims {
			delivering = true
		}
		if s := b.step(n); s != nil {
			steps = append(steps, s)
		}
	}
	heal, strikes := b.fault(steps)
	b.together(steps, strikes)
	heal()
	b.inWriter(func(w *writer) error { w.tidyAgain, w.arrivals.again = time.Time{}, time.Time{}; return nil })
	for _, s := range steps {
		s.tell(s.err)
	}
	if b.killed {
		for _, h := range b.sent {
			h.abandoned = false // nobody knows of it any more
		}
		killed := b.path
		b.path = path
		b.reopen(killed)
	}
	b.clock.Advance(time.Duration(b.IntN(300)) * time.Millisecond)
}

// together has all steps wait for the writer, so that they go into one commit in their order, but
// for what one does later. strikes go between them.
func (b *books) together(steps []*step, strikes map[int]func(*writer) error) {
	began, goOn := make(chan struct{}), make(chan struct{})
	b.strike(func(*writer) error { close(began); <-goOn; return nil })
	<-began
	for i, s := range steps {
		if strike := strikes[i]; strike != nil {
			b.strike(strike)
		}
		waiting := b.waiting()
		s.ctx, s.cancel = context.WithCancel(context.Background())
		s.returned = make(chan struct{})
		go func() {
			defer close(s.returned)
			s.err = s.call(s.ctx)
		}()
		for returned := false; !returned && b.waiting() == waiting; {
			select {
			case <-s.returned:
				returned = true
			default:
				runtime.Gosched()
			}
		}
	}
	if strike := strikes[len(steps)]; strike != nil {
		b.strike(strike)
	}
	close(goOn)
	for _, s := range steps {
		<-s.returned
		s.cancel()
	}
	b.inWriter(func(*writer) error { return nil }) // whoever has gone leaves the writer at it
}

// strike has the writer do something in its turn.
func (b *books) strike(apply func(*writer) error) {
	b.s.writer.queue.add(&operation{apply: apply, after: func(error) {}})
}

func (b *books) waiting() int {
	q := &b.s.writer.queue
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.waiting)
}

// uncertain tells whether an error leaves open what has happened.
func (b *books) uncertain(err error) bool {
	return b.killed || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}

// told is what an answer says about what was asked for.
func (b *books) told(err error) certainty {
	switch {
	case b.uncertain(err):
		return possible
	case err == nil:
		return certain
	}
	return impossible
}
