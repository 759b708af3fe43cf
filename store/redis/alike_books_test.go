package redis

import (
	"slices"
	"strings"

	goredis "github.com/redis/go-redis/v9"

	"github.com/connexease/caddy-whatsapp-gateway/store"
)

// books are all that requests can change, but for the times of entries and how windows are packed.
func (l *alike) books(s *Store) map[string]any {
	t, all := l.t, make(map[string]any)
	for _, key := range texts(command(t, l.server, "KEYS", s.key("{*"))) {
		short := strings.TrimPrefix(key, s.key(""))
		_, rest, _ := strings.Cut(short, ":")
		name, _, _ := strings.Cut(rest, ":")
		switch name {
		case "open", "past", "credits":
			fields, err := s.client.HGetAll(t.Context(), key).Result()
			noError(t, err)
			delete(fields, "")
			if lasts := s.client.TTL(t.Context(), key).Val() > 0; len(fields) > 0 || name != "open" {
				all[short] = []any{fields, lasts}
			}
		case "wallet":
			money := strings.Fields(s.client.HGet(t.Context(), key, "money").Val())
			all[short] = money[:3]
		case "unreported":
			members := s.client.SMembers(t.Context(), key).Val()
			slices.Sort(members)
			all[short] = members
		case "ledger":
			all[short] = l.entries(s, key)
		case "early":
			all[short] = s.client.Get(t.Context(), key).Val()
		}
	}
	return all
}

// entries are those of a ledger, of which each goes on where the one before it ended.
func (l *alike) entries(s *Store, key string) (all []store.Entry) {
	messages, err := s.client.XRange(l.t.Context(), key, "-", "+").Result()
	noError(l.t, err)
	seq := int64(0)
	for _, m := range messages {
		entries, err := parseEntries(goredis.XMessage{ID: m.ID, Values: m.Values}, 0)
		noError(l.t, err)
		for _, e := range entries {
			if e.Seq <= seq {
				l.t.Errorf("%s has the number %d behind %d", e.ID, e.Seq, seq)
			}
			seq, e.Seq = e.Seq, 0
			all = append(all, e)
		}
	}
	return all
}
