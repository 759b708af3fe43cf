package sqlite

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

// A cache that knows the generation of what it holds need not ask again for what was
// there by then.
func TestWhateverHadChangedWhenTheStoreLookedHasGrownTheGeneration(t *testing.T) {
	path := filepath.Join(t.TempDir(), "gateway.db")
	s := open(t, path, time.Now)
	tool := openTool(t, path)
	for _, name := range []string{"a", "b", "c"} {
		for by, writer := range map[string]*Store{"another process": tool, "the gateway": s} {
			generation := s.Generation()
			app := tenant.App{ID: tenant.AppID(tenant.NewID("app")), Name: name, CreatedAt: time.Now()}
			if err := writer.CreateApp(t.Context(), app); err != nil {
				t.Fatal(err)
			}
			changed := time.Now()
			await(t, "a look", func() bool { return s.Watched().After(changed) })
			if s.Generation() == generation {
				t.Errorf("%s has changed something, and the generation is the same", by)
			}
		}
	}
}
