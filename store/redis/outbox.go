package redis

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

// A step of the outbox takes that many events, or as many as are that large
// together, so that no script keeps Redis from others for long and no
// round trip exceeds its timeout because of what it carries.
const (
	outboxGroup     = 250
	outboxGroupSize = 1 << 20
)

// quarantine is the place of what has no app.
const quarantine place = 0

var (
	receiveScript = newOutboxScript(header, "receive")
	backlogScript = newOutboxScript(headerAlways, "backlog")
	buryScript    = newOutboxScript(headerAlways, "bury")
	deadScript    = newOutboxScript(headerAlways, "dead")
	reviveScript  = newOutboxScript(headerAlways, "revive")
	replayScript  = newOutboxScript(headerAlways, "replay")
)

func newOutboxScript(header, name string) *script {
	return newScript(header, "scripts/outbox.lua", "scripts/outbox_"+name+".lua")
}

// placeOfEvent is where an event is kept.
func placeOfEvent(e *store.Event) place {
	if e.State == store.Quarantined {
		return quarantine
	}
	return placeOf(e.App)
}

// receiveEvents stores the events of a webhook, each once. It goes from place to
// place, mostly one, and not to all at the same time: the masters of a Cluster would
// not keep to the order.
func (s *Store) receiveEvents(ctx context.Context, events []store.Event) error {
	var order []place
	in := make(map[place][]*store.Event)
	for i := range events {
		p := placeOfEvent(&events[i])
		if in[p] == nil {
			order = append(order, p)
		}
		in[p] = append(in[p], &events[i])
	}
	for _, p := range order {
		for rest := in[p]; len(rest) > 0; {
			n := groupOf(rest)
			if _, err := s.run(ctx, receiveScript, p, received(rest[:n])...); err != nil {
				return err
			}
			rest = rest[n:]
		}
	}
	return nil
}

// groupOf is how many events go into one step: at least one.
func groupOf(events []*store.Event) int {
	size := 0
	for i, e := range events {
		if size += len(e.Payload); i > 0 && size > outboxGroupSize || i == outboxGroup {
			return i
		}
	}
	return len(events)
}

// received are the arguments of the script that stores events.
func received(events []*store.Event) []any {
	args := make([]any, 0, 2+6*len(events))
	args = append(args, store.MaxQuarantined, store.MaxQuarantinedSize)
	for _, e := range events {
		args = append(args, string(e.ID), string(e.App), string(e.Name), string(e.State), e.LastError, e.Payload)
	}
	return args
}

// Backlog implements [store.Store]. In passing, dead letters that are too old are
// deleted. Where some places are away, such as those of one master of a Cluster, the
// backlog is that of the others, whose deliveries go on.
func (s *Store) Backlog(ctx context.Context) (map[tenant.AppID]time.Time, error) {
	replies, err := s.runIn(ctx, backlogScript, allPlaces(), func(place) []any {
		return []any{store.DeadLetterLifetime.Microseconds()}
	})
	if err != nil && !slices.ContainsFunc(replies, func(reply any) bool { return reply != nil }) {
		return nil, err
	}
	backlog := make(map[tenant.AppID]time.Time)
	for _, reply := range replies {
		apps := texts(reply)
		for i := 0; i+1 < len(apps); i += 2 {
			if backlog[tenant.AppID(apps[i])], err = microTime(apps[i+1]); err != nil {
				return nil, err
			}
		}
	}
	return backlog, nil
}

// Bury implements [store.Store]. Where an answer of Redis's was lost and a step made
// again, fewer are counted than were buried.
func (s *Store) Bury(ctx context.Context, app tenant.AppID, before time.Time, reason string) (int, error) {
	due, name := "", "" // of the last event that was looked at
	for buried := 0; ; {
		reply, err := s.run(ctx, buryScript, placeOf(app), string(app), before.UnixMicro(), reason,
			store.DeadLetterLifetime.Microseconds(), outboxGroup, due, name)
		if err != nil {
			return buried, err
		}
		answer := texts(reply)
		buried += count(answer, 0)
		if len(answer) < 3 {
			return buried, nil
		}
		due, name = answer[1], answer[2]
	}
}

// Replay implements [store.Store].
func (s *Store) Replay(ctx context.Context, ids []store.EventID, app tenant.AppID) (int, error) {
	if len(ids) > 0 {
		return s.replayEvents(ctx, ids)
	}
	began := "" // what is given up again meanwhile is left
	for replayed := 0; ; {
		reply, err := s.run(ctx, replayScript, placeOf(app), string(app), began, outboxGroup)
		if err != nil {
			return replayed, err
		}
		answer := texts(reply)
		replayed += count(answer, 1)
		if count(answer, 2) < outboxGroup {
			return replayed, nil
		}
		began = answer[0]
	}
}

// replayEvents looks first whether all of them are dead letters, wherever they
// are, and returns how many were.
func (s *Store) replayEvents(ctx context.Context, ids []store.EventID) (int, error) {
	wanted := make(map[store.EventID]bool, len(ids))
	var list []any
	for _, id := range ids {
		if !wanted[id] {
			wanted[id] = true
			list = append(list, string(id))
		}
	}
	dead, n := make(map[place][]any), 0
	for group := range slices.Chunk(list, outboxGroup) {
		replies, err := s.runIn(ctx, deadScript, allPlaces(), func(place) []any { return group })
		if err != nil {
			return 0, err
		}
		found := 0
		for p, reply := range replies {
			for _, id := range texts(reply) {
				dead[place(p)] = append(dead[place(p)], id)
				found++
			}
		}
		if found != len(group) {
			return 0, store.ErrNotFound
		}
		n += found
	}
	for p, list := range dead {
		for group := range slices.Chunk(list, outboxGroup) {
			if _, err := s.run(ctx, reviveScript, p, group...); err != nil {
				return 0, err
			}
		}
	}
	return n, nil
}

// texts are the elements of a list that a script has returned; nothing is "".
func texts(reply any) []string {
	list, _ := reply.([]any)
	texts := make([]string, len(list))
	for i, v := range list {
		switch v := v.(type) {
		case nil:
		case string:
			texts[i] = v
		default:
			texts[i] = fmt.Sprint(v) // a number
		}
	}
	return texts
}

// count is a number in a script's answer.
func count(answer []string, i int) int {
	if i >= len(answer) {
		return 0
	}
	n, err := strconv.Atoi(answer[i])
	if err != nil {
		return 0
	}
	return n
}

// microTime is the time of so many microseconds, or none.
func microTime(text string) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	micros, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("a time in the outbox: %w", err)
	}
	return time.UnixMicro(micros).UTC(), nil
}
