package gateway

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

const appPrefix = "app"

// appView is what is shown of an app: never its token. Limits that are null
// are the configured ones.
type appView struct {
	ID               tenant.AppID      `json:"id"`
	Name             string            `json:"name"`
	AccountID        *tenant.AccountID `json:"account_id"`
	PerSecond        *int              `json:"per_second"`
	PerMinute        *int              `json:"per_minute"`
	WABAID           *string           `json:"waba_id"`
	PhoneNumberID    *string           `json:"phone_number_id"`
	HasAccessToken   bool              `json:"has_access_token"`
	AccessTokenKeyID *string           `json:"access_token_key_id"`
	CreatedAt        time.Time         `json:"created_at"`
	webhookView
}

func viewApp(a tenant.App) appView {
	view := appView{
		ID: a.ID, Name: a.Name, AccountID: optional(a.AccountID),
		WABAID: optional(a.WABAID), PhoneNumberID: optional(a.PhoneNumberID),
		HasAccessToken: a.AccessToken != "", CreatedAt: a.CreatedAt,
		webhookView: viewWebhook(a.Webhook),
	}
	if a.RateLimit != nil {
		view.PerSecond, view.PerMinute = &a.RateLimit.PerSecond, &a.RateLimit.PerMinute
	}
	// "v1.<key-id>.<payload>"; anything else is shown as it is: without a key id.
	if parts := strings.SplitN(string(a.AccessToken), ".", 3); len(parts) == 3 {
		view.AccessTokenKeyID = &parts[1]
	}
	return view
}

// appFlags are the parts of an app that can be given when it is created, and
// changed later.
type appFlags struct {
	name                  string
	account               tenant.AccountID
	phoneNumberID, wabaID string
	tokenFile             string
	perSecond, perMinute  int
	webhook               webhookFlags
}

func (f *appFlags) add(cmd *cobra.Command) {
	flag(cmd, &f.name, "name", "the `name` that people call the app by", parseName)
	flag(cmd, &f.account, "account", "the `id` of the account that pays, or none", parseAccountID)
	flag(cmd, &f.phoneNumberID, "phone-number-id", "Meta's `id` of the phone number, which is not the number itself", parseMetaID)
	flag(cmd, &f.wabaID, "waba-id", "Meta's `id` of the WhatsApp Business Account", parseMetaID)
	flag(cmd, &f.tokenFile, "access-token-file", "the `file` with Meta's access token; - is standard input", parsePath)
	flag(cmd, &f.perSecond, "per-second", "the most requests in any second, a `number`; 0 is the configured limits", parseLimit)
	flag(cmd, &f.perMinute, "per-minute", "the most requests in any minute, a `number`; 0 is the configured limits", parseLimit)
	f.webhook.add(cmd)
	checkUsage(cmd, func([]string) error {
		config, _ := cmd.Flags().GetString("config")
		inputs := []string{config, f.tokenFile, f.webhook.secretFile}
		inputs = slices.DeleteFunc(inputs, func(file string) bool { return file != "-" })
		if len(inputs) > 1 {
			return errors.New("only one file can be standard input")
		}
		return nil
	})
}

// sealToken reads and seals the access token, if one is given.
func (f *appFlags) sealToken(c *command, id tenant.AppID) (tenant.SealedToken, error) {
	if f.tokenFile == "" {
		return "", nil
	}
	token, err := readSecret(c.Command, "access token", f.tokenFile)
	if err != nil {
		return "", err
	}
	if err := validateToken(token); err != nil {
		return "", err
	}
	_, ring, err := c.secrets()
	if err != nil {
		return "", err
	}
	return ring.Seal(id, token)
}

// apply changes the parts of the app whose flags were given.
func (f *appFlags) apply(c *command, app *tenant.App) error {
	given := c.Flags().Changed
	if given("name") {
		app.Name = f.name
	}
	if given("account") {
		app.AccountID = f.account
	}
	if given("phone-number-id") {
		app.PhoneNumberID = f.phoneNumberID
	}
	if given("waba-id") {
		app.WABAID = f.wabaID
	}
	if given("per-second") || given("per-minute") {
		if err := f.applyLimits(c, app); err != nil {
			return err
		}
	}
	return f.webhook.apply(c, app)
}

// applyLimits completes what was given with what applies to the app now.
func (f *appFlags) applyLimits(c *command, app *tenant.App) error {
	if f.perSecond == 0 && f.perMinute == 0 {
		app.RateLimit = nil
		return nil
	}
	limit := defaultRateLimit
	switch {
	case app.RateLimit != nil:
		limit = *app.RateLimit
	case c.app.RateLimit != nil:
		limit = *c.app.RateLimit
	}
	if c.Flags().Changed("per-second") {
		limit.PerSecond = f.perSecond
	}
	if c.Flags().Changed("per-minute") {
		limit.PerMinute = f.perMinute
	}
	app.RateLimit = &limit
	return limit.Validate()
}

func appCreate() *cobra.Command {
	f := new(appFlags)
	cmd := verb("create", "Create an app", func(ctx context.Context, c *command, _ []string) error {
		app := tenant.App{ID: tenant.AppID(tenant.NewID(appPrefix)), CreatedAt: now()}
		if err := f.webhook.readSecret(c); err != nil {
			return err
		}
		if err := f.apply(c, &app); err != nil {
			return err
		}
		var err error
		if app.AccessToken, err = f.sealToken(c, app.ID); err != nil {
			return err
		}
		if err := c.store.CreateApp(ctx, app); err != nil {
			return notFound(err, "account", app.AccountID)
		}
		return c.print(viewApp(app))
	})
	cmd.Long = `Create an app: one WhatsApp number, its Meta access token, limits and webhook.

An app without a phone number id or a token can send to the sandbox only, and
one without an account nothing at all. One without a webhook URL gets no events;
with one it gets all, or those that --events names. What is left out can be
given later with "app set".`
	f.add(cmd)
	require(cmd, "account", "name")
	return cmd
}

func appSet() *cobra.Command {
	f := new(appFlags)
	cmd := verb("set ID", "Change an app", func(ctx context.Context, c *command, args []string) error {
		id := tenant.AppID(args[0])
		if _, err := c.store.App(ctx, id); err != nil {
			return notFound(err, "app", id)
		}
		if err := f.webhook.readSecret(c); err != nil {
			return err
		}
		token, err := f.sealToken(c, id)
		if err != nil {
			return err
		}
		app, err := c.store.UpdateApp(ctx, id, func(app *tenant.App) error {
			if token != "" {
				app.AccessToken = token
			}
			return f.apply(c, app)
		})
		if err != nil {
			return notFound(err, "account", f.account)
		}
		return c.print(viewApp(app))
	})
	cmd.Long = `Change an app: what is given, and nothing else. "--account none" takes the
account away; an empty id removes the id, and an empty URL the URL. Headers
replace all that there were; --header "" removes them.

An endpoint that answered 410 is disabled. Naming its URL, be it the same one,
enables it again.`
	f.add(cmd)
	cmd.MarkFlagsOneRequired(append(webhookFlagNames, "name", "account", "phone-number-id", "waba-id", "access-token-file", "per-second", "per-minute")...)
	return cmd
}

func appList() *cobra.Command {
	return verb("list", "List all apps", func(ctx context.Context, c *command, _ []string) error {
		apps, err := c.store.Apps(ctx)
		if err != nil {
			return err
		}
		return printAll(c, views(apps, func(a tenant.App) (appView, error) { return viewApp(a), nil }), "no apps in "+c.app.backend.Key())
	})
}

func appShow() *cobra.Command {
	return verb("show ID", "Show an app, but for its secrets", func(ctx context.Context, c *command, args []string) error {
		id := tenant.AppID(args[0])
		app, err := c.store.App(ctx, id)
		if err != nil {
			return notFound(err, "app", id)
		}
		return c.print(viewApp(app))
	})
}

// rotation is what came of re-sealing every token.
type rotation struct {
	Rotated    int            `json:"rotated"`
	Current    int            `json:"current"`
	Unreadable []tenant.AppID `json:"unreadable"`
}

// errCurrent says that a token is under the first key already.
var errCurrent = errors.New("the token is current")

func tokenRotate() *cobra.Command {
	cmd := verb("rotate", "Re-encrypt every access token under the first encryption key", func(ctx context.Context, c *command, _ []string) error {
		result, err := rotateTokens(ctx, c)
		if err != nil {
			return err
		}
		if err := c.print(result); err != nil {
			return err
		}
		if n := len(result.Unreadable); n > 0 {
			return fmt.Errorf("%d of %d access tokens cannot be opened with the configured encryption keys", n, n+result.Rotated+result.Current)
		}
		return nil
	})
	cmd.Long = `Re-encrypt every access token under the first encryption key.

To replace an encryption key, put the new one first in the configuration,
reload the gateway, rotate, and only then take the old key away.`
	return cmd
}

// rotateTokens re-seals one app after the other, each in one step that sees
// the token as it is then, so that a token set meanwhile is not lost. A token
// that is current is opened, too: its key may have been changed under its id.
func rotateTokens(ctx context.Context, c *command) (rotation, error) {
	result := rotation{Unreadable: []tenant.AppID{}}
	_, ring, err := c.secrets()
	if err != nil {
		return result, err
	}
	apps, err := c.store.Apps(ctx)
	if err != nil {
		return result, err
	}
	for _, app := range apps {
		if app.AccessToken == "" {
			continue
		}
		var unreadable error
		_, err := c.store.UpdateApp(ctx, app.ID, func(app *tenant.App) (err error) {
			var token string
			if token, unreadable = ring.Open(app.ID, app.AccessToken); unreadable != nil {
				return unreadable
			}
			if ring.Current(app.AccessToken) {
				return errCurrent
			}
			app.AccessToken, err = ring.Seal(app.ID, token)
			return err
		})
		switch {
		case err == nil:
			result.Rotated++
		case errors.Is(err, errCurrent):
			result.Current++
		case unreadable != nil:
			result.Unreadable = append(result.Unreadable, app.ID)
		case !errors.Is(err, store.ErrNotFound):
			return result, err
		}
	}
	return result, nil
}
