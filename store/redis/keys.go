package redis

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

// keyRecord is an API key as it is stored, under its digest.
type keyRecord struct {
	ID        tenant.KeyID `json:"id"`
	AppID     tenant.AppID `json:"app_id"`
	Name      string       `json:"name,omitempty"`
	Hint      string       `json:"hint,omitempty"`
	CreatedAt time.Time    `json:"created_at,omitzero"`
	ExpiresAt time.Time    `json:"expires_at,omitzero"`
	RevokedAt time.Time    `json:"revoked_at,omitzero"`
	N         int64        `json:"n"`
	Revision  revision     `json:"revision"`
}

func (r *keyRecord) key(digest tenant.KeyDigest) tenant.APIKey {
	return tenant.APIKey{
		ID: r.ID, AppID: r.AppID, Name: r.Name, Digest: digest, Hint: r.Hint,
		CreatedAt: r.CreatedAt, ExpiresAt: r.ExpiresAt, RevokedAt: r.RevokedAt,
	}
}

func (s *Store) keyKey(digest string) string     { return s.key("key:" + digest) }
func (s *Store) keyIDKey(id tenant.KeyID) string { return s.key("key_id:" + string(id)) }
func (s *Store) keysOf(app tenant.AppID) string  { return s.key("keys:" + string(app)) }

func parseKey(document string) (*keyRecord, error) {
	r := new(keyRecord)
	if err := decode(document, r); err != nil {
		return nil, err
	}
	if r.ID == "" || r.AppID == "" {
		return nil, fmt.Errorf("%w: a key needs an id and an app", store.ErrCorrupt)
	}
	return r, nil
}

// readKey returns a key's record, also as it stands in Redis.
func (s *Store) readKey(ctx context.Context, digest string) (*keyRecord, string, error) {
	document, err := s.get(ctx, s.keyKey(digest))
	if err != nil {
		return nil, "", err
	}
	r, err := parseKey(document)
	return r, document, err
}

// Grant implements [store.Store]. It reads the records and no copies.
func (s *Store) Grant(ctx context.Context, digest tenant.KeyDigest) (*tenant.Grant, error) {
	ctx = s.asOne(ctx)
	r, _, err := s.readKey(ctx, digest.String())
	if err != nil {
		return nil, err
	}
	return s.grant(ctx, r)
}

// grant is what a key may do.
func (s *Store) grant(ctx context.Context, r *keyRecord) (*tenant.Grant, error) {
	if !r.RevokedAt.IsZero() {
		return nil, store.ErrRevoked
	}
	app, err := s.App(ctx, r.AppID)
	if err != nil {
		return nil, err
	}
	g := &tenant.Grant{KeyID: r.ID, App: app}
	if !r.ExpiresAt.IsZero() {
		g.ExpiresAt = &r.ExpiresAt
	}
	return g, nil
}

// CreateKey implements [store.Store]. The record comes last: a key must not work
// before it can be listed and revoked.
func (s *Store) CreateKey(ctx context.Context, k tenant.APIKey) error {
	if exists, err := s.there(ctx, s.appKey(k.AppID)); err != nil || !exists {
		return cmp.Or(err, store.ErrNotFound)
	}
	digest := k.Digest.String()
	if exists, err := s.there(ctx, s.keyKey(digest)); err != nil || exists {
		return cmp.Or(err, store.ErrExists)
	}
	// The same digest here is a creation that was cut short.
	if taken, err := s.take(ctx, s.keyIDKey(k.ID), digest); err != nil || taken != digest {
		return cmp.Or(err, store.ErrExists)
	}
	n, err := s.nextNumber(ctx)
	if err != nil {
		return err
	}
	if err := s.indexed(ctx, s.keysOf(k.AppID), digest, n); err != nil {
		return err
	}
	document, err := encode(&keyRecord{
		ID: k.ID, AppID: k.AppID, Name: k.Name, Hint: k.Hint,
		CreatedAt: k.CreatedAt.UTC(), ExpiresAt: k.ExpiresAt.UTC(), RevokedAt: k.RevokedAt.UTC(), N: n, Revision: newRevision(),
	})
	if err != nil {
		return err
	}
	there, err := s.take(ctx, s.keyKey(digest), document)
	if err != nil {
		return err
	}
	if there != document {
		return store.ErrExists
	}
	return s.invalidate(ctx, digest, digest) // it may be known to be unknown
}

// Keys implements [store.Store].
func (s *Store) Keys(ctx context.Context, app tenant.AppID) ([]tenant.APIKey, error) {
	if _, err := s.App(ctx, app); err != nil {
		return nil, err
	}
	digests, err := s.members(ctx, s.keysOf(app))
	if err != nil {
		return nil, err
	}
	names := make([]string, len(digests))
	for i, digest := range digests {
		names[i] = s.keyKey(digest)
	}
	documents, err := s.getAll(ctx, names)
	if err != nil {
		return nil, err
	}
	var records []*keyRecord
	byRecord := make(map[*keyRecord]tenant.KeyDigest)
	for i, document := range documents {
		if document == "" {
			continue
		}
		r, err := parseKey(document)
		if err != nil {
			return nil, err
		}
		digest, err := tenant.ParseKeyDigest(digests[i])
		if err != nil {
			return nil, fmt.Errorf("%w: the digest of a key is none", store.ErrCorrupt)
		}
		if r.AppID == app {
			records, byRecord[r] = append(records, r), digest
		}
	}
	slices.SortFunc(records, func(a, b *keyRecord) int { return cmp.Compare(a.N, b.N) })
	keys := make([]tenant.APIKey, len(records))
	for i, r := range records {
		keys[i] = r.key(byRecord[r])
	}
	return keys, nil
}

// RevokeKey implements [store.Store]. Made again, it tells everybody again: the
// first time may have been cut short.
func (s *Store) RevokeKey(ctx context.Context, id tenant.KeyID, at time.Time) error {
	digest, err := s.get(ctx, s.keyIDKey(id))
	if err != nil {
		return err
	}
	for {
		r, before, err := s.readKey(ctx, digest)
		if err != nil {
			return err
		}
		if r.ID != id { // a creation that came too late left its id behind
			return store.ErrNotFound
		}
		revoked := !r.RevokedAt.IsZero()
		if !revoked {
			r.RevokedAt, r.Revision = at.UTC(), newRevision()
			after, err := encode(r)
			if err != nil {
				return err
			}
			if revoked, err = s.replace(ctx, s.keyKey(digest), before, after); err != nil {
				return err
			}
		}
		if revoked {
			return s.invalidate(ctx, digest, digest)
		}
	}
}

// digestsOf returns the digests of an app's keys.
func (s *Store) digestsOf(ctx context.Context, app tenant.AppID) ([]string, error) {
	digests, err := s.members(ctx, s.keysOf(app))
	if errors.Is(err, store.ErrCorrupt) {
		return nil, nil // such an app has no keys that could be found
	}
	return digests, err
}
