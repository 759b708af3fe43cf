package main

import (
	"bufio"
	"context"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

func TestMain(m *testing.M) {
	// Of the client that looks whether a served state is there.
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		http.DefaultTransport.(*http.Transport).CloseIdleConnections()
		os.Exit(code)
	}))
}

// start runs the program in dir until stop is called, and returns its address.
func start(t *testing.T, dir string) (address string, stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	reader, writer := io.Pipe()
	done := make(chan error, 1)
	go func() {
		done <- run(ctx, []string{
			"-listen", "127.0.0.1:0", "-token-file", filepath.Join(dir, "core.token"), "-state", filepath.Join(dir, "core.json"),
		}, writer)
		_ = writer.Close()
	}()
	line, err := bufio.NewReader(reader).ReadString('\n')
	if err != nil {
		t.Fatal(<-done)
	}
	_, address, _ = strings.Cut(strings.TrimSpace(line), "http://")
	return address, func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// shellBlocks are the commands of a page.
func shellBlocks(t *testing.T, page string) (blocks []string) {
	t.Helper()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range strings.Split(string(text), "```sh\n")[1:] {
		block, _, _ := strings.Cut(part, "```")
		blocks = append(blocks, block)
	}
	return blocks
}

func TestDocumentedCommandsWork(t *testing.T) {
	for _, program := range []string{"sh", "curl", "openssl"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("no %s to run the commands with", program)
		}
	}
	blocks := shellBlocks(t, filepath.Join("..", "..", "docs", "core-service.md"))
	if len(blocks) != 3 {
		t.Fatalf("docs/core-service.md has %d blocks of commands", len(blocks))
	}
	token, serve, _ := strings.Cut(blocks[0], "\n")
	if strings.TrimSpace(serve) != "go run ./core/reference -token-file core.token -state core.json" {
		t.Errorf("the program is started otherwise: %s", serve)
	}
	dir := t.TempDir()
	sh(t, dir, token)
	address, stop := start(t, dir)
	defer stop()
	out := sh(t, dir, "set -eu\n"+strings.ReplaceAll(blocks[1]+blocks[2], "127.0.0.1:8090", address))
	for _, want := range []string{
		`{"account_id":"acct_1","currency":"USD","credited_micros":25000000,"version":2}`,
		`{"key_id":"key_1","app":{"id":"app_1","account_id":"acct_1","waba_id":"1000001","phone_number_id":"111"}}`,
		`{"apps":[{"id":"app_1",`,
		`{"stored":1}`,
		`{"entries":[{"id":"capture_1","account_id":"acct_1","kind":"capture","amount_micros":1000,"at":"2026-11-22T10:00:00Z"}]}`,
	} {
		if !strings.Contains(out, want) {
			t.Errorf("the commands do not answer %s:\n%s", want, out)
		}
	}
	if strings.Count(out, `"credited_micros":25000000`) != 2 {
		t.Errorf("the account is not answered as it was credited:\n%s", out)
	}
}

func sh(t *testing.T, dir, commands string) string {
	t.Helper()
	command := exec.CommandContext(t.Context(), "sh", "-c", commands)
	command.Dir = dir
	out, err := command.CombinedOutput()
	if err != nil {
		t.Fatalf("%v:\n%s", err, out)
	}
	return string(out)
}

// The digest of the commands has to be the gateway's.
func TestDocumentedDigestIsTheGateways(t *testing.T) {
	if _, err := exec.LookPath("openssl"); err != nil {
		t.Skip("no openssl")
	}
	for _, block := range shellBlocks(t, filepath.Join("..", "..", "docs", "core-service.md")) {
		for line := range strings.Lines(block) {
			if strings.HasPrefix(line, "DIGEST=") {
				got := sh(t, t.TempDir(), "KEY=some-imported-key PEPPER='a pepper'\n"+line+"\nprintf %s $DIGEST")
				if want := tenant.NewPepper("a pepper").Digest("some-imported-key").String(); got != want {
					t.Errorf("the digest is %s, want %s", got, want)
				}
				return
			}
		}
	}
	t.Error("no command makes a digest")
}

func TestStateOutlivesTheProgram(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "core.token"), []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	digest := tenant.NewPepper("p").Digest("k").String()
	address, stop := start(t, dir)
	for _, r := range [][3]string{
		{http.MethodPut, "/admin/accounts/acct_1", `{"currency":"EUR"}`},
		{http.MethodPost, "/admin/accounts/acct_1/credit", `{"amount_micros":7}`},
		{http.MethodPut, "/admin/apps/app_1", `{"webhook":{"url":"https://a.example","secret":"s"}}`},
		{http.MethodPut, "/admin/keys/" + digest, `{"key_id":"key_1","app_id":"app_1"}`},
		{http.MethodPost, "/v1/ledger-entries", `{"entries":[{"id":"a","account_id":"x","kind":"credit","amount_micros":-1,"at":"2026-11-22T10:00:00Z"}]}`},
	} {
		if _, status := ask(t, r[0], "http://"+address+r[1], r[2]); status/100 != 2 {
			t.Fatalf("%s: status %d", r[1], status)
		}
	}
	paths := []string{"/v1/accounts/acct_1", "/v1/grants/" + digest, "/admin/ledger"}
	var before []string
	for _, path := range paths {
		body, _ := ask(t, http.MethodGet, "http://"+address+path, "")
		before = append(before, body)
	}
	stop()
	address, stop = start(t, dir)
	defer stop()
	for i, path := range paths {
		if body, status := ask(t, http.MethodGet, "http://"+address+path, ""); body != before[i] || status != http.StatusOK {
			t.Errorf("%s: status %d, %s, and before %s", path, status, body, before[i])
		}
	}
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != 2 {
		t.Errorf("%v is left, %v", files, err)
	}
	if state, err := os.Stat(filepath.Join(dir, "core.json")); err != nil || state.Mode().Perm() != 0o600 {
		t.Errorf("the state is readable: %v, %v", state.Mode(), err)
	}
}

func ask(t *testing.T, method, url, body string) (string, int) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer secret")
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(text), answer.StatusCode
}

func TestWhatCannotBeStartedIsRefused(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good, empty, broken := file("good", "secret"), file("empty", "\n"), file("broken", `{"accounts":`)
	for name, args := range map[string][]string{
		"no token file":       {},
		"a missing token":     {"-token-file", filepath.Join(dir, "none")},
		"an empty token":      {"-token-file", empty},
		"a broken state":      {"-token-file", good, "-state", broken},
		"no address":          {"-token-file", good, "-listen", "127.0.0.1:x"},
		"an unknown option":   {"-token-file", good, "-x"},
		"a state in no place": {"-token-file", good, "-state", dir},
	} {
		if err := run(t.Context(), args, io.Discard); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
