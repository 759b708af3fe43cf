package redis

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strconv"
	"strings"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/connexease/caddy-whatsapp-gateway/pricing"
	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

// ledgerPage is how many entries are read at a time.
const ledgerPage = 500

// Ledger implements [store.Store]. An account's ledger is a stream, whose ids are
// the times in microseconds.
func (s *Store) Ledger(ctx context.Context, account tenant.AccountID, since time.Time) iter.Seq2[store.Entry, error] {
	return func(yield func(store.Entry, error) bool) {
		if _, err := s.Balance(ctx, account); err != nil {
			yield(store.Entry{}, err)
			return
		}
		from := "-"
		if s.clock == nil && since.UnixMicro() > 0 {
			from = strconv.FormatInt(since.UnixMicro(), 10)
		}
		for {
			page, err := s.ledgerPage(ctx, account, from, ledgerPage)
			if err != nil {
				yield(store.Entry{}, err)
				return
			}
			for _, message := range page {
				e, err := parseEntry(message, placeOf(account))
				if err == nil && e.At.Before(since) {
					continue
				}
				if !yield(e, err) || err != nil {
					return
				}
			}
			if len(page) < ledgerPage {
				return
			}
			from = "(" + page[len(page)-1].ID
		}
	}
}

// ledgerPage reads some entries of an account's ledger.
func (s *Store) ledgerPage(ctx context.Context, account tenant.AccountID, from string, most int) (page []goredis.XMessage, err error) {
	err = s.try(ctx, func(ctx context.Context) error {
		page, err = s.client.XRangeN(ctx, s.base(placeOf(account))+"ledger:"+string(account), from, "+", int64(most)).Result()
		return err
	})
	return page, err
}

// firstEntry is when numbers begin, the year 2026 in microseconds: they are below 2^53,
// which every reader of JSON keeps as they are, until 2034.
const firstEntry = 1_767_225_600_000_000

// parseEntry reads an entry of a stream. Its number is the time and the place, so
// that numbers grow over all accounts and none is there twice.
func parseEntry(m goredis.XMessage, p place) (store.Entry, error) {
	field := func(name string) string {
		text, _ := m.Values[name].(string)
		return text
	}
	digits, _, _ := strings.Cut(m.ID, "-")
	at, err := strconv.ParseInt(digits, 10, 64)
	amount, err2 := strconv.ParseInt(field("a"), 10, 64)
	balance, err3 := strconv.ParseInt(field("b"), 10, 64)
	if err := errors.Join(err, err2, err3); err != nil {
		return store.Entry{}, fmt.Errorf("%w: the ledger's entry %s", store.ErrCorrupt, m.ID)
	}
	e := store.Entry{
		Seq: (at-firstEntry)*places + int64(p), Kind: store.Kind(field("k")), ID: field("o"),
		Amount: pricing.Micros(amount), Balance: pricing.Micros(balance),
		MessageID: field("m"), AppID: tenant.AppID(field("p")),
	}
	switch e.Kind {
	case store.KindHold, store.KindCapture, store.KindRelease:
		e.ID = store.HoldID(e.ID).EntryID(e.Kind)
	case store.KindTemplateFee:
		e.ID = store.TemplateFeeID(e.MessageID)
	}
	if set := field("t"); set != "" { // by the clock of a test
		if at, err = strconv.ParseInt(set, 10, 64); err != nil {
			return store.Entry{}, err
		}
	}
	e.At = time.UnixMicro(at).UTC()
	return e, nil
}
