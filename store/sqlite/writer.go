package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/connexease/caddy-whatsapp-gateway/pricing"
	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/store/window"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

const (
	// pollInterval is how soon the gateway notices what another process wrote.
	pollInterval = 50 * time.Millisecond
	// sweepInterval is how often memory and disk are freed of what is past.
	sweepInterval = 15 * time.Second
	// maxGroup bounds the operations of one commit, so that none waits long for
	// those behind it.
	maxGroup = 512
	// maxWallets bounds the wallets in memory; they are read again when needed.
	maxWallets = 100_000
)

// writer is the one goroutine that writes. It owns the connection for writing,
// the rate windows and the wallets in memory, so that none of them needs a
// lock and every decision sees all that came before it. Operations that wait
// while it commits go into the next commit together.
type writer struct {
	conn       *sql.Conn
	statements statements
	clock      func() time.Time
	epoch      time.Time // zero of the windows' time

	operations chan *operation // unbuffered: received means taken charge of
	closing    chan struct{}
	closed     chan struct{}
	generation atomic.Uint64

	dataVersion int64
	windows     map[tenant.AppID]*window.Windows
	wallets     map[tenant.AccountID]*wallet
	earlyFees   map[string]earlyFee // by message id

	// The transaction under way.
	open   bool
	broken error // why the rest of the group cannot be written
	stale  bool  // the directory has changed
	// changedDirectory: it has changed since the store was opened.
	changedDirectory bool
	dirty            []*wallet
	counted          []*window.Windows // what to undo if it fails
	pending          []*operation
	current          *operation

	sweeping  bool           // the last sweep has left dead letters that are too old
	unclaimed []store.HoldID // holds whose caller has gone, to be released
}

// wallet is an account's money as of the last commit plus the transaction
// under way.
type wallet struct {
	account  tenant.AccountID
	currency string
	credited pricing.Micros
	store.Balance
	dirty bool
}

// operation is one step that a caller waits for.
type operation struct {
	// apply does the work. It checks everything before it writes anything, so
	// that a refusal leaves the group intact; any error of SQLite's fails the
	// whole group.
	apply func(*writer) error

	state atomic.Int32
	wrote bool         // it needs the transaction under way to be committed
	made  store.HoldID // the hold that it has made, if any
	err   error
	done  chan struct{}
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
	if err := ctx.Err(); err != nil {
		return err
	}
	op.done = make(chan struct{})
	select {
	case w.operations <- op:
	case <-w.closing:
		return store.ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case <-op.done:
	case <-ctx.Done():
		if op.state.Swap(forsaken) != finished {
			return ctx.Err()
		}
		<-op.done
	}
	return op.err
}

// run is the writer's goroutine.
func (w *writer) run() {
	defer close(w.closed)
	poll, sweep := time.NewTicker(pollInterval), time.NewTicker(sweepInterval)
	defer poll.Stop()
	defer sweep.Stop()
	for {
		select {
		case op := <-w.operations:
			w.group(op)
		case <-poll.C:
			// Whatever fails here fails again, and is reported, where it matters.
			_, _ = w.refresh()
			w.releaseUnclaimed()
			if w.sweeping {
				w.sweeping = w.sweepDeadLetters()
			}
		case <-sweep.C:
			w.sweep()
		case <-w.closing:
			for w.releaseUnclaimed() {
			}
			return
		}
	}
}

// group runs op and all operations that wait behind it as one commit.
func (w *writer) group(op *operation) {
	w.step(op)
	for range maxGroup - 1 {
		op, more := w.next()
		if !more {
			break
		}
		w.step(op)
	}
	if err := w.commit(); err != nil {
		w.rollback(err)
	}
	w.broken = nil
	w.finish()
}

// next returns an operation that waits, if there is one.
func (w *writer) next() (*operation, bool) {
	select {
	case op := <-w.operations:
		return op, true
	default:
		return nil, false
	}
}

// step runs one operation within the transaction under way.
func (w *writer) step(op *operation) {
	w.pending = append(w.pending, op)
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
		close(op.done)
	}
	clear(w.pending)
	w.pending = w.pending[:0]
}

// begin opens the transaction unless there is one; an operation calls it before
// it writes. It tells whether another process has written since the last look,
// in which case a decision made before must be made again.
func (w *writer) begin() (changed bool, err error) {
	w.current.wrote = true
	if w.open {
		return false, nil
	}
	if w.broken != nil {
		return false, w.broken // what has just failed is not waited for again
	}
	if _, err := w.conn.ExecContext(context.Background(), "BEGIN IMMEDIATE"); err != nil {
		return false, err
	}
	w.open = true
	return w.refresh()
}

// refresh forgets the wallets in memory, and tells caches to do the same, if
// another connection has written since the last look.
func (w *writer) refresh() (changed bool, err error) {
	var version int64
	if err := w.statements.dataVersion.QueryRow().Scan(&version); err != nil {
		return false, err
	}
	if version == w.dataVersion {
		return false, nil
	}
	w.dataVersion = version
	clear(w.wallets)
	w.generation.Add(1)
	return true, nil
}

// commit writes the changed wallets and makes the group durable.
func (w *writer) commit() error {
	if !w.open {
		return nil
	}
	for _, wl := range w.dirty {
		if _, err := w.statements.updateWallet.Exec(wl.credited, wl.Available, wl.Held, wl.Captured, wl.account); err != nil {
			return err
		}
	}
	if _, err := w.conn.ExecContext(context.Background(), "COMMIT"); err != nil {
		return err
	}
	w.endTransaction()
	return nil
}

// rollback undoes the group, on disk and in memory, and gives err to those of
// its operations that had written.
func (w *writer) rollback(err error) {
	// SQLite itself has rolled back after some errors; a second time is refused
	// and changes nothing.
	_, _ = w.conn.ExecContext(context.Background(), "ROLLBACK")
	for _, wl := range w.dirty {
		delete(w.wallets, wl.account)
	}
	for _, ws := range w.counted {
		ws.Undo()
	}
	for _, op := range w.pending {
		if op.wrote && op.err == nil {
			op.err = fmt.Errorf("nothing was written: %w", err)
		}
	}
	w.endTransaction()
	w.broken = err
}

func (w *writer) endTransaction() {
	for _, wl := range w.dirty {
		wl.dirty = false
	}
	if w.stale {
		w.generation.Add(1)
		w.changedDirectory = true
	}
	w.open, w.stale, w.dirty, w.counted = false, false, w.dirty[:0], w.counted[:0]
}

// wallet returns an account's money, from memory if it is there.
func (w *writer) wallet(account tenant.AccountID) (*wallet, error) {
	if wl, ok := w.wallets[account]; ok {
		return wl, nil
	}
	wl := &wallet{account: account}
	err := w.statements.selectWallet.QueryRow(account).Scan(&wl.currency, &wl.credited, &wl.Available, &wl.Held, &wl.Captured)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, store.ErrNotFound
	}
	if err != nil {
		return nil, err
	}
	w.wallets[account] = wl
	return wl, nil
}

// touch marks a wallet as changed by the transaction under way.
func (w *writer) touch(wl *wallet) {
	if !wl.dirty {
		wl.dirty = true
		w.dirty = append(w.dirty, wl)
	}
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
	for app, ws := range w.windows {
		if ws.Expire(now); ws.Minute.Total == 0 {
			delete(w.windows, app)
		}
	}
	if len(w.wallets) > maxWallets {
		clear(w.wallets)
	}
	w.forgetEarlyFees()
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
	op := &operation{done: make(chan struct{}), apply: func(w *writer) error {
		for _, id := range batch {
			if _, err := w.settle(id, store.Released, ""); err != nil && !refusal(err) {
				return err
			}
		}
		return nil
	}}
	w.group(op)
	if op.err != nil {
		w.unclaimed = append(w.unclaimed, batch...)
	}
	return op.err == nil
}

// close gives back the statements and the connection.
func (w *writer) close() error {
	return errors.Join(finalize(w.statements.all()), w.conn.Close())
}
