package redis

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strconv"

	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

var (
	findScript     = newScript(headerAlways, "scripts/records.lua", "scripts/money.lua", "scripts/find.lua")
	statusesScript = newScript(headerAlways, "scripts/records.lua", "scripts/money.lua", "scripts/statuses.lua")
)

// feeResults are the script's.
var feeResults = map[string]store.FeeResult{
	"none": store.NoFee, "charged": store.FeeCharged, "repeated": store.FeeRepeated,
	"not_priced": store.FeeNotPriced, "unknown_message": store.FeeUnknownMessage,
}

// foundHold is whose a hold is and where.
type foundHold struct {
	store.Sender
	place place
}

// findHold looks for one hold wherever it may be.
func (s *Store) findHold(ctx context.Context, id store.HoldID) (place, bool, error) {
	found, err := s.findHolds(ctx, []store.HoldID{id})
	hold, ok := found[id]
	return hold.place, ok, err
}

// findHolds looks for holds where their hints are, and for those that are not there
// everywhere else: their ids were not made for an account.
func (s *Store) findHolds(ctx context.Context, ids []store.HoldID) (map[store.HoldID]foundHold, error) {
	found := make(map[store.HoldID]foundHold, len(ids))
	hinted := make(map[place][]store.HoldID)
	for _, id := range ids {
		if id.Valid() {
			p := placeOfHint(id.Hint())
			hinted[p] = append(hinted[p], id)
		}
	}
	if err := s.findIn(ctx, hinted, found); err != nil {
		return nil, err
	}
	elsewhere := make(map[place][]store.HoldID)
	for p, ids := range hinted {
		ids = slices.DeleteFunc(ids, func(id store.HoldID) bool { _, ok := found[id]; return ok })
		for _, other := range allPlaces() {
			if other != p && len(ids) > 0 {
				elsewhere[other] = append(elsewhere[other], ids...)
			}
		}
	}
	return found, s.findIn(ctx, elsewhere, found)
}

// findIn looks for the holds that are given for each place.
func (s *Store) findIn(ctx context.Context, wanted map[place][]store.HoldID, found map[store.HoldID]foundHold) error {
	if len(wanted) == 0 {
		return nil
	}
	in := slices.Collect(maps.Keys(wanted))
	replies, err := s.runIn(ctx, findScript, in, func(p place) []any {
		args := []any{len(wanted[p])}
		for _, id := range wanted[p] {
			args = append(args, string(id))
		}
		return args
	})
	if err != nil {
		return err
	}
	for i, p := range in {
		list, _ := replies[i].([]any)
		if len(list) != len(wanted[p]) {
			return unexpected(replies[i])
		}
		for j, id := range wanted[p] {
			if f, _ := list[j].([]any); len(f) == 3 {
				account, _ := f[0].(string)
				app, _ := f[1].(string)
				found[id] = foundHold{store.Sender{
					App: tenant.AppID(app), Account: tenant.AccountID(account), Captured: f[2] == int64(1),
				}, p}
			}
		}
	}
	return nil
}

// Holds implements [store.Store].
func (s *Store) Holds(ctx context.Context, ids []store.HoldID) (map[store.HoldID]store.Sender, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	found, err := s.findHolds(ctx, ids)
	if err != nil {
		return nil, err
	}
	senders := make(map[store.HoldID]store.Sender, len(found))
	for id, hold := range found {
		senders[id] = hold.Sender
	}
	return senders, nil
}

// Receive implements [store.Store]. It takes two steps, each of which can be
// repeated: the statuses, then the events. Once it has begun it goes on, each
// round trip within the timeout, so that a caller who gives up does not leave half of it.
func (s *Store) Receive(ctx context.Context, events []store.Event, statuses []store.Status) ([]store.StatusResult, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	ctx = context.WithoutCancel(ctx)
	results, err := s.receiveStatuses(ctx, statuses)
	if err != nil {
		return nil, err
	}
	if err := s.receiveEvents(ctx, events); err != nil {
		return nil, err
	}
	return results, nil
}

// wireStatus is a status as the script reads it.
type wireStatus struct {
	Hold      string             `json:"h,omitempty"`
	Again     string             `json:"g,omitempty"`
	Settle    bool               `json:"s,omitempty"`
	MessageID string             `json:"m"`
	Fee       *map[string]string `json:"f,omitempty"`
}

// statusGroup is how many statuses one script applies.
const statusGroup = 200

func (s *Store) receiveStatuses(ctx context.Context, statuses []store.Status) ([]store.StatusResult, error) {
	if len(statuses) == 0 {
		return nil, nil
	}
	results := make([]store.StatusResult, len(statuses))
	for from := 0; from < len(statuses); from += statusGroup {
		until := min(from+statusGroup, len(statuses))
		if err := s.applyStatuses(ctx, statuses[from:until], results[from:until]); err != nil {
			return nil, err
		}
	}
	return results, nil
}

// applyStatuses applies statuses where their holds or messages are. A message that
// is nowhere yet may come to be in any of the places asked, so that its fee is remembered in each.
func (s *Store) applyStatuses(ctx context.Context, statuses []store.Status, results []store.StatusResult) error {
	places, err := s.placesOf(ctx, statuses)
	if err != nil {
		return err
	}
	list := make(map[place][]wireStatus)
	index := make(map[place][]int)
	for i, st := range statuses {
		wire := wireStatus{MessageID: st.MessageID, Settle: st.Hold != "" && !st.Captured}
		if places[i].hold {
			wire.Hold, wire.Again = string(st.Hold), string(st.Hold.Again())
		}
		if st.TemplateFee != nil {
			prices := make(map[string]string, len(st.TemplateFee))
			for currency, price := range st.TemplateFee {
				prices[currency] = strconv.FormatInt(int64(price), 10)
			}
			wire.Fee = &prices
		}
		if wire.Hold == "" && wire.Fee == nil {
			continue
		}
		for _, p := range places[i].in {
			list[p] = append(list[p], wire)
			index[p] = append(index[p], i)
		}
	}
	in := slices.Collect(maps.Keys(list))
	replies, err := s.runIn(ctx, statusesScript, in, func(p place) []any {
		text, err := json.Marshal(list[p])
		if err != nil {
			panic(err) // it is made of texts
		}
		return []any{string(text)}
	})
	if err != nil {
		return err
	}
	for i, p := range in {
		answers, _ := replies[i].([]any)
		if len(answers) != len(list[p]) {
			return unexpected(replies[i])
		}
		for j, answer := range answers {
			if err := merge(&results[index[p][j]], answer); err != nil {
				return err
			}
		}
	}
	return nil
}

// merge adds what one place answered to a result: a fee that was charged in one is
// that of a message unknown in the others.
func merge(r *store.StatusResult, answer any) error {
	f, _ := answer.([]any)
	if len(f) != 2 {
		return unexpected(answer)
	}
	word, _ := f[1].(string)
	fee, ok := feeResults[word]
	if !ok {
		return unexpected(answer)
	}
	r.Settled = r.Settled || f[0] == int64(1)
	if r.Fee == store.NoFee || r.Fee == store.FeeUnknownMessage {
		r.Fee = fee
	}
	return nil
}

// candidates are the places where a status has an effect; hold tells that it is the one of its hold.
type candidates struct {
	in   []place
	hold bool
}

// placesOf finds out where statuses have an effect.
func (s *Store) placesOf(ctx context.Context, statuses []store.Status) ([]candidates, error) {
	var ids []store.HoldID
	for _, st := range statuses {
		if st.Hold != "" {
			ids = append(ids, st.Hold)
		}
	}
	holds, err := s.findHolds(ctx, ids)
	if err != nil {
		return nil, err
	}
	places := make([]candidates, len(statuses))
	var anywhere []string
	for i, st := range statuses {
		if hold, ok := holds[st.Hold]; ok {
			places[i] = candidates{[]place{hold.place}, true}
			continue
		}
		for _, account := range st.Accounts {
			if p := placeOf(account); !slices.Contains(places[i].in, p) {
				places[i].in = append(places[i].in, p)
			}
		}
		if len(st.Accounts) == 0 && st.TemplateFee != nil {
			anywhere = append(anywhere, st.MessageID)
		}
	}
	messages, err := s.findMessages(ctx, anywhere)
	if err != nil {
		return nil, err
	}
	for i, st := range statuses {
		if places[i].in != nil || st.TemplateFee == nil {
			continue
		}
		if p, ok := messages[st.MessageID]; ok {
			places[i].in = []place{p}
		} else {
			places[i].in = allPlaces()
		}
	}
	return places, nil
}

// findMessages looks for messages everywhere.
func (s *Store) findMessages(ctx context.Context, ids []string) (map[string]place, error) {
	if len(ids) == 0 {
		return nil, nil
	}
	args := []any{0}
	for _, id := range ids {
		args = append(args, id)
	}
	in := allPlaces()
	replies, err := s.runIn(ctx, findScript, in, func(place) []any { return args })
	if err != nil {
		return nil, err
	}
	found := make(map[string]place)
	for i, p := range in {
		list, _ := replies[i].([]any)
		if len(list) != len(ids) {
			return nil, unexpected(replies[i])
		}
		for j, id := range ids {
			if f, _ := list[j].([]any); len(f) > 0 {
				found[id] = p
			}
		}
	}
	return found, nil
}
