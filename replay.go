package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/connexease/caddy-whatsapp-gateway/journal"
	"github.com/connexease/caddy-whatsapp-gateway/pricing"
	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

// The kinds of records in the journal.
const (
	journaledCapture = "capture"
	journaledRelease = "release"
	journaledWebhook = "webhook"
)

const (
	// journalTimeout bounds a step in the journal.
	journalTimeout = 5 * time.Second
	// replayEvery is how often it is looked whether the store is back.
	replayEvery = time.Second
	// replayBatch is how many records are taken from the journal at once.
	replayBatch = 64
	// maxRemembered is how old a settlement is at the most that may make a hold again. It is
	// shorter than any store remembers settled holds.
	maxRemembered = 30 * 24 * time.Hour
	// maxStuck is how often the first record may fail while the store answers others.
	maxStuck = 10
)

// latestJournal is the journal that was opened last, and nil without one.
var latestJournal atomic.Pointer[journal.Journal]

// journalKeeper is a backend whose store may be away, with a folder for what waits.
type journalKeeper interface {
	JournalDir() string
}

// openJournal opens the journal, if the backend has one.
func (s *sharedStore) openJournal(b backend) (err error) {
	keeper, ok := b.(journalKeeper)
	if !ok || keeper.JournalDir() == "" {
		return nil
	}
	if s.journal, err = journal.Open(keeper.JournalDir()); err != nil {
		return err
	}
	latestJournal.Store(s.journal)
	return nil
}

func (s *sharedStore) closeJournal() error {
	if s.journal == nil {
		return nil
	}
	latestJournal.CompareAndSwap(s.journal, nil)
	return s.journal.Close()
}

// gotAnswer tells whether a store, or the Core Service, has answered; no error is an
// answer, too.
func gotAnswer(err error) bool { return err == nil || store.Answered(err) }

// storeAway tells whether an error says that the store is away.
func storeAway(err error) bool {
	return !gotAnswer(err) && !errors.Is(err, errCoreAway) && !errors.Is(err, store.ErrClosed)
}

// journaledSettlement is a settlement in the journal.
type journaledSettlement struct {
	Hold      store.HoldID     `json:"hold"`
	App       tenant.AppID     `json:"app,omitempty"`
	Account   tenant.AccountID `json:"account,omitempty"`
	Fee       pricing.Micros   `json:"fee,omitempty"`
	MessageID string           `json:"message_id,omitempty"`
	// At is when the outcome was known, in records that say it.
	At time.Time `json:"at,omitzero"`
}

// journalSettlement has a settlement wait for the store.
func (s *sharedStore) journalSettlement(st settlement) error {
	body, err := json.Marshal(journaledSettlement{st.hold, st.app, st.account, st.fee, st.messageID, st.at})
	if err != nil {
		return err
	}
	kind := journaledRelease
	if st.outcome == store.Captured {
		kind = journaledCapture
	}
	return s.append(journal.Record{Kind: kind, Body: body})
}

func (s *sharedStore) append(r journal.Record) error {
	return within(context.Background(), journalTimeout, func(ctx context.Context) error { return s.journal.Append(ctx, r) })
}

// webhookSeed returns what the ids of a webhook's events are to be made from, or
// nothing where the webhook cannot come to be journaled.
func (s *sharedStore) webhookSeed() string {
	if s.journal == nil {
		return ""
	}
	return tenant.NewID("webhook")
}

// journalWebhook has a webhook wait for the store if that is away, which is what
// err tells. Otherwise it returns err.
func (s *sharedStore) journalWebhook(seed string, body []byte, err error) error {
	if s.journal == nil || !storeAway(err) {
		return err
	}
	record := journal.Record{Kind: journaledWebhook, Body: slices.Concat([]byte(seed), []byte("\n"), body)}
	if journalErr := s.append(record); journalErr != nil {
		return errors.Join(err, journalErr)
	}
	return nil
}

// replayJournal gives the store what waits for it, as soon as it is back, until
// ctx is done.
func (a *App) replayJournal(ctx context.Context) {
	ticker := time.NewTicker(replayEvery)
	defer ticker.Stop()
	for {
		if a.store.journal.Waiting() > 0 {
			n, err := a.replay(ctx)
			if n > 0 {
				a.logger.Info("replayed the journal", zap.Int("records", n), zap.Int64("waiting", a.store.journal.Waiting()))
			}
			if err != nil && !storeAway(err) && !errors.Is(err, store.ErrBusy) && ctx.Err() == nil {
				a.logger.Error("replaying the journal failed", zap.Error(err))
			}
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

// replay gives the store what is in the journal, oldest first, up to the first
// record that it is away for, and returns how many it has taken. [store.ErrBusy]:
// somebody else is at it.
func (a *App) replay(ctx context.Context) (done int, err error) {
	if !a.store.replaying.TryLock() {
		return 0, store.ErrBusy
	}
	defer a.store.replaying.Unlock()
	for {
		records, err := a.store.journal.Next(ctx, replayBatch)
		if err != nil || len(records) == 0 {
			return done, err
		}
		n, err := a.replayRecords(ctx, records)
		if done += n; err != nil {
			return done, err
		}
	}
}

// replayRecords does so with some of the records. One that the store will not take,
// whatever the reason, is kept and holds up none of those behind it.
func (a *App) replayRecords(ctx context.Context, records []journal.Record) (n int, err error) {
	var done []int64
	defer func() {
		// What has been done is ticked off even when the time is up.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), journalTimeout)
		defer cancel()
		err = errors.Join(err, a.store.journal.Done(ctx, done...))
	}()
	var full error
	defer func() { err = errors.Join(err, full) }()
	for _, r := range records {
		err := a.replayRecord(ctx, r)
		switch {
		case err == nil:
			done = append(done, r.ID)
		case errors.Is(err, store.ErrFull): // there is room for a charge, and perhaps for others
			full = err
		case ctx.Err() != nil || storeAway(err) && !a.isStuck(ctx, r):
			return len(done), err
		default:
			a.logger.Error("a record of the journal cannot be replayed now and is kept",
				zap.Int64("record", r.ID), zap.String("kind", r.Kind), zap.Int("attempts", r.Attempts+1), zap.Error(err))
			if err := a.store.journal.Fail(ctx, r.ID, err.Error()); err != nil {
				return len(done), err
			}
		}
	}
	return len(done), nil
}

// stuck is the record that was the first to fail, and how often in a row.
type stuck struct {
	record int64
	rounds int
}

// isStuck tells whether a record fails as if the store were away, although that has
// answered other questions each time: perhaps it is too much for its timeout.
func (a *App) isStuck(ctx context.Context, r journal.Record) bool {
	s := &a.store.stuck
	if s.record != r.ID {
		*s = stuck{record: r.ID}
	}
	err := within(ctx, lookUpTimeout, func(ctx context.Context) error {
		_, err := a.store.App(ctx, "")
		return err
	})
	if gotAnswer(err) {
		s.rounds++
	}
	return s.rounds >= maxStuck
}

// replayRecord gives the store one record. All of it may have taken effect before.
func (a *App) replayRecord(ctx context.Context, r journal.Record) error {
	switch r.Kind {
	case journaledCapture, journaledRelease:
		return a.replaySettlement(r)
	case journaledWebhook:
		return a.replayWebhook(ctx, r.Body)
	}
	return fmt.Errorf("%w: the kind %q is none of this release's", store.ErrCorrupt, r.Kind)
}

func (a *App) replaySettlement(r journal.Record) error {
	var j journaledSettlement
	if err := json.Unmarshal(r.Body, &j); err != nil || !j.Hold.Valid() {
		return fmt.Errorf("%w: a settlement in the journal", store.ErrCorrupt)
	}
	st := settlement{
		hold: j.Hold, app: j.App, account: j.Account, fee: j.Fee, outcome: store.Released, messageID: j.MessageID,
	}
	if r.Kind == journaledCapture {
		st.outcome = store.Captured
	}
	if st.at = j.At; st.at.IsZero() {
		st.at = r.At
	}
	a.store.remind(st)
	return a.store.trySettle(st)
}

func (a *App) replayWebhook(ctx context.Context, record []byte) error {
	seed, body, ok := bytes.Cut(record, []byte("\n"))
	if !ok {
		return fmt.Errorf("%w: a webhook in the journal", store.ErrCorrupt)
	}
	ctx, cancel := context.WithTimeout(ctx, receiveTimeout)
	defer cancel()
	in, err := a.takeIn(ctx, body, string(seed))
	if err != nil {
		return err
	}
	if len(in.quarantined) > 0 {
		a.logger.Warn("webhook quarantined, in part or whole", zap.Strings("quarantined", in.quarantined))
	}
	a.wake(in.apps())
	return nil
}
