package gateway

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/connexease/caddy-whatsapp-gateway/core/coretest"
	"github.com/connexease/caddy-whatsapp-gateway/event"
	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

// leadsTo are the ids of the apps that a route leads to.
func (s *station) leadsTo(to route) []tenant.AppID {
	s.t.Helper()
	apps, err := s.findApps(s.t.Context(), to)
	must(s.t, err)
	ids := []tenant.AppID{}
	for _, app := range apps {
		ids = append(ids, app.ID)
	}
	return ids
}

func diffIDs(t *testing.T, want, got []tenant.AppID) {
	t.Helper()
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestAppsOfTheCoreServiceAreRoutedToAndStored(t *testing.T) {
	eachStore(t, func(t *testing.T, s stored) {
		core := newCore(t)
		core.newKey(t, 0)
		gateway := newStation(t, s, 1, core)
		gateway.newStoredKey()
		diffIDs(t, []tenant.AppID{"app_core"}, gateway.leadsTo(route{number: "100"}))
		diffIDs(t, []tenant.AppID{"app_core"}, gateway.leadsTo(route{waba: "200"}))
		// Made with the command line.
		diffIDs(t, []tenant.AppID{"app_own"}, gateway.leadsTo(route{number: "300"}))
		diffIDs(t, []tenant.AppID{}, gateway.leadsTo(route{number: "999"}))

		app, err := gateway.store.App(t.Context(), "app_core")
		must(t, err)
		app.CreatedAt = time.Time{}
		if d := cmp.Diff(coreApp(), app); d != "" {
			t.Error(d)
		}
		generation := gateway.store.Generation()
		gateway.leadsTo(route{number: "100"})
		if gateway.store.Generation() != generation {
			t.Error("an app that has not changed was written")
		}

		core.Set(coretest.NotFound)
		diffIDs(t, []tenant.AppID{"app_own"}, gateway.leadsTo(route{number: "300"}))
		core.Set(coretest.Down)
		diffIDs(t, []tenant.AppID{"app_core"}, gateway.leadsTo(route{number: "100"}))
		diffIDs(t, []tenant.AppID{"app_own"}, gateway.leadsTo(route{waba: "400"}))
		if _, err := gateway.findApps(t.Context(), route{number: "999"}); !errors.Is(err, errCoreAway) {
			t.Errorf("a number that the Core Service may know: %v", err)
		}
		core.Set(coretest.HTML)
		if _, err := gateway.findApps(t.Context(), route{number: "300"}); !errors.Is(err, store.ErrCorrupt) {
			t.Errorf("an answer that cannot be parsed: %v", err)
		}
	})
}

func TestGoneEndpointStaysDisabledUntilItsURLChanges(t *testing.T) {
	eachStore(t, func(t *testing.T, s stored) {
		core := newCore(t)
		core.newKey(t, 0)
		gateway := newStation(t, s, 1, core)
		gateway.leadsTo(route{number: "100"})
		gone := now()
		_, err := gateway.store.UpdateApp(t.Context(), "app_core", func(app *tenant.App) error {
			app.Webhook.DisabledAt = &gone
			return nil
		})
		must(t, err)
		app := coreApp()
		app.RateLimit = &tenant.RateLimit{PerSecond: 1, PerMinute: 2}
		must(t, core.PutApp(app))
		gateway.leadsTo(route{number: "100"})
		changed := must1(gateway.store.App(t.Context(), "app_core"))
		if changed.Webhook.DisabledAt == nil || changed.RateLimit == nil || changed.RateLimit.PerMinute != 2 {
			t.Errorf("with the same URL: %+v", changed)
		}
		app.Webhook.URL += "/new"
		must(t, core.PutApp(app))
		gateway.leadsTo(route{number: "100"})
		if changed := must1(gateway.store.App(t.Context(), "app_core")); changed.Webhook.DisabledAt != nil {
			t.Error("with another URL it is disabled still")
		}
	})
}

func TestAppOfAnUnknownAccountIsStoredWithoutIt(t *testing.T) {
	eachStore(t, func(t *testing.T, s stored) {
		core := newCore(t)
		must(t, core.PutApp(coreApp()))
		gateway := newStation(t, s, 1, core)
		for range 2 {
			diffIDs(t, []tenant.AppID{"app_core"}, gateway.leadsTo(route{number: "100"}))
		}
		if app := must1(gateway.store.App(t.Context(), "app_core")); app.AccountID != "" {
			t.Errorf("account %s", app.AccountID)
		}
	})
}

func TestStatusNamesTheAccountsThatItMayBeOf(t *testing.T) {
	in := &intake{app: new(App)}
	hold := store.NewHoldID()
	l := addressed{Change: new(event.Change), apps: []tenant.App{{ID: "app_1", AccountID: "acct_1"}, {ID: "app_2"}, {ID: "app_3", AccountID: "acct_1"}}}
	in.holds = map[store.HoldID]store.Sender{hold: {App: "app_1", Account: "acct_before"}}
	in.addStatus(l, &event.Status{MessageID: "wamid.1", CallbackData: string(hold)})
	if len(in.statuses) != 1 {
		t.Fatalf("%d statuses", len(in.statuses))
	}
	if d := cmp.Diff([]tenant.AccountID{"acct_1", "acct_before"}, in.statuses[0].Accounts); d != "" {
		t.Error(d)
	}
	l.apps = nil
	in.addStatus(l, &event.Status{MessageID: "wamid.2", CallbackData: string(hold)})
	if len(in.statuses) != 2 || in.statuses[1].Accounts != nil {
		t.Errorf("without apps: %+v", in.statuses)
	}
}
