package caddytest

import (
	"errors"
	"fmt"
	"net/http"
	"sync"
	"syscall"
	"testing"
)

// load is clients that send without a pause.
type load struct {
	client   *http.Client
	stopping chan struct{}
	running  sync.WaitGroup

	mu sync.Mutex
	// answers are all that came, by HTTP status; messages the ids in those with 200.
	answers  map[int]int
	messages map[string]bool
	// unanswered are the sends whose connection broke before the answer.
	unanswered int
}

// startLoad starts a client for each body, which is sent again and again.
func (g *gateway) startLoad(t testing.TB, client *http.Client, who tenant, bodies ...string) *load {
	l := &load{client: client, stopping: make(chan struct{}), answers: make(map[int]int), messages: make(map[string]bool)}
	for _, body := range bodies {
		l.running.Go(func() {
			for l.send(t, g, who, body) {
			}
		})
	}
	return l
}

// send sends once and tells whether to go on, which it does for as long as
// somebody listens.
func (l *load) send(t testing.TB, g *gateway, who tenant, body string) bool {
	select {
	case <-l.stopping:
		return false
	default:
	}
	req := g.request(t, http.MethodPost, messagePath, body)
	req.Header.Set("Authorization", "Bearer "+who.key)
	var a answer
	response, err := l.client.Do(req)
	if err == nil {
		if a, err = readAnswer(response); err == nil {
			g.check(t, &a)
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		l.unanswered++
		return !errors.Is(err, syscall.ECONNREFUSED)
	}
	l.answers[a.status]++
	if id := a.messageID(); id != "" {
		l.messages[id] = true
	}
	return true
}

// count is how many answers have come.
func (l *load) count() (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, of := range l.answers {
		n += of
	}
	return n
}

// with is how many answers have had this status.
func (l *load) with(status int) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.answers[status]
}

// await waits until this many answers have come.
func (l *load) await(t testing.TB, n int) {
	t.Helper()
	eventually(t, fmt.Sprint(n, " answers"), func() error {
		if got := l.count(); got < n {
			return fmt.Errorf("%d have come", got)
		}
		return nil
	})
}

// stop lets every client finish the send that it is at, and ends when all have.
func (l *load) stop() {
	close(l.stopping)
	l.running.Wait()
	l.client.CloseIdleConnections()
}

// wantOnly200 fails the test unless every answer was 200.
func (l *load) wantOnly200(t testing.TB) {
	t.Helper()
	if all := l.count(); all == 0 || l.answers[http.StatusOK] != all || len(l.messages) != all {
		t.Errorf("%d message ids in the answers %v", len(l.messages), l.answers)
	}
}

// repeat returns n times the same body.
func repeat(n int, body string) []string {
	bodies := make([]string, n)
	for i := range bodies {
		bodies[i] = body
	}
	return bodies
}
