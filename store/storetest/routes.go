package storetest

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

var routeChecks = []check{
	{"apps are found by number and by business account", appsAreFound},
	{"an empty id finds no app", emptyIDFindsNone},
	{"an app is found where an update has put it", updateMovesApp},
	{"webhooks come back as they were set", webhooksComeBack},
	{"webhooks that were read are copies", webhooksAreCopies},
	{"a failed update leaves the webhook", failedUpdateLeavesWebhook},
}

// routes are the two ways from what Meta sends to the apps.
func (f *fixture) routes() map[string]func(context.Context, string) ([]tenant.App, error) {
	return map[string]func(context.Context, string) ([]tenant.App, error){
		"AppsWithNumber": f.AppsWithNumber, "AppsOfWABA": f.AppsOfWABA,
	}
}

// routedApp is an app without account.
func routedApp(number, waba string, i int) tenant.App {
	a := newApp("", i)
	a.PhoneNumberID, a.WABAID = number, waba
	return a
}

func (f *fixture) wantRoute(route, id string, want ...tenant.App) {
	f.Helper()
	got, err := f.routes()[route](f.Context(), id)
	f.must(err)
	f.wantSame(route+"("+id+")", got, want)
}

func appsAreFound(f *fixture) {
	apps := []tenant.App{
		routedApp("111", "1001", 0), routedApp("222", "1001", 1), routedApp("111", "1002", 2),
		routedApp("1111", "10011", 3), routedApp("", "1001", 4), routedApp("111", "", 5), routedApp("1001", "111", 6),
	}
	for _, a := range apps {
		f.must(f.CreateApp(f.Context(), a))
	}
	for range 2 { // the second time after a restart
		f.wantRoute("AppsWithNumber", "111", apps[0], apps[2], apps[5])
		f.wantRoute("AppsWithNumber", "222", apps[1])
		f.wantRoute("AppsWithNumber", "1111", apps[3])
		f.wantRoute("AppsOfWABA", "1001", apps[0], apps[1], apps[4])
		f.wantRoute("AppsOfWABA", "1002", apps[2])
		for route := range f.routes() {
			for _, id := range []string{"11", "11%", "1__", "333", " 111", "111 ", "0111", "' OR '1'='1"} {
				f.wantRoute(route, id)
			}
		}
		f.restart()
	}
}

func emptyIDFindsNone(f *fixture) {
	for i := range 2 {
		f.must(f.CreateApp(f.Context(), routedApp("", "", i)))
	}
	for route := range f.routes() {
		f.wantRoute(route, "")
	}
}

func updateMovesApp(f *fixture) {
	ctx := f.Context()
	first, second := routedApp("111", "1001", 0), routedApp("222", "1002", 1)
	f.must(f.CreateApp(ctx, first))
	f.must(f.CreateApp(ctx, second))
	move := func(number, waba string) {
		f.Helper()
		got, err := f.UpdateApp(ctx, first.ID, func(a *tenant.App) error {
			a.PhoneNumberID, a.WABAID = number, waba
			return nil
		})
		f.must(err)
		first = got
	}
	move("222", "1002")
	f.wantRoute("AppsWithNumber", "222", first, second)
	f.wantRoute("AppsOfWABA", "1002", first, second)
	f.wantRoute("AppsWithNumber", "111")
	f.wantRoute("AppsOfWABA", "1001")
	move("", "")
	f.wantRoute("AppsWithNumber", "222", second)
	f.wantRoute("AppsOfWABA", "1002", second)
	f.wantRoute("AppsWithNumber", "")
	f.wantRoute("AppsOfWABA", "")
	move("111", "1001")
	f.wantRoute("AppsWithNumber", "111", first)
	f.wantRoute("AppsOfWABA", "1001", first)
}

// fullWebhook is a webhook with every field set, made anew with each call.
func fullWebhook() *tenant.Webhook {
	gone := created.Add(time.Hour)
	return &tenant.Webhook{
		URL: "https://customer.example/hook?a=1&b=%20#x", Secret: "s3cret <&> \"ü\" \\u0041\n",
		Events:     []tenant.Event{tenant.EventRead, tenant.EventMessages},
		Headers:    map[string]tenant.Secret{"X-Team": "a", "X-Empty": "", "X-Odd": "' \" \\ < é"},
		DisabledAt: &gone,
	}
}

// webhookStates are what an app's webhook may be, one after the other.
func webhookStates() []*tenant.Webhook {
	disabled := fullWebhook()
	disabled.Headers, disabled.Secret = nil, ""
	return []*tenant.Webhook{nil, {URL: "https://a.example/"}, fullWebhook(), disabled, nil, fullWebhook(), {Secret: "kept"}}
}

func webhooksComeBack(f *fixture) {
	ctx := f.Context()
	for i, webhook := range webhookStates() {
		app := routedApp(tenant.NewID("1"), tenant.NewID("2"), i)
		app.Webhook = webhook
		f.must(f.CreateApp(ctx, app))
		key := newKey(app.ID, i)
		f.must(f.CreateKey(ctx, key))
		f.wantWebhook(app, key, webhook)
		for _, next := range webhookStates() {
			got, err := f.UpdateApp(ctx, app.ID, func(a *tenant.App) error { a.Webhook = next; return nil })
			f.must(err)
			f.wantSame("webhook after UpdateApp", got.Webhook, next)
			f.wantWebhook(app, key, next)
		}
		f.restart()
		f.wantWebhook(app, key, webhookStates()[len(webhookStates())-1])
	}
}

// wantWebhook reads an app in every way that there is.
func (f *fixture) wantWebhook(app tenant.App, key tenant.APIKey, want *tenant.Webhook) {
	f.Helper()
	for i, got := range f.readings(app, key) {
		f.wantSame("webhook of reading "+readings[i], got.Webhook, want)
	}
}

// readings names what [fixture.readings] returns.
var readings = []string{"App", "Apps", "AppsWithNumber", "AppsOfWABA", "Grant"}

func (f *fixture) readings(app tenant.App, key tenant.APIKey) []tenant.App {
	f.Helper()
	ctx := f.Context()
	one, err := f.App(ctx, app.ID)
	f.must(err)
	apps, err := f.Apps(ctx)
	f.must(err)
	number, err := f.AppsWithNumber(ctx, app.PhoneNumberID)
	f.must(err)
	waba, err := f.AppsOfWABA(ctx, app.WABAID)
	f.must(err)
	if len(number) != 1 || len(waba) != 1 {
		f.Fatalf("%d apps with one number and %d with one business account", len(number), len(waba))
	}
	i := slices.IndexFunc(apps, func(a tenant.App) bool { return a.ID == app.ID })
	return []tenant.App{one, apps[i], number[0], waba[0], f.grant(key.Digest).App}
}

// scribble writes through every pointer of a webhook.
func scribble(w *tenant.Webhook) {
	w.URL = "https://elsewhere.example/"
	w.Events[0] = tenant.EventAccount
	w.Headers["X-Team"] = "changed"
	delete(w.Headers, "X-Odd")
	*w.DisabledAt = w.DisabledAt.Add(time.Hour)
}

func webhooksAreCopies(f *fixture) {
	ctx := f.Context()
	app := routedApp("111", "1001", 0)
	app.Webhook = fullWebhook()
	f.must(f.CreateApp(ctx, app))
	key := newKey(app.ID, 0)
	f.must(f.CreateKey(ctx, key))
	scribble(app.Webhook) // what was given to CreateApp
	f.wantWebhook(app, key, fullWebhook())
	for _, got := range f.readings(app, key) {
		scribble(got.Webhook)
	}
	f.wantWebhook(app, key, fullWebhook())
	var inside *tenant.Webhook
	got, err := f.UpdateApp(ctx, app.ID, func(a *tenant.App) error { inside = a.Webhook; return nil })
	f.must(err)
	scribble(got.Webhook)
	f.wantWebhook(app, key, fullWebhook())
	if inside != got.Webhook {
		scribble(inside)
	}
	f.wantWebhook(app, key, fullWebhook())
}

func failedUpdateLeavesWebhook(f *fixture) {
	app := routedApp("111", "1001", 0)
	app.Webhook = fullWebhook()
	f.must(f.CreateApp(f.Context(), app))
	key := newKey(app.ID, 0)
	f.must(f.CreateKey(f.Context(), key))
	refused := errors.New("refused")
	for name, change := range map[string]func(*tenant.App){
		"through its pointers": func(a *tenant.App) { scribble(a.Webhook) },
		"with another":         func(a *tenant.App) { a.Webhook = &tenant.Webhook{URL: "https://b.example/"} },
		"away":                 func(a *tenant.App) { a.Webhook = nil },
		"in its headers":       func(a *tenant.App) { maps.Copy(a.Webhook.Headers, map[string]tenant.Secret{"X-New": "1"}) },
	} {
		_, err := f.UpdateApp(f.Context(), app.ID, func(a *tenant.App) error { change(a); return refused })
		f.wantError("UpdateApp that changes the webhook "+name, err, refused)
		f.wantWebhook(app, key, fullWebhook())
	}
	_, err := f.UpdateApp(f.Context(), app.ID, func(a *tenant.App) error {
		scribble(a.Webhook)
		a.AccountID = "acct_none"
		return nil
	})
	f.wantError("UpdateApp to an unknown account", err, store.ErrNotFound)
	f.wantWebhook(app, key, fullWebhook())
}
