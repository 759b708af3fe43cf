package redis

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

// appRecord is an app as it is stored.
type appRecord struct {
	tenant.App
	CreatedAt time.Time `json:"created_at,omitzero"`
	N         int64     `json:"n"`
	Revision  revision  `json:"revision"`
}

// app is the app of a record.
func (r *appRecord) app() tenant.App {
	a := r.App
	a.CreatedAt = r.CreatedAt
	return a
}

func (s *Store) appKey(id tenant.AppID) string { return s.key("app:" + string(id)) }

// parseApp reads the record of the app with this id.
func parseApp(document string, id tenant.AppID) (*appRecord, error) {
	r := new(appRecord)
	if err := decode(document, r); err != nil {
		return nil, err
	}
	if r.ID != id {
		return nil, fmt.Errorf("%w: it is not that of the app", store.ErrCorrupt)
	}
	if r.RateLimit != nil {
		if err := r.RateLimit.Validate(); err != nil {
			return nil, fmt.Errorf("%w: %w", store.ErrCorrupt, err)
		}
	}
	return r, nil
}

// readApp returns an app's record, also as it stands in Redis.
func (s *Store) readApp(ctx context.Context, id tenant.AppID) (*appRecord, string, error) {
	document, err := s.get(ctx, s.appKey(id))
	if err != nil {
		return nil, "", err
	}
	r, err := parseApp(document, id)
	return r, document, err
}

// CreateApp implements [store.Store].
func (s *Store) CreateApp(ctx context.Context, a tenant.App) error {
	if err := s.payerExists(ctx, a.AccountID); err != nil {
		return err
	}
	if exists, err := s.there(ctx, s.appKey(a.ID)); err != nil || exists {
		return cmp.Or(err, store.ErrExists)
	}
	n, err := s.nextNumber(ctx)
	if err != nil {
		return err
	}
	r := &appRecord{App: a, CreatedAt: a.CreatedAt.UTC(), N: n, Revision: newRevision()}
	document, err := encode(r)
	if err != nil {
		return err
	}
	if err := s.indexed(ctx, s.key("apps"), string(a.ID), n); err != nil {
		return err
	}
	if err := s.routed(ctx, r); err != nil {
		return err
	}
	there, err := s.take(ctx, s.appKey(a.ID), document)
	if err == nil && there != document {
		err = store.ErrExists
	}
	if err == nil {
		s.generation.Add(1)
	}
	return err
}

// payerExists allows an app to have no account.
func (s *Store) payerExists(ctx context.Context, id tenant.AccountID) error {
	if id == "" {
		return nil
	}
	return s.accountExists(ctx, id)
}

// numberIndex and wabaIndex lead from what Meta sends to apps. An app that has
// moved away stays in them: to take it out could undo what another gateway does.
func (s *Store) numberIndex(phoneNumberID string) string { return s.key("number:" + phoneNumberID) }
func (s *Store) wabaIndex(wabaID string) string          { return s.key("waba:" + wabaID) }

// routed makes an app that is about to be written be found.
func (s *Store) routed(ctx context.Context, r *appRecord) error {
	if r.PhoneNumberID != "" {
		if err := s.indexed(ctx, s.numberIndex(r.PhoneNumberID), string(r.ID), r.N); err != nil {
			return err
		}
	}
	if r.WABAID != "" {
		return s.indexed(ctx, s.wabaIndex(r.WABAID), string(r.ID), r.N)
	}
	return nil
}

// UpdateApp implements [store.Store].
func (s *Store) UpdateApp(ctx context.Context, id tenant.AppID, change func(*tenant.App) error) (tenant.App, error) {
	for {
		r, before, err := s.readApp(ctx, id)
		if err != nil {
			return tenant.App{}, err
		}
		changed, err := r.changed(change)
		if err != nil {
			return tenant.App{}, err
		}
		if err := s.payerExists(ctx, r.AccountID); err != nil {
			return tenant.App{}, err
		}
		if !changed {
			return r.app(), nil
		}
		r.Revision = newRevision()
		after, err := encode(r)
		if err != nil {
			return tenant.App{}, err
		}
		if err := s.routed(ctx, r); err != nil {
			return tenant.App{}, err
		}
		replaced, err := s.replace(ctx, s.appKey(id), before, after)
		if err != nil {
			return tenant.App{}, err
		}
		if replaced {
			if err := s.invalidateApp(ctx, id); err != nil {
				return tenant.App{}, err
			}
			return r.app(), nil
		}
		// Another one was faster: the change is made again, to what is there now.
	}
}

// changed makes a change to the record and tells whether it made any difference: a
// gateway that repeats what the Core Service says must not make everybody read again.
func (r *appRecord) changed(change func(*tenant.App) error) (bool, error) {
	before, err := encode(r)
	if err != nil {
		return false, err
	}
	a := r.app()
	if err := change(&a); err != nil {
		return false, err
	}
	a.ID, a.CreatedAt = r.ID, r.CreatedAt // neither is the caller's to change
	r.App = a
	after, err := encode(r)
	return before != after, err
}

// App implements [store.Store].
func (s *Store) App(ctx context.Context, id tenant.AppID) (tenant.App, error) {
	r, _, err := s.readApp(ctx, id)
	if err != nil {
		return tenant.App{}, err
	}
	return r.app(), nil
}

// Apps implements [store.Store].
func (s *Store) Apps(ctx context.Context) ([]tenant.App, error) {
	return s.appsIn(ctx, s.key("apps"), func(*appRecord) bool { return true })
}

// AppsWithNumber implements [store.Store].
func (s *Store) AppsWithNumber(ctx context.Context, phoneNumberID string) ([]tenant.App, error) {
	if phoneNumberID == "" {
		return nil, nil
	}
	return s.appsIn(ctx, s.numberIndex(phoneNumberID), func(r *appRecord) bool { return r.PhoneNumberID == phoneNumberID })
}

// AppsOfWABA implements [store.Store].
func (s *Store) AppsOfWABA(ctx context.Context, wabaID string) ([]tenant.App, error) {
	if wabaID == "" {
		return nil, nil
	}
	return s.appsIn(ctx, s.wabaIndex(wabaID), func(r *appRecord) bool { return r.WABAID == wabaID })
}

// appsIn returns the apps of an index that are what it says, oldest first.
func (s *Store) appsIn(ctx context.Context, index string, belongs func(*appRecord) bool) ([]tenant.App, error) {
	ids, err := s.members(ctx, index)
	if err != nil {
		return nil, err
	}
	keys := make([]string, len(ids))
	for i, id := range ids {
		keys[i] = s.appKey(tenant.AppID(id))
	}
	documents, err := s.getAll(ctx, keys)
	if err != nil {
		return nil, err
	}
	var records []*appRecord
	for i, document := range documents {
		if document == "" {
			continue
		}
		r, err := parseApp(document, tenant.AppID(ids[i]))
		if err != nil {
			return nil, err
		}
		if belongs(r) {
			records = append(records, r)
		}
	}
	slices.SortFunc(records, func(a, b *appRecord) int { return cmp.Compare(a.N, b.N) })
	apps := make([]tenant.App, len(records))
	for i, r := range records {
		apps[i] = r.app()
	}
	return apps, nil
}
