package delivery

import (
	"sync"
	"time"

	"go.uber.org/zap"
)

// quiet is for how long the store's errors are only counted after one was logged:
// there is one for every runner and every try.
const quiet = 10 * time.Second

// trouble is the store's: all of its errors come from one cause.
type trouble struct {
	mu       sync.Mutex
	last     time.Time
	unlogged int
}

// log logs an error of the store's, or counts it.
func (t *trouble) log(logger *zap.Logger, message string, err error) {
	t.mu.Lock()
	now := time.Now()
	if !t.last.IsZero() && now.Sub(t.last) < quiet {
		t.unlogged++
		t.mu.Unlock()
		return
	}
	unlogged := t.unlogged
	t.last, t.unlogged = now, 0
	t.mu.Unlock()
	logger.Error(message, zap.Error(err), zap.Int("more_before", unlogged))
}
