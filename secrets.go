package gateway

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/caddyserver/caddy/v2"

	"github.com/connexease/caddy-whatsapp-gateway/seal"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

// EncryptionKey is a key for access tokens at rest.
type EncryptionKey struct {
	// Names the key within sealed tokens: letters, digits, hyphens, underscores.
	ID string `json:"id"`
	// The key: 32 bytes in standard base64.
	Secret string `json:"secret"`
}

// secretKeeper is a backend that makes and keeps the secrets that the
// configuration leaves out.
type secretKeeper interface {
	Secret(name string) (string, error)
}

// defaultKeyID names the encryption key that was made, not configured.
const defaultKeyID = "k1"

// secretPlaceholder is what a secret may be instead of itself.
var secretPlaceholder = regexp.MustCompile(`\{(?:env|file)\.[^{}]+\}`)

// resolveSecrets replaces the placeholders of the secrets that the store needs.
// An error names the placeholder, and nothing else of what stands there.
func (a *App) resolveSecrets() error {
	if err := resolveSecret("key_pepper", &a.KeyPepper); err != nil {
		return err
	}
	for i := range a.EncryptionKeys {
		key := &a.EncryptionKeys[i]
		if err := resolveSecret("encryption_key "+seal.PrintableID(key.ID), &key.Secret); err != nil {
			return err
		}
	}
	return nil
}

// checkSecrets refuses keys that could not be used, and to make up secrets that
// others have to know: all gateways on a shared store, and the Core Service.
func (a *App) checkSecrets() error {
	with := ""
	if _, ok := a.backend.(secretKeeper); !ok {
		with = "this store"
	} else if a.Core != nil {
		with = "core"
	}
	if with != "" {
		if a.KeyPepper == "" {
			return fmt.Errorf("key_pepper is required with %s", with)
		}
		if len(a.EncryptionKeys) == 0 {
			return fmt.Errorf("encryption_key is required with %s", with)
		}
	}
	_, err := newRing(a.EncryptionKeys)
	return err
}

func newRing(keys []EncryptionKey) (*seal.Ring, error) {
	ring := new(seal.Ring)
	for _, key := range keys {
		if err := ring.Add(key.ID, key.Secret); err != nil {
			return nil, err
		}
	}
	return ring, nil
}

// resolveWebhookSecrets does so for those that the command line has no use for.
// An empty app secret is refused: everybody knows how to sign with it.
func (a *App) resolveWebhookSecrets() error {
	if err := resolveSecret("webhook_verify_token", &a.WebhookVerifyToken); err != nil {
		return err
	}
	for i := range a.MetaAppSecrets {
		if err := resolveSecret("meta_app_secret", &a.MetaAppSecrets[i]); err != nil {
			return err
		}
		if a.MetaAppSecrets[i] == "" {
			return errors.New("meta_app_secret is empty")
		}
	}
	return nil
}

// resolveSecret replaces the placeholders of a secret.
func resolveSecret(setting string, secret *string) error {
	if strings.ContainsAny(secretPlaceholder.ReplaceAllString(*secret, ""), "{}") {
		return fmt.Errorf("%s: a brace can only belong to {env.NAME} or {file.PATH}", setting)
	}
	value, err := caddy.NewReplacer().ReplaceOrErr(*secret, true, true)
	if err != nil {
		return fmt.Errorf("%s: %w", setting, err)
	}
	*secret = value
	return nil
}

// secrets returns the configured secrets, or those that the store keeps.
func (a *App) secrets() (*tenant.Pepper, *seal.Ring, error) {
	pepper, keys := a.KeyPepper, a.EncryptionKeys
	keeper, _ := a.backend.(secretKeeper) // there is one where it is needed: see checkSecrets
	if pepper == "" {
		var err error
		if pepper, err = keeper.Secret("key_pepper"); err != nil {
			return nil, nil, fmt.Errorf("key_pepper: %w", err)
		}
	}
	if len(keys) == 0 {
		secret, err := keeper.Secret("encryption_key")
		if err != nil {
			return nil, nil, fmt.Errorf("encryption_key: %w", err)
		}
		keys = []EncryptionKey{{ID: defaultKeyID, Secret: secret}}
	}
	ring, err := newRing(keys)
	return tenant.NewPepper(pepper), ring, err
}
