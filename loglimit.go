package gateway

import (
	"sync"
	"time"

	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

// linesASecond is how many refusals of one app with one code are logged in a second. A
// program that does not stop when it is refused would fill the disk, and what a refusal
// costs would be the line about it.
const linesASecond = 10

// maxRefusals bounds the apps and codes that are told apart in a second.
const maxRefusals = 1_000

// refusals are an app's with one code; the app is empty where the key is unknown.
type refusals struct {
	app  tenant.AppID
	code string
}

// lineLimit bounds log lines about refusals. The zero value is ready to use.
type lineLimit struct {
	mu     sync.Mutex
	second int64 // since 1970
	lines  map[refusals]int
	// suppressed are the lines that were left out since the last one.
	suppressed int
}

// allow tells whether a line about such a refusal may be written now, and how many lines
// of any kind were not since the last one.
func (l *lineLimit) allow(r refusals, now time.Time) (suppressed int, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if second := now.Unix(); l.second != second || l.lines == nil {
		l.second, l.lines = second, make(map[refusals]int)
	}
	lines, known := l.lines[r]
	if lines == linesASecond || !known && len(l.lines) == maxRefusals {
		l.suppressed++
		return 0, false
	}
	l.lines[r]++
	suppressed, l.suppressed = l.suppressed, 0
	return suppressed, true
}
