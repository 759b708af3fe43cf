package delivery

import (
	"testing"
	"time"
)

const someURL = "https://example.com/hook"

// broken is a breaker after as many failures at now as it takes.
func brokenBreaker(t *testing.T, now time.Time) *breaker {
	t.Helper()
	b := new(breaker)
	for i := range breakAfter {
		if got := b.ask(someURL, now); got != openPassage {
			t.Fatalf("after %d failures: %v", i, got)
		}
		if broke := b.failed(someURL, openPassage, now); broke != (i == breakAfter-1) {
			t.Fatalf("failure %d: broke is %v", i+1, broke)
		}
	}
	return b
}

func TestBreakerLetsOneAttemptThroughAtATime(t *testing.T) {
	now := time.Now()
	b := brokenBreaker(t, now)
	if got := b.ask(someURL, now); got != closedPassage {
		t.Errorf("right after: %v", got)
	}
	now = now.Add(2 * minPause)
	if got := b.ask(someURL, now); got != probePassage {
		t.Errorf("after the pause: %v", got)
	}
	if got := b.ask(someURL, now); got != closedPassage || !b.paused(now) {
		t.Errorf("with one under way: %v", got)
	}
	b.spared(someURL)
	if got := b.ask(someURL, now); got != probePassage {
		t.Errorf("after one that did not take place: %v", got)
	}
}

func TestBreakerPausesGrow(t *testing.T) {
	now := time.Now()
	b := brokenBreaker(t, now)
	for i, want := range []time.Duration{1, 2, 4, 8, 16, 30, 30} {
		if pause := b.until.Sub(now); pause < want*time.Second*8/10 || pause > want*time.Second*12/10 {
			t.Errorf("pause %d is %v, want about %vs", i+1, pause, int(want))
		}
		if got := b.ask(someURL, b.until.Add(-1)); got != closedPassage {
			t.Errorf("before the end of pause %d: %v", i+1, got)
		}
		now = b.until
		if got := b.ask(someURL, now); got != probePassage {
			t.Errorf("after pause %d: %v", i+1, got)
		}
		b.failed(someURL, probePassage, now)
	}
}

func TestFailuresOfWhatWasUnderWayDoNotMakeThePauseLonger(t *testing.T) {
	now := time.Now()
	b := brokenBreaker(t, now)
	until := b.until
	for range 20 {
		if b.failed(someURL, openPassage, now) {
			t.Fatal("it broke twice")
		}
	}
	if !b.until.Equal(until) {
		t.Errorf("the pause ends %v later", b.until.Sub(until))
	}
}

func TestFirstSuccessLetsAllThrough(t *testing.T) {
	now := time.Now()
	b := brokenBreaker(t, now)
	if !b.succeeded(someURL) {
		t.Error("it was not mended")
	}
	for range 3 {
		if got := b.ask(someURL, now); got != openPassage {
			t.Errorf("afterwards: %v", got)
		}
	}
	for range breakAfter - 1 {
		b.failed(someURL, openPassage, now)
	}
	if b.succeeded(someURL) || b.failed(someURL, openPassage, now) || b.broken() {
		t.Error("failures were counted that were not in a row")
	}
}

func TestAnotherURLBeginsAnew(t *testing.T) {
	now := time.Now()
	b := brokenBreaker(t, now)
	const other = "https://example.com/other"
	if got := b.ask(other, now); got != openPassage {
		t.Errorf("the other URL: %v", got)
	}
	for range breakAfter {
		b.failed(someURL, openPassage, now) // late news of the first one
	}
	if b.broken() {
		t.Error("failures of the first URL count for the other")
	}
}

// Each event is refused once and taken the second time: the retries have to come.
func TestFailuresOfAShortTimeBreakNothing(t *testing.T) {
	began := time.Now()
	b := &breaker{patience: breakPatience}
	for i := range 1_000 {
		now := began.Add(time.Duration(i) * breakPatience / 1_000)
		if b.failed(someURL, b.ask(someURL, now), now) || b.ask(someURL, now) != openPassage {
			t.Fatalf("it broke after %d failures in %v", i+1, now.Sub(began))
		}
	}
	if !b.strained() {
		t.Error("such an endpoint gets as many attempts as any other")
	}
	if !b.failed(someURL, openPassage, began.Add(breakPatience)) || b.strained() {
		t.Error("it does not break after the time either")
	}
	if b.succeeded(someURL); b.strained() {
		t.Error("a success does not end it")
	}
}
