package gateway

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

const keyPrefix = "key"

// keyView is what is shown of a key: enough to tell it from others.
type keyView struct {
	ID        tenant.KeyID `json:"id"`
	Name      string       `json:"name"`
	Hint      string       `json:"hint"`
	State     string       `json:"state"`
	CreatedAt time.Time    `json:"created_at"`
	ExpiresAt *time.Time   `json:"expires_at"`
	RevokedAt *time.Time   `json:"revoked_at"`
}

func viewKey(k tenant.APIKey) keyView {
	return keyView{k.ID, k.Name, k.Hint, keyState(k), k.CreatedAt, optional(k.ExpiresAt), optional(k.RevokedAt)}
}

// keyState is "active", "expired" or "revoked".
func keyState(k tenant.APIKey) string {
	switch {
	case !k.RevokedAt.IsZero():
		return "revoked"
	case !k.ExpiresAt.IsZero() && !time.Now().Before(k.ExpiresAt):
		return "expired"
	}
	return "active"
}

// newKeyView shows a new key, which is the only time that it is shown. One
// that was made elsewhere is not.
type newKeyView struct {
	ID        tenant.KeyID `json:"id"`
	Key       string       `json:"key,omitempty"`
	AppID     tenant.AppID `json:"app_id"`
	Name      string       `json:"name"`
	Hint      string       `json:"hint"`
	ExpiresAt *time.Time   `json:"expires_at"`
}

func keyCreate() *cobra.Command {
	var record tenant.APIKey
	var file string
	cmd := verb("create", "Create a key and show it, once", func(ctx context.Context, c *command, _ []string) error {
		sandbox, _ := c.Flags().GetBool("sandbox")
		key := tenant.NewKey(sandbox)
		if file != "" {
			var err error
			if key, err = readKey(c.Command, file); err != nil {
				return err
			}
		}
		record, err := createKey(ctx, c, record, key)
		if err != nil {
			return err
		}
		view := newKeyView{record.ID, string(key), record.AppID, record.Name, record.Hint, optional(record.ExpiresAt)}
		if file != "" {
			view.Key = ""
		}
		if err := c.print(view); err != nil || c.json || file != "" {
			return err
		}
		_, err = fmt.Fprintln(c.OutOrStdout(), "\nThe key is not shown again: keep it where secrets are kept.")
		return err
	})
	flag(cmd, &record.AppID, "app", "the `id` of the app that the key sends for (required)", parseAppID)
	flag(cmd, &record.Name, "name", "the `name` that people call the key by", parseName)
	flag(cmd, &record.ExpiresAt, "expires", "when the key stops working: a `time`, a date, or a duration such as 30d (default: never)", parseFuture)
	flag(cmd, &file, "key-file", "take over a key made elsewhere, from this `file`; - is standard input", parsePath)
	cmd.Flags().Bool("sandbox", false, "a key with which nothing is sent and nothing charged")
	cmd.MarkFlagsMutuallyExclusive("sandbox", "key-file")
	require(cmd, "app")
	return cmd
}

// readKey reads a key that was made elsewhere.
func readKey(cmd *cobra.Command, file string) (tenant.Key, error) {
	secret, err := readSecret(cmd, "key", file)
	if err != nil {
		return "", err
	}
	key, err := tenant.ParseKey(secret)
	if err != nil {
		return "", errors.New("the key is not 16 to 512 visible ASCII characters, or it is one of ours and mistyped")
	}
	return key, nil
}

// createKey adds a key to the store, in the rest of the record's words.
func createKey(ctx context.Context, c *command, record tenant.APIKey, key tenant.Key) (tenant.APIKey, error) {
	pepper, _, err := c.secrets()
	if err != nil {
		return record, err
	}
	// Keys under another pepper would be of no use to the gateway.
	if err := c.store.BindPepper(ctx, pepper.Fingerprint()); err != nil {
		return record, err
	}
	record.ID = tenant.KeyID(tenant.NewID(keyPrefix))
	record.Digest, record.Hint, record.CreatedAt = pepper.Digest(key), key.Hint(), now()
	err = c.store.CreateKey(ctx, record)
	if errors.Is(err, store.ErrExists) {
		return record, errors.New("this key is in the store already")
	}
	return record, notFound(err, "app", record.AppID)
}

func keyList() *cobra.Command {
	var app tenant.AppID
	cmd := verb("list", "List the keys of an app", func(ctx context.Context, c *command, _ []string) error {
		keys, err := c.store.Keys(ctx, app)
		if err != nil {
			return notFound(err, "app", app)
		}
		return printAll(c, views(keys, func(k tenant.APIKey) (keyView, error) { return viewKey(k), nil }), "no keys")
	})
	flag(cmd, &app, "app", "the `id` of the app (required)", parseAppID)
	require(cmd, "app")
	return cmd
}

func keyRevoke() *cobra.Command {
	cmd := verb("revoke ID", "Revoke a key, for good", func(ctx context.Context, c *command, args []string) error {
		id := tenant.KeyID(args[0])
		if err := c.store.RevokeKey(ctx, id, now()); err != nil {
			return notFound(err, "key", id)
		}
		return c.print(struct {
			ID    tenant.KeyID `json:"id"`
			State string       `json:"state"`
		}{id, "revoked"})
	})
	cmd.Long = `Revoke a key, for good. A gateway on this machine refuses it within a second,
any other within the configured key_cache. Revoking it again changes nothing.`
	return cmd
}
