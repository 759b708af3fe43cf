package redis

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

// A copy of a grant is the document of the grant, or one of these.
const (
	// unknownCopy says that there is no such key.
	unknownCopy = "null"
	// tombstone says that what was read earlier is out of date. While it lies there, no
	// look-up that began before the change can put its result in that place.
	tombstone = `"invalidated"`
)

// tombstoneLifetime is longer than any look-up takes.
const tombstoneLifetime = 10 * time.Second

// forever is the lifetime of a copy that has none, because somebody else has put
// it there: whoever reads it has bounds of its own.
const forever = time.Duration(math.MaxInt64)

func (s *Store) grantKey(digest string) string { return s.key("grant:" + digest) }

// FindGrant implements [store.GrantKeeper].
func (s *Store) FindGrant(ctx context.Context, digest tenant.KeyDigest) (f store.FoundGrant, err error) {
	ctx = s.asOne(ctx)
	deadline, name := s.deadline(ctx), digest.String()
	var document string
	err = s.attempts(ctx, deadline, func() (err error) {
		f, document, err = s.findOnce(ctx, s.grantKey(name), s.keyKey(name), deadline)
		return err
	})
	if err != nil || f.Copied {
		return f, err
	}
	r, err := parseKey(document)
	if err != nil {
		return f, err
	}
	f.Grant, err = s.grant(ctx, r)
	return f, err
}

// findOnce asks for the copy of a grant and for the record of its key, and returns the copy or else the
// record as it stands in Redis. In a Cluster they are on two nodes, as a rule, and where there is a copy, nobody waits for
// the other node.
func (s *Store) findOnce(ctx context.Context, copyKey, recordKey string, deadline time.Time) (f store.FoundGrant, document string, err error) {
	began := time.Now()
	node, err := s.nodeOf(ctx, copyKey, deadline)
	if err != nil {
		return f, "", err
	}
	recordNode, recordErr := s.nodeOf(ctx, recordKey, deadline)
	// The lifetime is asked first: should another copy appear in between, it is a
	// newer one, which may well be believed a little shorter.
	ask := []question{{command: "pttl", key: copyKey}, {command: "get", key: copyKey}}
	record := func() answer { return answer{err: recordErr} }
	switch {
	case recordErr != nil: // it matters only if there is no copy
	case recordNode == node:
		ask = append(ask, question{command: "get", key: recordKey})
	default:
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		asked := make(chan answer, 1)
		s.background.Go(func() { asked <- s.read(ctx, recordNode, deadline, question{command: "get", key: recordKey}) })
		record = func() answer { return <-asked }
	}
	a := s.read(ctx, node, deadline, ask...)
	if a.err != nil {
		return f, "", a.err
	}
	if f, err := copyOf(a.read[0], a.read[1], time.Since(began)); !errors.Is(err, store.ErrNotFound) {
		return f, "", err
	}
	r := a.read[len(a.read)-1]
	if len(ask) == 2 {
		if a = record(); a.err != nil {
			return f, "", a.err
		}
		r = a.read[0]
	}
	document, err = r.text()
	return f, document, err
}

// copyOf is a copy with this lifetime, which is from some time in the last while. [store.ErrNotFound]: there is none.
func copyOf(lifetime, document reading, while time.Duration) (f store.FoundGrant, err error) {
	left, err := lifetime.number()
	if err != nil {
		return f, err
	}
	text, err := document.text()
	if err != nil {
		return f, err
	}
	f.Copied = true
	switch left {
	case noLifetime:
		f.Left = forever
	case noKey: // it has appeared since
	default:
		f.Left = time.Duration(left)*time.Millisecond - while
	}
	if f.Left <= 0 || text == tombstone {
		return store.FoundGrant{}, store.ErrNotFound
	}
	if text == unknownCopy {
		return f, nil
	}
	if f.Grant, err = tenant.ParseGrant([]byte(text)); err != nil {
		return store.FoundGrant{}, fmt.Errorf("%w: copy of a grant: %w", store.ErrCorrupt, err)
	}
	return f, nil
}

// What PTTL answers instead of a lifetime in milliseconds.
const (
	noLifetime = -1
	noKey      = -2
)

// KeepGrant implements [store.GrantKeeper]. It asks for Redis's time first, so that
// the copy ends when it has to, whenever it arrives: one that comes late, because Redis stood still or the way to it was
// slow, is not believed longer for that.
func (s *Store) KeepGrant(ctx context.Context, digest tenant.KeyDigest, g *tenant.Grant, lifetime time.Duration) error {
	ctx, until := s.asOne(ctx), time.Now().Add(lifetime)
	document := unknownCopy
	if g != nil {
		document = string(g.Document())
	}
	key := s.grantKey(digest.String())
	r, err := s.ask(ctx, key, question{command: "time"})
	if err != nil {
		return err
	}
	now, err := r.time()
	if err != nil {
		return err
	}
	// Redis's clock has gone on since. It tells of up to a millisecond more than is left.
	left := time.Until(until) - time.Millisecond
	if left <= 0 {
		return nil
	}
	_, err = s.ask(ctx, key, question{"set", key, []any{document, "NX", "PXAT", now.Add(left).UnixMilli()}})
	return err
}
