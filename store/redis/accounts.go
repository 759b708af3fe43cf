package redis

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strconv"

	goredis "github.com/redis/go-redis/v9"

	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

// An account is the fields of its wallet's hash that are no money. It exists once
// the hash has a currency.

var accountScript = newScript(header, "scripts/account.lua")

// wallet is the key of an account's hash.
func (s *Store) wallet(id tenant.AccountID) string {
	return s.base(placeOf(id)) + "wallet:" + string(id)
}

// numberedAccount is an account and its creation number.
type numberedAccount struct {
	tenant.Account
	n int64
}

// CreateAccount implements [store.Store]. The index comes first: an account that
// is not in it could be used and not be found, while the index is free to name one
// that was never made.
func (s *Store) CreateAccount(ctx context.Context, a tenant.Account) error {
	if err := s.accountExists(ctx, a.ID); !errors.Is(err, store.ErrNotFound) {
		return cmp.Or(err, store.ErrExists)
	}
	n, err := s.nextNumber(ctx)
	if err != nil {
		return err
	}
	if err := s.indexed(ctx, s.key("accounts"), string(a.ID), n); err != nil {
		return err
	}
	reply, err := s.run(ctx, accountScript, placeOf(a.ID), string(a.ID), a.Name, a.Currency, store.FormatTime(a.CreatedAt), n)
	if err != nil {
		return err
	}
	if reply == "exists" {
		return store.ErrExists
	}
	s.generation.Add(1)
	return nil
}

// Account implements [store.Store].
func (s *Store) Account(ctx context.Context, id tenant.AccountID) (tenant.Account, error) {
	accounts, err := s.accounts(ctx, []string{string(id)})
	if err != nil {
		return tenant.Account{}, err
	}
	if len(accounts) == 0 {
		return tenant.Account{}, store.ErrNotFound
	}
	return accounts[0], nil
}

// Accounts implements [store.Store].
func (s *Store) Accounts(ctx context.Context) ([]tenant.Account, error) {
	ids, err := s.members(ctx, s.key("accounts"))
	if err != nil {
		return nil, err
	}
	return s.accounts(ctx, ids)
}

// accounts returns those of the accounts that exist, oldest first.
func (s *Store) accounts(ctx context.Context, ids []string) ([]tenant.Account, error) {
	keys := make([]string, len(ids))
	for i, id := range ids {
		keys[i] = s.wallet(tenant.AccountID(id))
	}
	records, err := inBatches(ctx, s, keys, func(ctx context.Context, pipe goredis.Pipeliner, key string) func() ([]any, error) {
		return pipe.HMGet(ctx, key, "name", "currency", "created", "n").Result
	})
	if err != nil {
		return nil, err
	}
	var found []numberedAccount
	for i, record := range records {
		var f [4]string
		for j := range min(len(f), len(record)) {
			f[j], _ = record[j].(string)
		}
		if f[1] == "" {
			continue
		}
		a := numberedAccount{Account: tenant.Account{ID: tenant.AccountID(ids[i]), Name: f[0], Currency: f[1]}}
		if a.CreatedAt, err = store.ParseTime(f[2]); err != nil {
			return nil, err
		}
		a.n, _ = strconv.ParseInt(f[3], 10, 64) // one without a number comes first
		found = append(found, a)
	}
	slices.SortStableFunc(found, func(a, b numberedAccount) int { return cmp.Compare(a.n, b.n) })
	accounts := make([]tenant.Account, len(found))
	for i, a := range found {
		accounts[i] = a.Account
	}
	return accounts, nil
}

// accountExists returns [store.ErrNotFound] where there is no such account.
func (s *Store) accountExists(ctx context.Context, id tenant.AccountID) error {
	var exists bool
	err := s.try(ctx, func(ctx context.Context) (err error) {
		exists, err = s.client.HExists(ctx, s.wallet(id), "currency").Result()
		return err
	})
	if err == nil && !exists {
		err = store.ErrNotFound
	}
	return err
}
