// Package coretest is a small Core Service for tests, and the reference that the
// contract in core/openapi.yaml can be tried against. It keeps everything in
// memory, fails on demand, and counts what it is asked.
package coretest

import (
	"errors"
	"maps"
	"math"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

// ErrUnknown means that there is no such record.
var ErrUnknown = errors.New("unknown")

// Account is what the service says of an account.
type Account struct {
	ID       tenant.AccountID `json:"account_id"`
	Currency string           `json:"currency"`
	// Credited is everything ever credited, in millionths.
	Credited int64 `json:"credited_micros"`
	Version  int64 `json:"version"`
}

// Key is an API key, under the digest that the gateway asks for.
type Key struct {
	ID        tenant.KeyID `json:"key_id"`
	AppID     tenant.AppID `json:"app_id"`
	ExpiresAt *time.Time   `json:"expires_at"`
}

// Entry is a ledger entry as the gateway sends it.
type Entry struct {
	ID        string           `json:"id"`
	Account   tenant.AccountID `json:"account_id"`
	Kind      store.Kind       `json:"kind"`
	Amount    int64            `json:"amount_micros"`
	MessageID string           `json:"message_id,omitempty"`
	AppID     tenant.AppID     `json:"app_id,omitempty"`
	At        time.Time        `json:"at"`
}

// State is all that a service knows. Its JSON form holds secrets: those of webhooks.
type State struct {
	Accounts map[tenant.AccountID]Account `json:"accounts"`
	Apps     map[tenant.AppID]tenant.App  `json:"apps"`
	// Keys are by digest, in hexadecimal. A revoked key is none.
	Keys map[string]Key `json:"keys"`
	// Entries are in the order in which they arrived first.
	Entries []Entry `json:"entries"`
}

// Service is a Core Service as an http.Handler. It is safe for concurrent use;
// make one with [New].
type Service struct {
	token  string
	routes *http.ServeMux
	ended  chan struct{}
	end    func()

	// save, unless it is nil, keeps the state before a request that changes it is
	// answered. It is called by one goroutine at a time.
	save func(State) error

	mu       sync.Mutex
	state    State
	stored   map[string]bool // the ids of state.Entries
	faults   map[Route]Fault
	requests map[Route]int
}

// New returns an empty service that asks for this bearer token.
func New(token string) *Service {
	return NewFrom(token, State{}, nil)
}

// NewFrom returns a service that goes on from a state, which save is given
// whenever it has changed; nil keeps it in memory only.
func NewFrom(token string, state State, save func(State) error) *Service {
	s := &Service{
		token: token, save: save, stored: make(map[string]bool),
		faults: make(map[Route]Fault), requests: make(map[Route]int),
		ended: make(chan struct{}),
	}
	s.end = sync.OnceFunc(func() { close(s.ended) })
	s.state = state.clone()
	for _, e := range s.state.Entries {
		s.stored[e.ID] = true
	}
	s.routes = s.mux()
	return s
}

// Close ends requests that a fault is keeping waiting, and those to come.
func (s *Service) Close() { s.end() }

// PutAccount adds an account, or changes its currency. A new one has version 1.
func (s *Service) PutAccount(id tenant.AccountID, currency string) error {
	return s.change(func(state *State) error {
		a := state.Accounts[id]
		a.ID, a.Currency, a.Version = id, currency, a.Version+1
		state.Accounts[id] = a
		return nil
	})
}

// Credit adds millionths (negative: a correction) to what was ever credited to
// an account, and returns it as it is then.
func (s *Service) Credit(id tenant.AccountID, micros int64) (Account, error) {
	var credited Account
	err := s.change(func(state *State) error {
		a, ok := state.Accounts[id]
		if !ok {
			return ErrUnknown
		}
		if micros > 0 && a.Credited > math.MaxInt64-micros || micros < 0 && a.Credited < math.MinInt64-micros {
			return errors.New("the total would be out of range")
		}
		a.Credited += micros
		a.Version++
		state.Accounts[id] = a
		credited = a
		return nil
	})
	return credited, err
}

// PutApp adds or changes an app.
func (s *Service) PutApp(app tenant.App) error {
	return s.change(func(state *State) error {
		state.Apps[app.ID] = cloneApp(app)
		return nil
	})
}

// RemoveApp takes an app away, and with it what its keys could do.
func (s *Service) RemoveApp(id tenant.AppID) error {
	return s.change(func(state *State) error {
		delete(state.Apps, id)
		return nil
	})
}

// PutKey adds or changes a key.
func (s *Service) PutKey(digest tenant.KeyDigest, key Key) error {
	return s.change(func(state *State) error {
		state.Keys[digest.String()] = key
		return nil
	})
}

// Revoke makes a key unknown.
func (s *Service) Revoke(digest tenant.KeyDigest) error {
	return s.change(func(state *State) error {
		delete(state.Keys, digest.String())
		return nil
	})
}

// Account returns an account, or [ErrUnknown].
func (s *Service) Account(id tenant.AccountID) (Account, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a, ok := s.state.Accounts[id]
	if !ok {
		return Account{}, ErrUnknown
	}
	return a, nil
}

// Entries returns the ledger, in the order in which entries arrived first.
func (s *Service) Entries() []Entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.state.Entries)
}

// EntriesOf returns an account's part of [Service.Entries].
func (s *Service) EntriesOf(id tenant.AccountID) []Entry {
	return slices.DeleteFunc(s.Entries(), func(e Entry) bool { return e.Account != id })
}

// grant puts together what the key with this digest may do.
func (s *Service) grant(digest string) (*tenant.Grant, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	key, ok := s.state.Keys[digest]
	if !ok {
		return nil, false
	}
	app, ok := s.state.Apps[key.AppID]
	return &tenant.Grant{KeyID: key.ID, ExpiresAt: key.ExpiresAt, App: app}, ok
}

// apps returns the apps that fit, by id.
func (s *Service) apps(fits func(tenant.App) bool) []tenant.App {
	s.mu.Lock()
	defer s.mu.Unlock()
	found := []tenant.App{}
	for _, id := range slices.Sorted(maps.Keys(s.state.Apps)) {
		if app := s.state.Apps[id]; fits(app) {
			found = append(found, app)
		}
	}
	return found
}

// store keeps each entry that it has not seen before.
func (s *Service) store(entries []Entry) error {
	return s.change(func(state *State) error {
		for _, e := range entries {
			if !s.stored[e.ID] {
				s.stored[e.ID] = true
				state.Entries = append(state.Entries, e)
			}
		}
		return nil
	})
}

// change changes the state and has it saved. A change that could not be saved
// stays in memory; its repetition saves it, even where it changes nothing more.
func (s *Service) change(change func(*State) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := change(&s.state); err != nil {
		return err
	}
	if s.save == nil {
		return nil
	}
	return s.save(s.state)
}

// cloneApp copies what an app points to, which the caller may go on changing.
func cloneApp(app tenant.App) tenant.App {
	if app.RateLimit != nil {
		limit := *app.RateLimit
		app.RateLimit = &limit
	}
	if app.Webhook != nil {
		webhook := *app.Webhook
		webhook.Events, webhook.Headers = slices.Clone(webhook.Events), maps.Clone(webhook.Headers)
		app.Webhook = &webhook
	}
	return app
}

func (s State) clone() State {
	c := State{Accounts: maps.Clone(s.Accounts), Apps: maps.Clone(s.Apps), Keys: maps.Clone(s.Keys), Entries: slices.Clone(s.Entries)}
	if c.Accounts == nil {
		c.Accounts = make(map[tenant.AccountID]Account)
	}
	if c.Apps == nil {
		c.Apps = make(map[tenant.AppID]tenant.App)
	}
	if c.Keys == nil {
		c.Keys = make(map[string]Key)
	}
	return c
}
