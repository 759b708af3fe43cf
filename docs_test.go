package gateway

import (
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/connexease/caddy-whatsapp-gateway/seal"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

func readDoc(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestDocsListEveryCode(t *testing.T) {
	errorsPage, readme := readDoc(t, "docs/errors.md"), readDoc(t, "README.md")
	for _, p := range catalogue {
		row := fmt.Sprintf("| `%s` | %d | `%s` |", p.code, p.status, p.group)
		if !strings.Contains(errorsPage, row) {
			t.Errorf("docs/errors.md lacks %s", row)
		}
		if !strings.Contains(readme, "`"+p.code+"`") {
			t.Errorf("README.md lacks %s", p.code)
		}
	}
}

func TestReadmeShowsEveryOption(t *testing.T) {
	readme, page := readDoc(t, "README.md"), readDoc(t, "docs/configuration.md")
	for word := range appOptions {
		if !strings.Contains(readme, "\t\t"+word+" ") || !strings.Contains(page, "| `"+word+" ") {
			t.Errorf("%s is not documented", word)
		}
	}
	for word := range handlerOptions {
		if !strings.Contains(readme, "\t\t"+word+" ") || !strings.Contains(page, "| `"+word+" ") {
			t.Errorf("%s is not documented", word)
		}
	}
}

// TestDocumentedProgramsSealTokens runs the programs of docs/operations.md with
// the interpreters that there are; the format itself has tests of its own.
func TestDocumentedProgramsSealTokens(t *testing.T) {
	page := readDoc(t, "docs/operations.md")
	for language, command := range map[string][]string{
		"python": {"python3", "-c"},
		"js":     {"node", "-e"},
	} {
		_, rest, found := strings.Cut(page, "```"+language+"\n")
		program, _, ended := strings.Cut(rest, "```")
		if !found || !ended {
			t.Fatalf("docs/operations.md has no program in %s", language)
		}
		if !canRun(language, command[0]) {
			t.Logf("no %s to run the program with", command[0])
			continue
		}
		var secret [seal.KeySize]byte
		rand.Read(secret[:])
		key := base64.StdEncoding.EncodeToString(secret[:])
		const app, token = tenant.AppID("app_é"), "EAAtoken"
		out, err := exec.CommandContext(t.Context(), command[0], command[1], program, "k-2", key, string(app), token).Output()
		if err != nil {
			t.Fatalf("%s: %v", language, err)
		}
		ring := new(seal.Ring)
		if err := ring.Add("k-2", key); err != nil {
			t.Fatal(err)
		}
		opened, err := ring.Open(app, tenant.SealedToken(strings.TrimSpace(string(out))))
		if err != nil || opened != token {
			t.Errorf("a token sealed in %s does not open: %v", language, err)
		}
	}
}

// canRun tells whether an interpreter and what the program imports are there.
func canRun(language, interpreter string) bool {
	check := []string{"-e", "require('node:crypto')"}
	if language == "python" {
		check = []string{"-c", "import cryptography"}
	}
	return exec.Command(interpreter, check...).Run() == nil
}

func TestLinksBetweenDocsLead(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^):]+)\)`)
	for _, file := range []string{"README.md", "CHANGELOG.md", "docs/architecture.md", "docs/configuration.md", "docs/errors.md", "docs/operations.md", "docs/webhooks.md", "docs/redis.md", "docs/core-service.md"} {
		folder := ""
		if strings.HasPrefix(file, "docs/") {
			folder = "docs/"
		}
		for _, match := range link.FindAllStringSubmatch(readDoc(t, file), -1) {
			target, _, _ := strings.Cut(match[1], "#")
			if _, err := os.Stat(folder + target); target != "" && err != nil {
				t.Errorf("%s links to %s: %v", file, match[1], err)
			}
		}
	}
}
