package gateway

import (
	"strconv"
	"testing"
	"time"

	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

func TestAFloodOfRefusalsIsAFewLines(t *testing.T) {
	var l lineLimit
	now := time.Unix(1_000, 0)
	flood := func(app tenant.AppID, code string, n int) (written int) {
		for range n {
			if _, ok := l.allow(refusals{app, code}, now); ok {
				written++
			}
		}
		return written
	}
	for _, test := range []struct {
		app         tenant.AppID
		code        string
		asked, want int
	}{
		{"app_1", "RATE_001", 1_000, linesASecond},
		{"app_1", "BILL_001", 3, 3},
		{"app_2", "RATE_001", 3, 3},
		{"", "AUTH_001", 500, linesASecond},
	} {
		if written := flood(test.app, test.code, test.asked); written != test.want {
			t.Errorf("%d lines of %s with %s, want %d", written, test.app, test.code, test.want)
		}
	}
	now = now.Add(time.Second)
	if suppressed, ok := l.allow(refusals{"app_1", "RATE_001"}, now); !ok || suppressed != 500-linesASecond {
		t.Errorf("the next line says that %d were left out, %v", suppressed, ok)
	}
	written := 0
	for i := range 2 * maxRefusals {
		written += flood(tenant.AppID("app_"+strconv.Itoa(i)), "RATE_001", 1)
	}
	if written > maxRefusals {
		t.Errorf("%d apps have lines in one second", written)
	}
}
