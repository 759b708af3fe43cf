package redis

import (
	"sync"
	"time"

	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

const (
	// maxFull is for how long a gateway refuses an app by itself. It bounds what a failover, a jump of
	// Redis's clock or a hand in the database can do, and is long enough to spare Redis a flood.
	maxFull = 100 * time.Millisecond
	// maxFullApps bounds the apps that are known to be over their limits.
	maxFullApps = 10_000
)

// fullWindows are the apps whose windows were full when Redis was asked last. Nothing takes an admission out of a window but
// time, and nothing is admitted by a full one: so until the next run of admissions leaves one of both, Redis would
// answer every request of the app in the very same way, and need not be asked. How long that is, it says
// itself, by its own clock; it is counted from when the question was put, so that it ends here before it ends there.
type fullWindows struct {
	// most is [maxFull], but for tests.
	most time.Duration

	mu   sync.RWMutex
	apps map[tenant.AppID]fullApp
}

// fullApp is what Redis has answered to an app.
type fullApp struct {
	store.Decision
	account      tenant.AccountID
	limits       tenant.RateLimit
	asked, until time.Time
	// last is an id behind those of all holds that could have been made before that: to ask for one of those again is
	// to be told that it is there.
	last store.HoldID
}

// refuse decides where it is known what Redis would.
func (f *fullWindows) refuse(a store.Admission, now time.Time) (store.Decision, bool) {
	f.mu.RLock()
	app, ok := f.apps[a.App]
	f.mu.RUnlock()
	switch {
	case !ok:
		return store.Decision{}, false
	case app.limits != a.Limits || !now.Before(app.until) || now.Before(app.asked):
		f.mu.Lock()
		delete(f.apps, a.App)
		f.mu.Unlock()
		return store.Decision{}, false
	}
	return app.Decision, app.account == a.Account && (a.HoldID == "" || a.HoldID > app.last)
}

// note remembers a decision of Redis's that stands for a while.
func (f *fullWindows) note(a store.Admission, d decision, asked time.Time) {
	lasts := min(d.fullFor, f.most)
	if lasts <= 0 {
		return
	}
	app := fullApp{d.Decision, a.Account, a.Limits, asked, asked.Add(lasts), store.NewHoldIDFor(a.Account)}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.apps == nil || len(f.apps) >= maxFullApps {
		f.apps = make(map[tenant.AppID]fullApp)
	}
	f.apps[a.App] = app
}
