package caddytest

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// secrets are strings that must not get out of a gateway, each with a word for
// what it is. It is safe for concurrent use.
type secrets struct {
	mu sync.Mutex
	// hidden must be neither in logs nor in answers: keys, tokens, peppers.
	hidden map[string]string
	// private must not be in logs, but may be in answers: recipients, texts.
	private map[string]string
}

// hide keeps a secret from logs and answers from now on; kind says what it is.
func (s *secrets) hide(kind, secret string) { s.keep(&s.hidden, kind, secret) }

// keepPrivate keeps a text from logs from now on. A test that sends much should
// use few recipients and texts: the logs are searched for each.
func (s *secrets) keepPrivate(kind, text string) { s.keep(&s.private, kind, text) }

func (s *secrets) keep(where *map[string]string, kind, text string) {
	if len(text) < 4 {
		return // it would be found anywhere
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if *where == nil {
		*where = make(map[string]string)
	}
	(*where)[text] = kind
}

// inAnswer returns what kind of secret is in an answer, or "".
func (s *secrets) inAnswer(text string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	for secret, kind := range s.hidden {
		if strings.Contains(text, secret) {
			return kind
		}
	}
	return ""
}

// inLog returns what kinds of secrets are in a log, each with a line that has it.
func (s *secrets) inLog(log string) map[string]string {
	s.mu.Lock()
	found := make(map[string]string)
	for _, all := range []map[string]string{s.hidden, s.private} {
		for secret, kind := range all {
			if i := strings.Index(log, secret); i >= 0 {
				line := log[strings.LastIndexByte(log[:i], '\n')+1:]
				found[kind], _, _ = strings.Cut(line, "\n")
			}
		}
	}
	s.mu.Unlock()
	for kind, line := range found {
		found[kind] = s.masked(line)
	}
	return found
}

// masked is text without secrets, to be shown when a test fails.
func (s *secrets) masked(text string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, all := range []map[string]string{s.hidden, s.private} {
		for secret, kind := range all {
			text = strings.ReplaceAll(text, secret, "["+kind+"]")
		}
	}
	return text
}

// inspect fails the test for what its processes must never do. It runs once
// they have ended.
func (g *gateway) inspect(t testing.TB) {
	races, err := filepath.Glob(filepath.Join(g.dir, "race.*"))
	if err != nil {
		t.Error(err)
	}
	for _, file := range races {
		report, _ := os.ReadFile(file)
		t.Errorf("data race:\n%s", g.masked(string(report)))
	}
	for _, name := range []string{"key_pepper", "encryption_key"} {
		if secret, err := os.ReadFile(g.database + "." + name); err == nil {
			g.hide("generated "+name, strings.TrimSpace(string(secret)))
		}
	}
	log := g.output()
	for kind, line := range g.inLog(log) {
		t.Errorf("a %s is in the log: %s", kind, line)
	}
	if i := strings.Index(log, "panic"); i >= 0 {
		t.Errorf("Caddy panicked: %s", g.masked(log[i:min(len(log), i+4000)]))
	}
	if t.Failed() && testing.Verbose() {
		const enough = 64 << 10
		t.Logf("the end of the log of %s:\n%s", t.Name(), g.masked(log[max(0, len(log)-enough):]))
	}
}
