package deadline

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestADeadlineIsNeitherLateNorMuchTooEarly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const after = 3200 * time.Millisecond
		d := New(after)
		var waiting sync.WaitGroup
		for range 100 {
			asked, ctx := time.Now(), d.Next()
			if again := d.Next(); again != ctx {
				t.Fatal("two at the same time are not one")
			}
			waiting.Go(func() {
				<-ctx.Done()
				if took := time.Since(asked); took > after || took < after-100*time.Millisecond {
					t.Errorf("it took %v", took)
				}
				if ctx.Err() != context.DeadlineExceeded {
					t.Error(ctx.Err())
				}
			})
			<-time.After(37 * time.Millisecond)
		}
		waiting.Wait()
	})
}
