package store

import (
	"fmt"
	"time"
)

// FormatTime writes a time of a record as RFC 3339 in UTC, to the nanosecond, and the
// zero time as nothing.
func FormatTime(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339Nano)
}

// ParseTime reads what [FormatTime] wrote. Anything else is [ErrCorrupt].
func ParseTime(s string) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		return t, fmt.Errorf("%w: a time is none", ErrCorrupt)
	}
	return t.UTC(), nil
}
