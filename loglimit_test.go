package gateway

import (
	"testing"
	"time"
)

func TestAFloodOfRefusalsIsAFewLines(t *testing.T) {
	var l lineLimit
	now := time.Unix(1_000, 0)
	written := 0
	flood := func(code string, n int) {
		written = 0
		for range n {
			if _, ok := l.allow(code, now); ok {
				written++
			}
		}
	}
	if flood("RATE_001", 1_000); written != linesASecond {
		t.Errorf("%d lines", written)
	}
	if flood("BILL_001", 3); written != 3 {
		t.Errorf("%d lines of another code", written)
	}
	now = now.Add(time.Second)
	if suppressed, ok := l.allow("RATE_001", now); !ok || suppressed != 1_000-linesASecond {
		t.Errorf("the next line says that %d were left out, %v", suppressed, ok)
	}
	if suppressed, ok := l.allow("RATE_001", now); !ok || suppressed != 0 {
		t.Errorf("and the one after it %d, %v", suppressed, ok)
	}
}
