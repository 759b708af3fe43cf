package redis

import (
	"context"
	"iter"
	"slices"
	"strconv"

	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

// eventPage is how many events of a place are read at a time, of as many as
// eventsLooked among which they are looked for.
const (
	eventPage    = 100
	eventsLooked = 500
)

var (
	eventScript = newOutboxScript(headerAlways, "event")
	listScript  = newOutboxScript(headerAlways, "list")
)

// numbered is an event and its number: the time of its arrival, in microseconds,
// which no other event of its place has.
type numbered struct {
	store.Event
	number int64
}

// parseEvent reads what outbox.lua describes: nine fields, and then perhaps the payload.
func parseEvent(reply any) (e numbered, err error) {
	fields := texts(reply)
	if len(fields) < 9 {
		return e, unexpected(reply)
	}
	e.ID, e.App, e.Name = store.EventID(fields[0]), tenant.AppID(fields[2]), tenant.Event(fields[3])
	e.State, e.LastError = store.EventState(fields[4]), fields[8]
	if e.number, err = strconv.ParseInt(fields[1], 10, 64); err != nil {
		return e, unexpected(reply)
	}
	if e.Attempts = count(fields, 5); len(fields) > 9 {
		e.Payload = []byte(fields[9])
	}
	if e.ReceivedAt, err = microTime(fields[6]); err != nil {
		return e, err
	}
	e.NextAttemptAt, err = microTime(fields[7])
	return e, err
}

// Event implements [store.Store]. It has to be looked for: an id does not say whose
// event it is.
func (s *Store) Event(ctx context.Context, id store.EventID) (store.Event, error) {
	replies, err := s.runIn(ctx, eventScript, allPlaces(), func(place) []any { return []any{string(id)} })
	if err != nil {
		return store.Event{}, err
	}
	for _, reply := range replies {
		if reply != nil {
			e, err := parseEvent(reply)
			return e.Event, err
		}
	}
	return store.Event{}, store.ErrNotFound
}

// Events implements [store.Store]. It reads pages of all places and merges them.
// In a Cluster, the order of what arrived in different places is as exact as the
// clocks of its masters.
func (s *Store) Events(ctx context.Context, f store.EventFilter) iter.Seq2[store.Event, error] {
	return func(yield func(store.Event, error) bool) {
		shelves, err := s.shelves(ctx, f)
		for err == nil && len(shelves) > 0 {
			oldest := 0
			for i := range shelves {
				if shelves[i].page[0].number < shelves[oldest].page[0].number {
					oldest = i
				}
			}
			if !yield(shelves[oldest].page[0].Event, nil) {
				return
			}
			shelves[oldest].page = shelves[oldest].page[1:]
			shelves, err = s.refill(ctx, f, shelves, oldest)
		}
		if err != nil {
			yield(store.Event{}, err)
		}
	}
}

// shelf is a page of the events of a place, and behind which number the next begins.
type shelf struct {
	place place
	page  []numbered
	after string // nothing: there is none
}

// shelves returns the first pages of the places that have events.
func (s *Store) shelves(ctx context.Context, f store.EventFilter) ([]shelf, error) {
	in := placesOf(f)
	replies, err := s.runIn(ctx, listScript, in, func(place) []any { return listed(f, "0") })
	if err != nil {
		return nil, err
	}
	var shelves []shelf
	for i, p := range in {
		one := shelf{place: p}
		if err := one.fill(replies[i]); err != nil {
			return nil, err
		}
		if shelves, err = s.refill(ctx, f, append(shelves, one), len(shelves)); err != nil {
			return nil, err
		}
	}
	return shelves, nil
}

// placesOf are where the events may be that a filter selects.
func placesOf(f store.EventFilter) []place {
	switch {
	case f.State == store.Quarantined:
		return []place{quarantine}
	case f.App != "":
		return []place{placeOf(f.App)}
	default:
		return allPlaces()
	}
}

func listed(f store.EventFilter, after string) []any {
	return []any{after, string(f.App), string(f.State), eventsLooked, eventPage}
}

// refill reads the next page of a place where there is nothing left of the last, and
// drops the place when it has no more.
func (s *Store) refill(ctx context.Context, f store.EventFilter, shelves []shelf, i int) ([]shelf, error) {
	for one := &shelves[i]; len(one.page) == 0; {
		if one.after == "" {
			return slices.Delete(shelves, i, i+1), nil
		}
		reply, err := s.run(ctx, listScript, one.place, listed(f, one.after)...)
		if err != nil {
			return nil, err
		}
		if err := one.fill(reply); err != nil {
			return nil, err
		}
	}
	return shelves, nil
}

func (s *shelf) fill(reply any) error {
	answer, _ := reply.([]any)
	if len(answer) == 0 {
		return unexpected(reply)
	}
	s.after, s.page = texts(answer[:1])[0], nil
	for _, one := range answer[1:] {
		e, err := parseEvent(one)
		if err != nil {
			return err
		}
		s.page = append(s.page, e)
	}
	return nil
}
