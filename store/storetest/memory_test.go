package storetest

import (
	"context"
	"maps"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

// memory is the plainest store that there can be: one lock, an exact log of
// admissions, and no disk. It shows that the suite can be passed, and, with a
// fault, that it can be failed.
type memory struct {
	*records
	closed bool
}

// records are what is there again after a restart.
type records struct {
	fault      fault
	mu         sync.Mutex
	now        func() time.Time
	generation atomic.Uint64
	pepper     string
	accounts   []tenant.Account
	apps       []tenant.App
	keys       []tenant.APIKey
	admitted   map[tenant.AppID][]time.Time
	balances   map[tenant.AccountID]store.Balance
	entries    []owned
	ids        map[string]int // of entries
	outbox     []*letter      // oldest first
	claims     int            // made so far
	early      map[string]earlyFee
}

type owned struct {
	account tenant.AccountID
	store.Entry
}

// enter takes the lock for one call; leave it with m.mu.Unlock.
func (m *memory) enter(ctx context.Context) error {
	m.mu.Lock()
	if m.closed && m.fault != ignoresClose {
		return store.ErrClosed
	}
	if m.fault == ignoresContext {
		return nil
	}
	return ctx.Err()
}

// find returns a pointer to the first of s that fits, or nil.
func find[T any](s []T, fits func(*T) bool) *T {
	for i := range s {
		if fits(&s[i]) {
			return &s[i]
		}
	}
	return nil
}

func (m *memory) account(id tenant.AccountID) *tenant.Account {
	return find(m.accounts, func(a *tenant.Account) bool { return a.ID == id })
}

func (m *memory) app(id tenant.AppID) *tenant.App {
	return find(m.apps, func(a *tenant.App) bool { return a.ID == id })
}

func (m *memory) entry(id string) *owned {
	if i, ok := m.ids[id]; ok {
		return &m.entries[i]
	}
	return nil
}

func copyApp(a tenant.App) tenant.App {
	if a.RateLimit != nil {
		limits := *a.RateLimit
		a.RateLimit = &limits
	}
	if a.Webhook != nil {
		w := *a.Webhook
		w.Events, w.Headers = slices.Clone(w.Events), maps.Clone(w.Headers)
		if w.DisabledAt != nil {
			at := *w.DisabledAt
			w.DisabledAt = &at
		}
		a.Webhook = &w
	}
	return a
}

// readApp is the copy of an app that a caller gets.
func (m *memory) readApp(a tenant.App) tenant.App {
	if m.fault == sharesWebhooks {
		return a
	}
	a = copyApp(a)
	if m.fault == losesHeaders && a.Webhook != nil {
		a.Webhook.Headers = nil
	}
	return a
}

func (m *memory) Grant(ctx context.Context, d tenant.KeyDigest) (*tenant.Grant, error) {
	defer m.mu.Unlock()
	if err := m.enter(ctx); err != nil {
		return nil, err
	}
	key := find(m.keys, func(k *tenant.APIKey) bool { return k.Digest == d })
	if key == nil || !key.RevokedAt.IsZero() && m.fault != grantsRevoked {
		return nil, store.ErrNotFound
	}
	g := &tenant.Grant{KeyID: key.ID, App: m.readApp(*m.app(key.AppID))}
	if at := key.ExpiresAt; !at.IsZero() {
		g.ExpiresAt = &at
	}
	return g, nil
}

func (m *memory) Generation() uint64 { return m.generation.Load() }

func (m *memory) BindPepper(ctx context.Context, fingerprint string) error {
	defer m.mu.Unlock()
	if err := m.enter(ctx); err != nil {
		return err
	}
	if m.pepper == "" {
		m.pepper = fingerprint
	}
	if m.pepper != fingerprint {
		return store.ErrPepper
	}
	return nil
}

func (m *memory) CreateAccount(ctx context.Context, a tenant.Account) error {
	defer m.mu.Unlock()
	if err := m.enter(ctx); err != nil {
		return err
	}
	if m.account(a.ID) != nil {
		return store.ErrExists
	}
	m.accounts = append(m.accounts, a)
	return nil
}

func (m *memory) Account(ctx context.Context, id tenant.AccountID) (tenant.Account, error) {
	defer m.mu.Unlock()
	if err := m.enter(ctx); err != nil {
		return tenant.Account{}, err
	}
	if a := m.account(id); a != nil {
		return *a, nil
	}
	return tenant.Account{}, store.ErrNotFound
}

func (m *memory) Accounts(ctx context.Context) ([]tenant.Account, error) {
	defer m.mu.Unlock()
	if err := m.enter(ctx); err != nil {
		return nil, err
	}
	return slices.Clone(m.accounts), nil
}

func (m *memory) CreateApp(ctx context.Context, a tenant.App) error {
	defer m.mu.Unlock()
	if err := m.enter(ctx); err != nil {
		return err
	}
	if a.AccountID != "" && m.account(a.AccountID) == nil {
		return store.ErrNotFound
	}
	if m.app(a.ID) != nil {
		return store.ErrExists
	}
	m.apps = append(m.apps, copyApp(a))
	return nil
}

func (m *memory) UpdateApp(ctx context.Context, id tenant.AppID, change func(*tenant.App) error) (tenant.App, error) {
	if m.fault == growsTooEarly {
		m.generation.Add(1)
		runtime.Gosched()
	}
	defer m.mu.Unlock()
	if err := m.enter(ctx); err != nil {
		return tenant.App{}, err
	}
	a := m.app(id)
	if a == nil {
		return tenant.App{}, store.ErrNotFound
	}
	changed := copyApp(*a)
	if m.fault == sharesLimits {
		changed = *a
	}
	if err := change(&changed); err != nil {
		return tenant.App{}, err
	}
	if changed.AccountID != "" && m.account(changed.AccountID) == nil {
		return tenant.App{}, store.ErrNotFound
	}
	*a = copyApp(changed)
	if m.fault != growsTooEarly {
		m.generation.Add(1)
	}
	return changed, nil
}

func (m *memory) App(ctx context.Context, id tenant.AppID) (tenant.App, error) {
	defer m.mu.Unlock()
	if err := m.enter(ctx); err != nil {
		return tenant.App{}, err
	}
	if a := m.app(id); a != nil {
		return m.readApp(*a), nil
	}
	return tenant.App{}, store.ErrNotFound
}

func (m *memory) Apps(ctx context.Context) ([]tenant.App, error) {
	return m.appsThat(ctx, func(tenant.App) bool { return true })
}

func (m *memory) AppsWithNumber(ctx context.Context, id string) ([]tenant.App, error) {
	return m.appsThat(ctx, func(a tenant.App) bool {
		return a.PhoneNumberID == id && (id != "" || m.fault == findsUnnumbered)
	})
}

func (m *memory) AppsOfWABA(ctx context.Context, id string) ([]tenant.App, error) {
	apps, err := m.appsThat(ctx, func(a tenant.App) bool { return a.WABAID == id && id != "" })
	if m.fault == findsOneApp {
		apps = apps[:min(len(apps), 1)]
	}
	return apps, err
}

func (m *memory) appsThat(ctx context.Context, fit func(tenant.App) bool) (apps []tenant.App, err error) {
	defer m.mu.Unlock()
	if err := m.enter(ctx); err != nil {
		return nil, err
	}
	for _, a := range m.apps {
		if fit(a) {
			apps = append(apps, m.readApp(a))
		}
	}
	return apps, nil
}

func (m *memory) CreateKey(ctx context.Context, k tenant.APIKey) error {
	defer m.mu.Unlock()
	if err := m.enter(ctx); err != nil {
		return err
	}
	if m.app(k.AppID) == nil {
		return store.ErrNotFound
	}
	if find(m.keys, func(o *tenant.APIKey) bool { return o.ID == k.ID || o.Digest == k.Digest }) != nil {
		return store.ErrExists
	}
	m.keys = append(m.keys, k)
	return nil
}

func (m *memory) Keys(ctx context.Context, app tenant.AppID) ([]tenant.APIKey, error) {
	defer m.mu.Unlock()
	if err := m.enter(ctx); err != nil {
		return nil, err
	}
	if m.app(app) == nil {
		return nil, store.ErrNotFound
	}
	return slices.DeleteFunc(slices.Clone(m.keys), func(k tenant.APIKey) bool { return k.AppID != app }), nil
}

func (m *memory) RevokeKey(ctx context.Context, id tenant.KeyID, at time.Time) error {
	defer m.mu.Unlock()
	if err := m.enter(ctx); err != nil {
		return err
	}
	k := find(m.keys, func(k *tenant.APIKey) bool { return k.ID == id })
	if k == nil {
		return store.ErrNotFound
	}
	if k.RevokedAt.IsZero() {
		k.RevokedAt = at
	}
	m.generation.Add(1)
	return nil
}

func (m *memory) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = true
	switch m.fault {
	case forgetsWindows:
		clear(m.admitted)
	case forgetsEvents:
		m.outbox = nil
	}
	return nil
}
