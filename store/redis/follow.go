package redis

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"

	goredis "github.com/redis/go-redis/v9"
	"go.uber.org/zap"

	"github.com/connexease/caddy-whatsapp-gateway/pricing"
	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

var (
	followScript   = newScript(header, "scripts/records.lua", "scripts/money.lua", "scripts/follow.lua")
	reportedScript = newScript(headerAlways, "scripts/records.lua", "scripts/reported.lua")
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

// unreported collects entries of as many accounts as it takes, in a few round trips.
func (s *Store) unreported(ctx context.Context, most int) (report store.Report, reached []reach, err error) {
	accounts, err := s.unreportedAccounts(ctx, most)
	if err != nil || len(accounts) == 0 {
		return report, nil, err
	}
	from := make(map[string]string, len(accounts)) // by wallet
	wallets := make([]string, len(accounts))
	for i, account := range accounts {
		wallets[i] = s.wallet(account)
	}
	last, err := inBatches(ctx, s, wallets, func(ctx context.Context, pipe goredis.Pipeliner, key string) func() (answerOf[string], error) {
		return either(pipe.HGet(ctx, key, "reported").Result)
	})
	if err != nil {
		return report, nil, err
	}
	for i := range last {
		from[wallets[i]] = cmp.Or(last[i].value, "0-0")
	}
	each := int64(most / len(accounts)) // of whom there are no more than that
	pages, err := inBatches(ctx, s, wallets, func(ctx context.Context, pipe goredis.Pipeliner, key string) func() (answerOf[[]goredis.XMessage], error) {
		return either(pipe.XRangeN(ctx, strings.Replace(key, "}:wallet:", "}:ledger:", 1), "("+from[key], "+", each).Result)
	})
	if err != nil {
		return report, nil, err
	}
	for i, account := range accounts {
		until, entries, err := from[wallets[i]], []store.ReportedEntry(nil), cmp.Or(last[i].err, pages[i].err)
		if err == nil {
			until, entries, err = reportedEntries(account, until, pages[i].value, int(each))
		}
		if err != nil {
			s.log().Error("the ledger of an account cannot be reported", zap.String("account_id", string(account)), zap.Error(err))
			continue // the others' can
		}
		report.Entries = append(report.Entries, entries...)
		reached = append(reached, reach{account, until})
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

// unreportedAccounts are some of the accounts that have something to report.
func (s *Store) unreportedAccounts(ctx context.Context, most int) ([]tenant.AccountID, error) {
	sets := make([]string, places)
	for i, p := range allPlaces() {
		sets[i] = s.base(p) + "unreported"
	}
	found, err := inBatches(ctx, s, sets, func(ctx context.Context, pipe goredis.Pipeliner, key string) func() ([]string, error) {
		return pipe.SRandMemberN(ctx, key, int64(most)).Result
	})
	var accounts []tenant.AccountID
	for _, ids := range found {
		for _, id := range ids {
			accounts = append(accounts, tenant.AccountID(id))
		}
	}
	// None is always behind the others.
	rand.Shuffle(len(accounts), func(i, j int) { accounts[i], accounts[j] = accounts[j], accounts[i] })
	return accounts[:min(len(accounts), most)], err
}

// answerOf is what Redis has answered: a value or an error.
type answerOf[T any] struct {
	value T
	err   error
}

// either makes of an error that Redis has answered an answer.
func either[T any](result func() (T, error)) func() (answerOf[T], error) {
	return func() (answerOf[T], error) {
		value, err := result()
		if err != nil && !errors.Is(err, goredis.Nil) && answered(err) {
			return answerOf[T]{err: err}, nil
		}
		return answerOf[T]{value: value}, err
	}
}

// reportedEntries are those behind the last one that are reported, up to so many of a page of an account's ledger, and the
// id in the stream of the last one that was looked at.
func reportedEntries(account tenant.AccountID, last string, page []goredis.XMessage, most int) (string, []store.ReportedEntry, error) {
	var entries []store.ReportedEntry
	from, err := streamTime(last)
	if err != nil {
		return "", nil, err
	}
	for _, message := range page {
		items, err := parseEntries(message, placeOf(account))
		if err != nil {
			return "", nil, err
		}
		until, err := streamTime(message.ID)
		if err != nil {
			return "", nil, err
		}
		for i, e := range items {
			at := until - int64(len(items)-1-i)
			if at <= from {
				continue
			}
			if len(entries) == most {
				return last, entries, nil
			}
			last = strconv.FormatInt(at, 10) + "-0"
			if e.Kind != store.KindHold && e.Kind != store.KindRelease {
				entries = append(entries, store.ReportedEntry{Account: account, Entry: e})
			}
		}
	}
	return last, entries, nil
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
	args := make(map[place][]any)
	for _, r := range reached {
		p := placeOf(r.Account)
		args[p] = append(args[p], string(r.Account), r.Last)
	}
	_, err := s.runIn(ctx, reportedScript, slices.Collect(maps.Keys(args)), func(p place) []any { return args[p] })
	return err
}
