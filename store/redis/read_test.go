package redis

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/store/redis/redistest"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

// digestApart is a digest whose record is on another node of a Cluster than the copy of its grant.
func digestApart(t testing.TB, s *Store) tenant.KeyDigest {
	t.Helper()
	cluster := s.client.(*goredis.ClusterClient)
	for i := range 1000 {
		digest := tenant.KeyDigest{byte(i >> 8), byte(i)}
		copied, err := cluster.MasterForKey(t.Context(), s.grantKey(digest.String()))
		noError(t, err)
		record, err := cluster.MasterForKey(t.Context(), s.keyKey(digest.String()))
		noError(t, err)
		if copied != record {
			return digest
		}
	}
	t.Fatal("all are on one node")
	return tenant.KeyDigest{}
}

// What lies in the place of a copy of a grant and of a key's record, and what is found then.
const (
	copyOfAnother = `{"key_id":"key_copy","app":{"id":"app_copy"}}`
	listInstead   = "a list"
)

func TestACopyComesBeforeTheRecord(t *testing.T) {
	t.Parallel()
	const fromCopy, fromRecord, unknown = "key_copy", "key_1", ""
	type result struct {
		key  tenant.KeyID
		copy bool
		err  error
	}
	records := map[string]string{
		"no record": "", "a record": `{"id":"key_1","app_id":"app_1"}`, "a revoked one": `{"id":"key_1","app_id":"app_1","revoked_at":"2026-01-01T00:00:00Z"}`,
		"of an app that is gone": `{"id":"key_1","app_id":"app_gone"}`, "half a record": `{"id":"key_1"`, "another type": listInstead,
	}
	byRecord := map[string]result{
		"no record": {err: store.ErrNotFound}, "a record": {key: fromRecord}, "a revoked one": {err: store.ErrRevoked},
		"of an app that is gone": {err: store.ErrNotFound}, "half a record": {err: store.ErrCorrupt}, "another type": {err: store.ErrCorrupt},
	}
	copies := map[string]struct {
		document string
		want     *result // nil: that of the record
	}{
		"no copy": {"", nil}, "a tombstone": {tombstone, nil},
		"a copy": {copyOfAnother, &result{key: fromCopy, copy: true}}, "one of nothing": {unknownCopy, &result{key: unknown, copy: true}},
		"half a copy": {`{"key_id":`, &result{err: store.ErrCorrupt}}, "another type": {listInstead, &result{err: store.ErrCorrupt}},
	}
	put := func(t *testing.T, s *Store, key, document string) {
		t.Helper()
		noError(t, s.client.Del(t.Context(), key).Err())
		switch document {
		case "":
		case listInstead:
			noError(t, s.client.LPush(t.Context(), key, "x").Err())
		default:
			noError(t, s.client.Set(t.Context(), key, document, time.Hour).Err())
		}
	}
	for name, start := range map[string]func(*testing.T) (*Store, tenant.KeyDigest){
		"one server": func(t *testing.T) (*Store, tenant.KeyDigest) {
			return open(t, testOptions(t, "single", "", redistest.Start(t).URL())), tenant.KeyDigest{5}
		},
		"two nodes": func(t *testing.T) (*Store, tenant.KeyDigest) {
			s := open(t, testOptions(t, "cluster", "", redistest.StartCluster(t).URLs()...))
			return s, digestApart(t, s)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, digest := start(t)
			someApp(t, s)
			for copyName, c := range copies {
				for recordName, document := range records {
					put(t, s, s.grantKey(digest.String()), c.document)
					put(t, s, s.keyKey(digest.String()), document)
					want := byRecord[recordName]
					if c.want != nil {
						want = *c.want
					}
					f, err := s.FindGrant(t.Context(), digest)
					got := result{copy: f.Copied, err: want.err}
					if f.Grant != nil {
						got.key = f.Grant.KeyID
					}
					if got != want || !errors.Is(err, want.err) || f.Copied != (f.Left > 0) {
						t.Errorf("%s and %s: %+v, %v; want %+v", copyName, recordName, f, err, want)
					}
				}
			}
		})
	}
}

func TestLookUpsTravelTogether(t *testing.T) {
	t.Parallel()
	const more = 20
	_, s, w := onLane(t, patience, time.Hour)
	s.readLanes.to(s.client.(*goredis.Client)).maxQueued = time.Hour
	var writes int
	first, all := make(chan struct{}), make(chan struct{})
	w.decide(func([]byte) fate {
		if writes++; writes == 1 {
			close(first)
			<-all
		}
		return arrives
	})
	var running sync.WaitGroup
	look := func(digest tenant.KeyDigest) {
		running.Go(func() {
			if f, err := s.FindGrant(t.Context(), digest); !errors.Is(err, store.ErrNotFound) {
				t.Errorf("of an unknown key there is %+v, %v", f, err)
			}
		})
	}
	look(tenant.KeyDigest{1})
	<-first
	for i := range more {
		look(tenant.KeyDigest{2, byte(i)})
	}
	l := s.readLanes.to(s.client.(*goredis.Client))
	eventually(t, "all wait", func() bool { return l.queued() == more })
	close(all)
	running.Wait()
	if writes != 2 {
		t.Errorf("%d look-ups at once took %d writes behind the first", more, writes-1)
	}
}

func TestAStoreThatIsAwayIsAskedForAGrantOnce(t *testing.T) {
	t.Parallel()
	_, s, w := onLane(t, short, maxQueued)
	var writes atomic.Int64
	w.decide(func([]byte) fate { writes.Add(1); return heldUp })
	for range 3 {
		writes.Store(0)
		began := time.Now()
		f, err := s.FindGrant(t.Context(), tenant.KeyDigest{1})
		if !errors.As(err, new(awayError)) || f != (store.FoundGrant{}) {
			t.Errorf("there is %+v, %v", f, err)
		}
		if n, took := writes.Load(), time.Since(began); n != 1 || took > soon {
			t.Errorf("it took %v and %d writes", took, n)
		}
	}
	w.heal()
	_, err := s.FindGrant(t.Context(), tenant.KeyDigest{1})
	wantError(t, "FindGrant", err, store.ErrNotFound)
}

func TestALookUpThatIsGivenUpDisturbsNoOther(t *testing.T) {
	t.Parallel()
	_, s, w := onLane(t, patience, time.Hour)
	s.readLanes.to(s.client.(*goredis.Client)).maxQueued = time.Hour
	first := w.holdFirst(t, func([]byte) bool { return true })
	var running sync.WaitGroup
	found := func(ctx context.Context, digest tenant.KeyDigest, want error) {
		running.Go(func() {
			if f, err := s.FindGrant(ctx, digest); !errors.Is(err, want) {
				t.Errorf("there is %+v, %v; want %v", f, err, want)
			}
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	found(t.Context(), tenant.KeyDigest{1}, store.ErrNotFound)
	<-first.under
	found(ctx, tenant.KeyDigest{2}, context.Canceled)
	found(t.Context(), tenant.KeyDigest{3}, store.ErrNotFound)
	l := s.readLanes.to(s.client.(*goredis.Client))
	eventually(t, "both wait", func() bool { return l.queued() == 2 })
	cancel()
	eventually(t, "one has gone", func() bool { return l.queued() == 1 })
	first.proceed()
	running.Wait()
}

// The node of a key's record may be away while that of the copy is there.
func TestACopyIsThereWhereTheRecordsNodeIsNot(t *testing.T) {
	t.Parallel()
	o := testOptions(t, "cluster", "", redistest.StartCluster(t).URLs()...)
	w := new(wire)
	o.Timeout, o.Serving = short, false
	s := open(t, w.under(o))
	digest := digestApart(t, s)
	record := []byte(s.keyKey(digest.String()))
	w.decide(func(sent []byte) fate {
		if bytes.Contains(sent, record) {
			return heldUp
		}
		return arrives
	})
	_, err := s.FindGrant(t.Context(), digest)
	if !errors.As(err, new(awayError)) {
		t.Errorf("without a copy: %v", err)
	}
	noError(t, s.client.Set(t.Context(), s.grantKey(digest.String()), copyOfAnother, time.Hour).Err())
	if f, err := s.FindGrant(t.Context(), digest); err != nil || !f.Copied || f.Grant.KeyID != "key_copy" {
		t.Errorf("with a copy: %+v, %v", f, err)
	}
}

func TestALookUpFollowsASlotThatMoves(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t)
	s := open(t, testOptions(t, "cluster", "", cluster.URLs()...))
	someApp(t, s)
	digest := digestApart(t, s)
	copyKey, recordKey := s.grantKey(digest.String()), s.keyKey(digest.String())
	noError(t, s.client.Set(t.Context(), recordKey, `{"id":"key_1","app_id":"app_1"}`, 0).Err())
	want := func(when string, id tenant.KeyID, copied bool) {
		t.Helper()
		if f, err := s.FindGrant(t.Context(), digest); err != nil || f.Copied != copied || f.Grant.KeyID != id {
			t.Errorf("%s: %+v, %v", when, f, err)
		}
	}
	want("before", "key_1", false)
	m := startMove(t, cluster, recordKey)
	want("while the record is still there", "key_1", false)
	m.keys(recordKey)
	want("when it has gone ahead", "key_1", false)
	m.end()
	want("when the slot has moved", "key_1", false)
	noError(t, s.client.Set(t.Context(), copyKey, copyOfAnother, time.Hour).Err())
	m = startMove(t, cluster, copyKey)
	m.keys(copyKey)
	want("when the copy has gone ahead", "key_copy", true)
	m.end()
	want("when its slot has moved", "key_copy", true)
}
