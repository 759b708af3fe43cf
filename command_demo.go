package gateway

import (
	"context"
	"crypto/rand"
	"encoding/base64"
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

	"github.com/connexease/caddy-whatsapp-gateway/delivery"
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
	// demoReceiver is where Caddyfile.demo receives the events.
	demoReceiver = "127.0.0.1:8082"
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
	// WebhookURL is where the app's events go; null is nowhere.
	WebhookURL *string `json:"webhook_url"`
}

func demo() *cobra.Command {
	cmd := verb("demo", "Create an account, an app and a key to try the gateway with", func(ctx context.Context, c *command, _ []string) error {
		address, err := gatewayURL(os.Getenv("GATEWAY_ADDRESS"))
		if err != nil {
			return fmt.Errorf("GATEWAY_ADDRESS: %w", err)
		}
		app, key, err := prepareDemo(ctx, c)
		if err != nil {
			return err
		}
		d := demonstration{AccountID: demoAccount, AppID: demoApp, Key: string(key), WebhookURL: viewWebhook(app.Webhook).URL}
		for i, query := range []string{"?is_fake=true", ""} {
			d.Commands[i] = fmt.Sprintf(`curl -sS '%s/v1/wa/message%s' -H 'Authorization: Bearer %s' -H 'Content-Type: application/json' -d '%s'`,
				address, query, d.Key, `{"messaging_product":"whatsapp","to":"12025550100","type":"text","text":{"body":"Hello"}}`)
		}
		if c.json {
			return c.print(d)
		}
		events := "The app's events go nowhere: it has no webhook."
		if d.WebhookURL != nil {
			events = "The app's events go to " + *d.WebhookURL
		}
		_, err = fmt.Fprintf(c.OutOrStdout(), "The demo's API key:\n\n%s\n\nA sandbox send, which is checked and goes nowhere:\n\n%s\n\n"+
			"A send through the Meta simulator, which is charged to account %s:\n\n%s\n\n%s\n", d.Key, d.Commands[0], d.AccountID, d.Commands[1], events)
		return err
	})
	cmd.Long = `Create an account, an app and a key to try the gateway with, and print the key
and two commands that send with it. The second time it only prints.

The app's access token is good for the Meta simulator and for nothing else. The
key is kept in a file on this machine: beside the database, or in the folder of
the journal where the store is Redis. The commands go to the address in
the environment variable GATEWAY_ADDRESS (default :8080). Where the
configuration allows private targets, the app's events go to the address in
WEBHOOK_RECEIVER_ADDRESS (default 127.0.0.1:8082).`
	return cmd
}

// prepareDemo makes sure that the demonstration's records are there, and
// returns the app and a key that works.
func prepareDemo(ctx context.Context, c *command) (app tenant.App, key tenant.Key, err error) {
	files, ok := c.app.backend.(secretFiles)
	if !ok {
		return app, "", errors.New("this store has no place for the demo's key")
	}
	pepper, ring, err := c.secrets()
	if err != nil {
		return app, "", err
	}
	webhook, err := demoWebhook(c)
	if err != nil {
		return app, "", err
	}
	err = c.store.CreateAccount(ctx, tenant.Account{ID: demoAccount, Name: demoName, Currency: "USD", CreatedAt: now()})
	if err != nil && !errors.Is(err, store.ErrExists) {
		return app, "", err
	}
	if _, err := c.store.Credit(ctx, demoAccount, demoCredit, demoOperation); err != nil {
		return app, "", err
	}
	if app, err = prepareDemoApp(ctx, c.store, ring, webhook); err != nil {
		return app, "", err
	}
	key, err = demoKey(ctx, c, pepper, files.SecretFile(demoKeyFile))
	return app, key, err
}

// demoWebhook returns a new webhook to a receiver on this machine, or nil where
// the configuration does not allow that.
func demoWebhook(c *command) (*tenant.Webhook, error) {
	if !c.app.Delivery.AllowPrivateTargets {
		return nil, nil
	}
	address := demoReceiver
	if set := os.Getenv("WEBHOOK_RECEIVER_ADDRESS"); set != "" {
		address = set
	}
	receiver, err := gatewayURL("http://" + address)
	if err == nil {
		receiver += "/"
		err = delivery.CheckURL(receiver, true)
	}
	if err != nil {
		return nil, fmt.Errorf("WEBHOOK_RECEIVER_ADDRESS: %w", err)
	}
	var secret [32]byte
	rand.Read(secret[:]) // it never fails
	return &tenant.Webhook{
		URL:    receiver,
		Secret: tenant.Secret("whsec_" + base64.StdEncoding.EncodeToString(secret[:])),
	}, nil
}

// prepareDemoApp creates the app. One that is there gets the webhook only where
// it has none, and a new token only where the encryption key of its token was lost.
func prepareDemoApp(ctx context.Context, directory store.Directory, ring *seal.Ring, webhook *tenant.Webhook) (tenant.App, error) {
	token, err := ring.Seal(demoApp, "EAA"+rand.Text())
	if err != nil {
		return tenant.App{}, err
	}
	app := tenant.App{
		ID: demoApp, Name: demoName, AccountID: demoAccount, CreatedAt: now(),
		PhoneNumberID: "100000000000001", WABAID: "200000000000001", AccessToken: token, Webhook: webhook,
	}
	if err := directory.CreateApp(ctx, app); !errors.Is(err, store.ErrExists) {
		return app, err
	}
	app, err = directory.UpdateApp(ctx, demoApp, func(app *tenant.App) error {
		_, lost := ring.Open(app.ID, app.AccessToken)
		if lost == nil && (app.Webhook != nil || webhook == nil) {
			return errCurrent
		}
		if lost != nil {
			app.AccessToken = token
		}
		if app.Webhook == nil {
			app.Webhook = webhook
		}
		return nil
	})
	if errors.Is(err, errCurrent) {
		return directory.App(ctx, demoApp)
	}
	return app, err
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
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
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
