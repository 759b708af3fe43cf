package gateway

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/spf13/cobra"

	"github.com/connexease/caddy-whatsapp-gateway/pricing"
	"github.com/connexease/caddy-whatsapp-gateway/seal"
	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

// The demonstration's records. Their ids are always the same, so that each
// is made once.
const (
	demoName    = "Demo"
	demoAccount = tenant.AccountID("acct_demo")
	demoApp     = tenant.AppID("app_demo")
	demoCredit  = pricing.Micros(10_000_000)
	// demoOperation is the id of the one credit.
	demoOperation = "credit_demo"
	// demoKeyFile is the name of the secret that keeps the key.
	demoKeyFile = "demo_key"
)

// secretFiles is a store that has a place for files with secrets.
type secretFiles interface {
	SecretFile(name string) string
}

// demonstration is what is printed.
type demonstration struct {
	AccountID tenant.AccountID `json:"account_id"`
	AppID     tenant.AppID     `json:"app_id"`
	Key       string           `json:"key"`
	Commands  [2]string        `json:"commands"`
}

func demo() *cobra.Command {
	cmd := verb("demo", "Create an account, an app and a key to try the gateway with", func(ctx context.Context, c *command, _ []string) error {
		address, err := gatewayURL(os.Getenv("GATEWAY_ADDRESS"))
		if err != nil {
			return fmt.Errorf("GATEWAY_ADDRESS: %w", err)
		}
		key, err := prepareDemo(ctx, c)
		if err != nil {
			return err
		}
		d := demonstration{AccountID: demoAccount, AppID: demoApp, Key: string(key)}
		for i, query := range []string{"?is_fake=true", ""} {
			d.Commands[i] = fmt.Sprintf(`curl -sS '%s/v1/wa/message%s' -H 'Authorization: Bearer %s' -H 'Content-Type: application/json' -d '%s'`,
				address, query, d.Key, `{"messaging_product":"whatsapp","to":"12025550100","type":"text","text":{"body":"Hello"}}`)
		}
		if c.json {
			return c.print(d)
		}
		_, err = fmt.Fprintf(c.OutOrStdout(), "The demo's API key:\n\n%s\n\nA sandbox send, which is checked and goes nowhere:\n\n%s\n\n"+
			"A send through the Meta simulator, which is charged to account %s:\n\n%s\n", d.Key, d.Commands[0], d.AccountID, d.Commands[1])
		return err
	})
	cmd.Long = `Create an account, an app and a key to try the gateway with, and print the key
and two commands that send with it. The second time it only prints.

The app's access token is good for the Meta simulator and for nothing else. The
key is kept in a file beside the database. The commands go to the address in
the environment variable GATEWAY_ADDRESS (default :8080).`
	return cmd
}

// prepareDemo makes sure that the demonstration's records are there, and
// returns a key that works.
func prepareDemo(ctx context.Context, c *command) (tenant.Key, error) {
	files, ok := c.app.backend.(secretFiles)
	if !ok {
		return "", errors.New("the demo needs the sqlite store")
	}
	pepper, ring, err := c.secrets()
	if err != nil {
		return "", err
	}
	err = c.store.CreateAccount(ctx, tenant.Account{ID: demoAccount, Name: demoName, Currency: "USD", CreatedAt: now()})
	if err != nil && !errors.Is(err, store.ErrExists) {
		return "", err
	}
	if _, err := c.store.Credit(ctx, demoAccount, demoCredit, demoOperation); err != nil {
		return "", err
	}
	if err := prepareDemoApp(ctx, c.store, ring); err != nil {
		return "", err
	}
	return demoKey(ctx, c, pepper, files.SecretFile(demoKeyFile))
}

// prepareDemoApp creates the app. One that is there gets a new token only where
// the encryption key of its token was lost.
func prepareDemoApp(ctx context.Context, directory store.Directory, ring *seal.Ring) error {
	token, err := ring.Seal(demoApp, "EAA"+rand.Text())
	if err != nil {
		return err
	}
	err = directory.CreateApp(ctx, tenant.App{
		ID: demoApp, Name: demoName, AccountID: demoAccount, CreatedAt: now(),
		PhoneNumberID: "100000000000001", WABAID: "200000000000001", AccessToken: token,
	})
	if !errors.Is(err, store.ErrExists) {
		return err
	}
	_, err = directory.UpdateApp(ctx, demoApp, func(app *tenant.App) error {
		if _, err := ring.Open(app.ID, app.AccessToken); err == nil {
			return errCurrent
		}
		app.AccessToken = token
		return nil
	})
	if errors.Is(err, errCurrent) {
		return nil
	}
	return err
}

// demoKey returns the key in the file, if it still works, or else a new one in
// place of all that came before.
func demoKey(ctx context.Context, c *command, pepper *tenant.Pepper, file string) (tenant.Key, error) {
	kept, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	if key, err := tenant.ParseKey(strings.TrimSpace(string(kept))); err == nil {
		grant, err := c.store.Grant(ctx, pepper.Digest(key))
		if err == nil && grant.App.ID == demoApp && !grant.Expired(now()) {
			return key, nil
		}
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return "", err
		}
	}
	old, err := c.store.Keys(ctx, demoApp)
	if err != nil {
		return "", err
	}
	for _, k := range old {
		if k.Name == demoName && keyState(k) == "active" {
			if err := c.store.RevokeKey(ctx, k.ID, now()); err != nil {
				return "", err
			}
		}
	}
	key := tenant.NewKey(false)
	if _, err := createKey(ctx, c, tenant.APIKey{AppID: demoApp, Name: demoName}, key); err != nil {
		return "", err
	}
	return key, replaceFile(file, string(key)+"\n")
}

// replaceFile writes a file that is either the old one or the new one, and
// nobody's but the owner's.
func replaceFile(path, content string) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.WriteString(content)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// gatewayURL is where a site with this address in the Caddyfile is reached from
// the same machine.
func gatewayURL(address string) (string, error) {
	if address == "" {
		address = ":8080"
	}
	a, err := httpcaddyfile.ParseAddress(address)
	if err != nil {
		return "", err
	}
	u := url.URL{Scheme: a.Scheme, Host: a.Host}
	if u.Scheme == "" {
		u.Scheme = "http"
		// Caddy serves a site with a name over TLS, unless it is told not to.
		if a.Port == "443" || a.Host != "" && a.Port != "80" {
			u.Scheme = "https"
		}
	}
	if ip := net.ParseIP(a.Host); a.Host == "" || ip != nil && ip.IsUnspecified() {
		u.Host = "127.0.0.1"
	}
	if a.Port != "" {
		u.Host = net.JoinHostPort(u.Host, a.Port)
	}
	return u.String(), nil
}
