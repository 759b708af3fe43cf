package gateway

import (
	"sync"
	"time"
)

// linesASecond is how many refusals of one code are logged in a second. A program that
// does not stop when it is refused would fill the disk, and what a refusal costs would be
// the line about it.
const linesASecond = 10

// lineLimit bounds log lines by their code. The zero value is ready to use.
type lineLimit struct {
	mu    sync.Mutex
	codes map[string]*codeLines
}

// codeLines are the lines with one code.
type codeLines struct {
	second     int64 // since 1970
	lines      int   // in that second
	suppressed int   // since the last line
}

// allow tells whether a line with this code may be written now, and how many were not
// since the last one.
func (l *lineLimit) allow(code string, now time.Time) (suppressed int, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.codes[code]
	if c == nil {
		if l.codes == nil {
			l.codes = make(map[string]*codeLines)
		}
		c = new(codeLines)
		l.codes[code] = c
	}
	if second := now.Unix(); c.second != second {
		c.second, c.lines = second, 0
	}
	if c.lines == linesASecond {
		c.suppressed++
		return 0, false
	}
	suppressed, c.suppressed = c.suppressed, 0
	c.lines++
	return suppressed, true
}
