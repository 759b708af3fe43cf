package redis

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/connexease/caddy-whatsapp-gateway/pricing"
	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

var (
	followScript   = newScript(header, "scripts/money.lua", "scripts/follow.lua")
	reportedScript = newScript(headerAlways, "scripts/money.lua", "scripts/reported.lua")
)

// Follow implements [store.Follower].
func (s *Store) Follow(ctx context.Context, t store.Total) error {
	for {
		reply, err := s.run(ctx, followScript, placeOf(t.Account), string(t.Account), t.Currency, int64(t.Credited), t.Version, t.TotalID())
		if err != nil {
			return err
		}
		switch reply {
		case "followed", "old":
			return nil
		case "conflict":
			return store.ErrConflict
		case "overflow":
			return pricing.ErrOverflow
		case "no_account":
			account := tenant.Account{ID: t.Account, Name: string(t.Account), Currency: t.Currency, CreatedAt: s.localTime().UTC()}
			if err := s.CreateAccount(ctx, account); err != nil && !errors.Is(err, store.ErrExists) {
				return err
			}
		default:
			return unexpected(reply)
		}
	}
}

// reporterLease is for how long one gateway reports while it is not heard of.
const reporterLease = 30 * time.Second

// reach is how far an account's ledger is in a report.
type reach struct {
	Account tenant.AccountID `json:"account"`
	Last    string           `json:"last"`
}

// Unreported implements [store.Follower]. Whoever reports has a lease on it, so
// that the entries of an account are first sent in their order.
func (s *Store) Unreported(ctx context.Context, most int) (store.Report, error) {
	if err := s.leaseReporter(ctx); err != nil {
		return store.Report{}, err
	}
	for {
		report, reached, err := s.unreported(ctx, most)
		if err != nil || len(report.Entries) > 0 || len(reached) == 0 {
			return report, err
		}
		// Holds and releases alone, which are not reported.
		if err := s.reported(ctx, reached); err != nil {
			return store.Report{}, err
		}
	}
}

// leaseReporter returns [store.ErrBusy] where another gateway reports.
func (s *Store) leaseReporter(ctx context.Context) error {
	key := s.key("reporter")
	s.reports.Store(true)
	return s.try(ctx, func(ctx context.Context) error {
		holder, err := s.client.SetArgs(ctx, key, s.id, goredis.SetArgs{Mode: "NX", Get: true, TTL: reporterLease}).Result()
		switch {
		case errors.Is(err, goredis.Nil):
			return nil
		case err != nil:
			return err
		case holder != s.id:
			return store.ErrBusy
		}
		return s.client.PExpire(ctx, key, reporterLease).Err()
	})
}

// endReporting leaves reporting to others at once, if it was this gateway's.
func (s *Store) endReporting() {
	ctx, cancel := context.WithTimeout(context.Background(), s.timeout)
	defer cancel()
	key := s.key("reporter")
	if holder, err := s.client.Get(ctx, key).Result(); err == nil && holder == s.id {
		_ = s.client.Del(ctx, key).Err() // without, it ends by itself
	}
}

// unreported collects entries of as many accounts as it takes.
func (s *Store) unreported(ctx context.Context, most int) (report store.Report, reached []reach, err error) {
	for _, p := range allPlaces() {
		var accounts []string
		err := s.try(ctx, func(ctx context.Context) (err error) {
			accounts, err = s.client.SRandMemberN(ctx, s.base(p)+"unreported", int64(most)).Result()
			return err
		})
		if err != nil {
			return report, nil, err
		}
		for _, account := range accounts {
			room := most - len(report.Entries)
			if room <= 0 {
				break
			}
			last, entries, err := s.unreportedOf(ctx, tenant.AccountID(account), room)
			if err != nil {
				return report, nil, err
			}
			report.Entries = append(report.Entries, entries...)
			reached = append(reached, reach{tenant.AccountID(account), last})
		}
	}
	if len(report.Entries) > 0 {
		cursor, err := json.Marshal(reached)
		if err != nil {
			return report, nil, err
		}
		report.Cursor = string(cursor)
	}
	return report, reached, nil
}

// unreportedOf returns entries of one account, and the last one in the stream
// that was looked at.
func (s *Store) unreportedOf(ctx context.Context, account tenant.AccountID, most int) (last string, entries []store.ReportedEntry, err error) {
	err = s.try(ctx, func(ctx context.Context) error {
		last, err = s.client.HGet(ctx, s.wallet(account), "reported").Result()
		if errors.Is(err, goredis.Nil) {
			last, err = "0-0", nil
		}
		return err
	})
	if err != nil {
		return "", nil, err
	}
	page, err := s.ledgerPage(ctx, account, "("+last, most)
	for _, message := range page {
		e, err := parseEntry(message, placeOf(account))
		if err != nil {
			return "", nil, err
		}
		last = message.ID
		if e.Kind != store.KindHold && e.Kind != store.KindRelease {
			entries = append(entries, store.ReportedEntry{Account: account, Entry: e})
		}
	}
	return last, entries, err
}

// Reported implements [store.Follower].
func (s *Store) Reported(ctx context.Context, r store.Report) error {
	if r.Cursor == "" {
		return nil
	}
	var reached []reach
	if err := json.Unmarshal([]byte(r.Cursor), &reached); err != nil {
		return err
	}
	return s.reported(ctx, reached)
}

func (s *Store) reported(ctx context.Context, reached []reach) error {
	for _, r := range reached {
		if _, err := s.run(ctx, reportedScript, placeOf(r.Account), string(r.Account), r.Last); err != nil {
			return err
		}
	}
	return nil
}
