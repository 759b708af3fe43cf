package redis

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	goredis "github.com/redis/go-redis/v9"
	"go.uber.org/zap"

	"github.com/connexease/caddy-whatsapp-gateway/store"
)

// The directory's records are in no place: each is a key of its own, which a
// Cluster puts anywhere, and no step changes two of them at once. So every change
// writes what leads to a record first and the record last: a change that is cut
// short leaves an index that leads to nothing or to what is there, which readers
// pass over, and can be made again.

// batch is how many records one round trip reads.
const batch = 512

// directoryScripts run on one key without a place. They run in a full memory, too:
// a key must be revocable there.
var (
	replaceScript   = newScript(headerAlways, "scripts/replace.lua")
	tombstoneScript = newScript(headerAlways, "scripts/tombstone.lua")
)

// onKeys runs a script on each of some keys without a place.
func (s *Store) onKeys(ctx context.Context, sc *script, keys []string, args ...any) ([]any, error) {
	calls, replies := make([]call, len(keys)), make([]any, len(keys))
	for i, key := range keys {
		calls[i] = call{[]string{key}, args}
	}
	err := s.try(ctx, func(ctx context.Context) error {
		for i, command := range s.evalEach(ctx, sc, calls) {
			var err error
			if replies[i], err = command.Result(); err != nil {
				return recordError(err)
			}
		}
		return nil
	})
	return replies, err
}

// recordError is what an error of a command on a record or an index means.
func recordError(err error) error {
	switch {
	case errors.Is(err, goredis.Nil):
		return store.ErrNotFound
	case goredis.HasErrorPrefix(err, "WRONGTYPE"):
		return fmt.Errorf("%w: its key holds another type", store.ErrCorrupt)
	}
	return err
}

// get reads one record, or returns [store.ErrNotFound].
func (s *Store) get(ctx context.Context, key string) (string, error) {
	r, err := s.ask(ctx, key, question{command: "get", key: key})
	if err != nil {
		return "", recordError(err)
	}
	return r.text()
}

// getAll reads records, a batch at a time; those that are not there are empty.
func (s *Store) getAll(ctx context.Context, keys []string) ([]string, error) {
	return inBatches(ctx, s, keys, func(ctx context.Context, pipe goredis.Pipeliner, key string) func() (string, error) {
		return pipe.Get(ctx, key).Result
	})
}

// inBatches makes one command for each key, in as few round trips as is decent, and
// returns their replies. What is not there is the zero value.
func inBatches[T any](ctx context.Context, s *Store, keys []string, command func(context.Context, goredis.Pipeliner, string) func() (T, error)) ([]T, error) {
	all := make([]T, len(keys))
	for first := 0; first < len(keys); first += batch {
		part := keys[first:min(first+batch, len(keys))]
		err := s.try(ctx, func(ctx context.Context) error {
			pipe := s.client.Pipeline()
			results := make([]func() (T, error), len(part))
			for i, key := range part {
				results[i] = command(ctx, pipe, key)
			}
			execute(ctx, pipe)
			for i, result := range results {
				value, err := result()
				if err != nil && !errors.Is(err, goredis.Nil) {
					return recordError(err)
				}
				all[first+i] = value
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return all, nil
}

// nextNumber returns a new creation number: they grow, and may have gaps.
func (s *Store) nextNumber(ctx context.Context) (int64, error) {
	var n int64
	err := s.try(ctx, func(ctx context.Context) (err error) {
		n, err = s.client.Incr(ctx, s.key("created")).Result()
		return err
	})
	return n, recordError(err)
}

// indexed adds a member to an index, where it keeps the number that it has.
func (s *Store) indexed(ctx context.Context, index, member string, number int64) error {
	return recordError(s.try(ctx, func(ctx context.Context) error {
		return s.client.ZAddNX(ctx, index, goredis.Z{Score: float64(number), Member: member}).Err()
	}))
}

// members returns all members of an index.
func (s *Store) members(ctx context.Context, index string) ([]string, error) {
	var members []string
	err := s.try(ctx, func(ctx context.Context) (err error) {
		members, err = s.client.ZRange(ctx, index, 0, -1).Result()
		return err
	})
	return members, recordError(err)
}

// there tells whether a key is there, whatever it holds.
func (s *Store) there(ctx context.Context, key string) (bool, error) {
	var n int64
	err := s.try(ctx, func(ctx context.Context) (err error) {
		n, err = s.client.Exists(ctx, key).Result()
		return err
	})
	return n > 0, err
}

// take writes a value where there is none, and returns the one that is there now.
// Made again, it returns the same.
func (s *Store) take(ctx context.Context, key, value string) (string, error) {
	there := value
	err := s.try(ctx, func(ctx context.Context) error {
		before, err := s.client.SetArgs(ctx, key, value, goredis.SetArgs{Mode: "NX", Get: true}).Result()
		switch {
		case errors.Is(err, goredis.Nil):
			there = value
			return nil
		case err == nil:
			there = before
		}
		return err
	})
	return there, recordError(err)
}

// replace writes a record in the place of the one that was read, unless that has
// changed meanwhile.
func (s *Store) replace(ctx context.Context, key, before, after string) (bool, error) {
	replies, err := s.onKeys(ctx, replaceScript, []string{key}, before, after)
	return err == nil && replies[0] == "replaced", err
}

// revision makes a record another one than any before it, so that a script that
// may have run can tell whether it did.
type revision string

func newRevision() revision { return revision(uuid.NewString()) }

// encode writes a record.
func encode(record any) (string, error) {
	document, err := json.Marshal(record)
	if err != nil {
		return "", errors.New("a record has a time that cannot be written") // all else can be
	}
	return string(document), nil
}

// decode reads a record. The error says nothing of what stands there.
func decode(document string, record any) error {
	if err := json.Unmarshal([]byte(document), record); err != nil {
		return fmt.Errorf("%w: it is not the JSON that it should be", store.ErrCorrupt)
	}
	return nil
}

// Generation implements [store.Store].
func (s *Store) Generation() uint64 { return s.generation.Load() }

// maxPepperDelay bounds the growing delay between attempts to bind the pepper.
const maxPepperDelay = 5 * time.Second

// BindPepper implements [store.Store]. A gateway that cannot reach Redis goes on:
// the pepper is bound in the background, and another one is then logged.
func (s *Store) BindPepper(ctx context.Context, fingerprint string) error {
	err := s.bindPepper(ctx, fingerprint)
	if err == nil || !s.serving || ctx.Err() != nil || answered(err) || hasCode(err, refusals) ||
		errors.Is(err, store.ErrPepper) || errors.Is(err, store.ErrCorrupt) || errors.Is(err, store.ErrClosed) {
		return err
	}
	s.log().Warn("the key pepper is compared with that of the store once redis answers", zap.Error(err))
	s.background.Go(func() {
		for delay := 100 * time.Millisecond; s.wait(delay); delay = min(2*delay, maxPepperDelay) {
			err := s.bindPepper(s.closing, fingerprint)
			switch {
			case errors.Is(err, store.ErrPepper), errors.Is(err, store.ErrCorrupt), err != nil && answered(err):
				s.log().Error("the key pepper could not be bound: keys of this store are unknown here", zap.Error(err))
				return
			case err == nil:
				return
			}
		}
	})
	return nil
}

func (s *Store) bindPepper(ctx context.Context, fingerprint string) error {
	bound, err := s.take(ctx, s.key("pepper"), fingerprint)
	if err == nil && bound != fingerprint {
		err = store.ErrPepper
	}
	return err
}

// wait tells whether the store is still open after a delay, or at once that it is not.
func (s *Store) wait(delay time.Duration) bool {
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-s.closing.Done():
		return false
	}
}

// Interface guards
var (
	_ store.Directory   = (*Store)(nil)
	_ store.GrantKeeper = (*Store)(nil)
)
