package sqlite

import (
	"bytes"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/store/storetest"
)

// The disk may stand still for longer than a claim lasts: what it was told of before is not
// claimed again.
func TestWhatIsDeliveredIsNotClaimedAgainWhileTheWriterStandsStill(t *testing.T) {
	for name, size := range map[string]int{"packed": 10, "a row": maxArrival + 1} {
		t.Run(name, func(t *testing.T) {
			clock := storetest.NewClock()
			s := open(t, filepath.Join(t.TempDir(), "gateway.db"), clock.Now)
			events := many("app_1", 1)
			events[0].Payload = bytes.Repeat([]byte("x"), size)
			if _, err := s.Receive(t.Context(), events, nil); err != nil {
				t.Fatal(err)
			}
			claimed := claimSome(t, s, "app_1", 1)
			stands, goesOn, blocked := make(chan struct{}), make(chan struct{}), make(chan error, 1)
			go func() {
				blocked <- s.writer.do(t.Context(), &operation{apply: func(*writer) error { close(stands); <-goesOn; return nil }})
			}()
			<-stands
			told := make(chan error, 1)
			s.SettleDelivered(claimed[0], func(err error) { told <- err })
			clock.Advance(2 * time.Minute)
			again := make(chan []store.Claimed, 1)
			go func() {
				claimed, _, err := s.Claim(t.Context(), "app_1", 1, time.Minute)
				if err != nil {
					t.Error(err)
				}
				again <- claimed
			}()
			queued := func() int {
				s.writer.queue.mu.Lock()
				defer s.writer.queue.mu.Unlock()
				return len(s.writer.queue.waiting)
			}
			for queued() < 2 && len(again) == 0 {
				runtime.Gosched()
			}
			close(goesOn)
			if n := len(<-again); n > 0 {
				t.Error("it is claimed again")
			}
			for _, c := range []chan error{told, blocked} {
				if err := <-c; err != nil {
					t.Error(err)
				}
			}
		})
	}
}
