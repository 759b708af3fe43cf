package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"runtime/debug"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/store/linger"
	"github.com/connexease/caddy-whatsapp-gateway/store/window"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

const (
	// pollInterval is how soon the gateway notices what another process wrote.
	pollInterval = 50 * time.Millisecond
	// sweepInterval is how often memory and disk are freed of what is past.
	sweepInterval = 15 * time.Second
	// minCommitInterval and maxCommitInterval bound how long after the beginning of one commit the next begins at the
	// latest, where somebody is expected to wait for busyGroup operations and more: it begins when they are there, or
	// enough. Making it durable costs as much for one as for all of them. What comes alone waits for nothing.
	minCommitInterval = time.Millisecond
	maxCommitInterval = 4 * time.Millisecond
	busyGroup         = 4
	// idleGroup is of how many operations a commit is, at the most, between which there is time to tidy.
	idleGroup = 2
	// unawaitedInterval is how long operations that nobody waits for wait for company.
	unawaitedInterval = time.Millisecond
	// maxGroup bounds the operations of one commit, so that none waits long for
	// those behind it.
	maxGroup = 512
	// maxWallets bounds the wallets in memory; they are read again when needed.
	maxWallets = 250_000
)

// writer is the one goroutine that writes. It owns the connection for writing,
// the rate windows and the wallets in memory, so that none of them needs a
// lock and every decision sees all that came before it. Operations that wait
// while it commits go into the next commit together.
type writer struct {
	conn       *sql.Conn
	statements statements
	commands   commands
	clock      func() time.Time
	epoch      time.Time // zero of the windows' time

	queue      queue
	linger     linger.Linger // of commits: see minCommitInterval
	timer      *time.Timer
	closing    chan struct{}
	closed     chan struct{}
	generation atomic.Uint64
	watched    atomic.Pointer[time.Time] // see Store.Watched

	committedAt time.Time // when the last commit was begun
	committed   int       // and how many operations it was of
	dataVersion int64     // of what is in memory
	lost        bool      // memory was dropped and is to be read again
	seq         int64     // of the last entry of the ledger
	tail        tail
	messages    messageIndex
	accounts    accountIndex
	arrivals    arrivals
	windows     *crowd[tenant.AppID, window.Windows] // nil for a command
	wallets     crowd[tenant.AccountID, wallet]
	earlyFees   map[string]earlyFee // by message id
	claims      *claims

	// The transaction under way.
	open   bool
	broken error // why the rest of the group cannot be written
	stale  bool  // the directory has changed
	// changed: what a gateway keeps in memory has, since the store was opened.
	changed  bool
	dirty    []*wallet
	counted  []*window.Windows   // what to undo if it fails
	replaced map[string]earlyFee // what to put back into earlyFees if it fails
	pending  []*operation
	current  *operation
	received []freshEvent
	moved    bool // events are pending, or not any more, for another reason
	shown    bool // all events that were there are in the outbox

	tidyAgain time.Time // not before; see tidy
	logger    atomic.Pointer[zap.Logger]
	sweeping  bool           // the last sweep has left dead letters that are too old
	unclaimed []store.HoldID // holds whose caller has gone, to be released
}

// operation is one step of somebody's, who mostly waits for it.
type operation struct {
	// apply does the work. It checks everything before it writes anything, so
	// that a refusal leaves the group intact; any error of SQLite's fails the
	// whole group.
	apply func(*writer) error

	state atomic.Int32
	wrote bool         // it needs the transaction under way to be committed
	made  store.HoldID // the hold that it has made, if any
	err   error
	// One of them tells of its end: it gets something for the caller who waits, or is called.
	done  chan struct{}
	after func(error)
}

// reset makes an operation that is finished a new one.
func (op *operation) reset() {
	op.state.Store(waiting)
	op.wrote, op.made, op.err = false, "", nil
}

// The states of an operation. Whoever swaps in the later one decides.
const (
	waiting int32 = iota
	taken
	finished
	forsaken
)

// refusal marks the errors that leave the transaction as it was.
func refusal(err error) bool {
	return store.Answered(err) || errors.As(err, new(changeError))
}

// do has the writer run op and waits for it to be durable, or for the context.
func (w *writer) do(ctx context.Context, op *operation) error {
	op.done = make(chan struct{}, 1)
	_, err := w.within(ctx, context.Background(), op)
	return err
}

// within has the writer run op and waits for it to be durable, or for one of two contexts. It
// tells whether the operation is finished: else it is the writer's for as long as that likes.
func (w *writer) within(ctx, limit context.Context, op *operation) (finally bool, err error) {
	if err := ctx.Err(); err != nil {
		return true, err
	}
	if !w.queue.add(op) {
		return true, store.ErrClosed
	}
	select {
	case <-op.done:
		return true, op.err
	case <-ctx.Done():
	case <-limit.Done():
		ctx = limit
	}
	if op.state.Swap(forsaken) != finished {
		return false, ctx.Err()
	}
	<-op.done
	return true, op.err
}

// run is the writer's goroutine.
func (w *writer) run() {
	defer close(w.closed)
	poll, sweep := time.NewTicker(pollInterval), time.NewTicker(sweepInterval)
	defer poll.Stop()
	defer sweep.Stop()
	for {
		select {
		case <-w.queue.filled:
			w.pace()
			w.group()
			if w.tail.due() && w.tidyDue() {
				w.tidy()
			}
		case <-poll.C:
			// Whatever fails here fails again, and is reported, where it matters.
			_, _ = w.refresh()
			w.releaseUnclaimed()
			if w.tidyDue() {
				w.tidy()
			}
			if w.windows != nil && w.arrivalsDue() && !time.Now().Before(w.arrivals.again) {
				w.tidyArrivals()
			}
			if w.sweeping {
				w.sweeping = w.sweepDeadLetters()
			}
		case <-sweep.C:
			w.sweep()
		case <-w.closing:
			for w.queue.close() {
				w.group()
			}
			for w.releaseUnclaimed() {
			}
			if w.windows != nil {
				_ = w.alone(w.enterAll) // the operator finds it all in the ledger
				_ = w.alone(w.enterAllArrivals)
			}
			return
		}
	}
}

// pace waits for the time of the next commit: where nobody waits for the operations that there
// are, for one that somebody waits for, and then, while many come at a time, for more of them.
func (w *writer) pace() {
	if !w.delay(unawaitedInterval, w.queue.urgent) || w.queue.expected < busyGroup {
		return
	}
	left := w.linger.Limit() - time.Since(w.committedAt)
	if came := w.delay(left, w.queue.crowded); came || left > 0 { // a commit that took as long itself teaches nothing
		w.linger.Learn(came)
	}
}

// delay waits for some time, and no longer than until there is something in the channel, there
// are operations enough, or the store is closed. It tells whether that was before the time was over.
func (w *writer) delay(wait time.Duration, until <-chan struct{}) bool {
	select {
	case <-until:
		return true
	default:
	}
	if wait <= 0 {
		return false
	}
	w.timer.Reset(wait)
	defer w.timer.Stop()
	select {
	case <-w.timer.C:
		return false
	case <-w.queue.enough:
		notify(w.queue.enough) // for the next wait, too
	case <-until:
	case <-w.closing:
	}
	return true
}

// group runs the operations that wait as one commit.
func (w *writer) group() {
	w.pending = w.queue.take(w.pending, maxGroup)
	began := time.Now()
	if w.execute() {
		w.committedAt, w.committed = began, len(w.pending)
	}
	w.queue.expect()
	w.finish()
}

// alone runs a step of the writer's own as a commit of its own.
func (w *writer) alone(step func() error) error {
	op := &operation{done: make(chan struct{}, 1), apply: func(w *writer) error {
		if _, err := w.begin(); err != nil {
			return err
		}
		return step()
	}}
	w.pending = append(w.pending, op)
	w.execute()
	w.finish()
	return op.err
}

// execute runs the operations that are pending, and tells whether there was something to
// commit.
func (w *writer) execute() (wrote bool) {
	for _, op := range w.pending {
		w.step(op)
	}
	wrote = w.open
	if err := w.commit(); err != nil {
		w.rollback(err)
	}
	w.broken = nil
	return wrote
}

// step runs one operation within the transaction under way.
func (w *writer) step(op *operation) {
	if !op.state.CompareAndSwap(waiting, taken) {
		return // its caller has gone, and nothing has happened yet
	}
	w.current = op
	op.err = w.apply(op)
	if op.err != nil && !refusal(op.err) {
		w.rollback(op.err)
	}
}

// apply runs an operation. One that panics fails as if the disk had: the writer
// is everybody's.
func (w *writer) apply(op *operation) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	return op.apply(w)
}

// finish answers every operation of the group.
func (w *writer) finish() {
	for _, op := range w.pending {
		if !op.state.CompareAndSwap(taken, finished) && op.err == nil && op.made != "" {
			w.unclaimed = append(w.unclaimed, op.made)
		}
		if op.after != nil {
			op.after(op.err)
		} else {
			op.done <- struct{}{}
		}
	}
	clear(w.pending)
	w.pending = w.pending[:0]
}

// now is the time as the windows count it: it does not jump when the machine's
// clock is set. It is rounded down, and an admission's own time is rounded up,
// to the microseconds that the database keeps, so that a restart changes no
// window and rounding lets nobody in early.
func (w *writer) now() time.Duration { return w.clock().Sub(w.epoch).Truncate(time.Microsecond) }

// admissionTime is the time of an admission.
func (w *writer) admissionTime() time.Time {
	return w.clock().Add(time.Microsecond - time.Nanosecond)
}

// sweep frees memory and disk of what is past.
func (w *writer) sweep() {
	now := w.now()
	if w.windows != nil {
		w.windows.deleteFunc(func(ws *window.Windows) bool { ws.Expire(now); return ws.Minute.Total == 0 })
	}
	if w.wallets.len() > maxWallets {
		w.wallets.deleteFunc(func(wl *wallet) bool { return wl.Balance == store.Balance(wl.entered) })
	}
	w.forgetEarlyFees()
	w.claims.sweep(w.clock())
	// What stays behind because this failed is swept the next time.
	_, _ = w.write("DELETE FROM free_admissions WHERE at < ?", w.clock().Add(-time.Minute).UnixMicro())
	w.sweeping = w.sweepDeadLetters()
}

// releaseUnclaimed gives back the holds whose callers went away before they
// could be told, many at a time. It tells whether it got anywhere.
func (w *writer) releaseUnclaimed() bool {
	n := min(len(w.unclaimed), maxGroup)
	if n == 0 {
		return false
	}
	batch := w.unclaimed[:n]
	w.unclaimed = w.unclaimed[n:] // the group may add to it
	err := w.alone(func() error {
		for _, id := range batch {
			if _, err := w.settle(id, store.Released, ""); err != nil && !refusal(err) {
				return err
			}
		}
		return nil
	})
	if err != nil {
		w.unclaimed = append(w.unclaimed, batch...)
	}
	return err == nil
}

// log is where to log now; nowhere for a command.
func (w *writer) log() *zap.Logger {
	if l := w.logger.Load(); l != nil {
		return l
	}
	return zap.NewNop()
}

// close gives back the statements and the connection.
func (w *writer) close() error {
	return errors.Join(w.commands.close(), finalize(w.statements.all()), w.conn.Close())
}
