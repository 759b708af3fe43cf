package delivery

import (
	"net/http"
	"slices"
	"testing"
	"time"
)

func TestDelayFollowsTheSchedule(t *testing.T) {
	c := Config{}.withDefaults()
	published := []time.Duration{5e9, 300e9, 1800e9, 7200e9, 18000e9, 36000e9, 36000e9}
	if !slices.Equal(c.Retry, published) {
		t.Fatalf("the schedule is %v", c.Retry)
	}
	for failed, want := range published {
		shortest, longest := time.Duration(1<<62), time.Duration(0)
		for range 1000 {
			delay, ok := c.delay(failed, 0)
			if !ok {
				t.Fatalf("no attempt after %d", failed+1)
			}
			shortest, longest = min(shortest, delay), max(longest, delay)
		}
		if shortest < want*8/10 || longest > want*12/10 {
			t.Errorf("between %v and %v after attempt %d", shortest, longest, failed+1)
		}
		if shortest > want*9/10 || longest < want*11/10 {
			t.Errorf("only between %v and %v after attempt %d", shortest, longest, failed+1)
		}
	}
	if delay, ok := c.delay(len(published), time.Hour); ok {
		t.Errorf("another attempt after %v", delay)
	}
}

func TestRetryAfterOnlyPutsOff(t *testing.T) {
	c := Config{}.withDefaults()
	if delay, _ := c.delay(0, time.Hour); delay != time.Hour {
		t.Errorf("%v where the endpoint asked for an hour", delay)
	}
	if delay, _ := c.delay(3, time.Second); delay < 90*time.Minute {
		t.Errorf("%v where the endpoint asked for a second", delay)
	}
}

func TestRetryAfterIsReadInBothForms(t *testing.T) {
	now := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	for value, want := range map[string]time.Duration{
		"": 0, "0": 0, "1": time.Second, "0120": 2 * time.Minute, "3600": time.Hour, "3601": time.Hour,
		"18446744073709551615": time.Hour, "99999999999999999999999999": time.Hour,
		"-1": 0, "+1": 0, "1.5": 0, "1s": 0, " 5": 0, "soon": 0, "0x10": 0, "1_0": 0,
		now.Add(90 * time.Second).Format(http.TimeFormat):  90 * time.Second,
		now.Add(-90 * time.Second).Format(http.TimeFormat): 0,
		now.Add(48 * time.Hour).Format(http.TimeFormat):    time.Hour,
		"Sunday, 01-Nov-26 12:00:30 GMT":                   30 * time.Second,
		"Sun Nov  1 12:00:30 2026":                         30 * time.Second,
	} {
		if got := retryAfter(http.Header{"Retry-After": {value}}, now); got != want {
			t.Errorf("%q: %v, want %v", value, got, want)
		}
	}
}

func TestLifetimeCoversEveryAttempt(t *testing.T) {
	c := Config{Timeout: time.Second, Retry: []time.Duration{10 * time.Second, 20 * time.Second}}
	if got, want := c.lifetime(), 39*time.Second; got != want {
		t.Errorf("%v, want %v", got, want)
	}
}

func TestConfigIsValidated(t *testing.T) {
	for _, c := range []Config{
		{},
		{Timeout: time.Second, Concurrency: 1, PerEndpoint: 100, Retry: []time.Duration{1}, AllowPrivateTargets: true},
		{Retry: make([]time.Duration, 0)},
		Config{}.withDefaults(),
	} {
		if err := c.Validate(); err != nil {
			t.Errorf("%+v: %v", c, err)
		}
	}
	for _, c := range []Config{
		{Timeout: -1}, {Timeout: time.Hour}, {Concurrency: -1}, {PerEndpoint: -1}, {Retry: []time.Duration{0}},
		{Retry: []time.Duration{time.Second, -1}}, {Retry: []time.Duration{1 << 62}}, {Retry: slices.Repeat([]time.Duration{1}, 101)},
	} {
		if err := c.Validate(); err == nil {
			t.Errorf("%+v is valid", c)
		}
	}
}
