package tenant

import (
	"errors"
	"fmt"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// ParseGrant reads the document of a grant, as the Core Service answers it and as
// stores keep it. Only key_id and app.id have to be there; any other field may be
// null or absent, and unknown ones are ignored. It is strict about the rest,
// because half a grant must not become another grant: names count in their own
// letter case and only once, every value has its own type, and rate limits that
// are given are valid. No error repeats any of the document, which has secrets.
func ParseGrant(document []byte) (*Grant, error) {
	g := new(Grant)
	if err := parseDocument(document, g); err != nil {
		return nil, err
	}
	if g.KeyID == "" {
		return nil, errors.New("the document has no key_id")
	}
	if err := g.App.validate(); err != nil {
		return nil, err
	}
	return g, nil
}

// Document is the grant as [ParseGrant] reads it, with everything that it
// carries: the secrets, too. Bytes that are no UTF-8 become U+FFFD, and a time
// that RFC 3339 cannot express becomes the nearest one that it can.
func (g *Grant) Document() []byte {
	written := *g
	written.ExpiresAt = writable(g.ExpiresAt)
	if g.App.Webhook != nil {
		webhook := *g.App.Webhook
		webhook.DisabledAt = writable(webhook.DisabledAt)
		written.App.Webhook = &webhook
	}
	document, err := json.Marshal(written, jsontext.AllowInvalidUTF8(true), json.Deterministic(true))
	if err != nil {
		panic(fmt.Sprintf("a grant cannot be written: %T", err)) // every field can be
	}
	return document
}

// ParseApps reads {"apps": [app, …]}, as the Core Service answers it, as strictly
// as [ParseGrant]. Null stands for no apps.
func ParseApps(document []byte) ([]App, error) {
	var list struct {
		Apps jsontext.Value `json:"apps"`
	}
	if err := parseDocument(document, &list); err != nil {
		return nil, err
	}
	if list.Apps == nil {
		return nil, errors.New("the document has no apps")
	}
	var apps []App
	if err := parseDocument(list.Apps, &apps); err != nil {
		return nil, err
	}
	for i := range apps {
		if err := apps[i].validate(); err != nil {
			return nil, err
		}
	}
	return apps, nil
}

// validate says what a document's app lacks, if anything.
func (a *App) validate() error {
	if a.ID == "" {
		return errors.New("an app of the document has no id")
	}
	if a.RateLimit == nil {
		return nil
	}
	return a.RateLimit.Validate()
}

// parseDocument reads one JSON value into v. The error says where the document is
// wrong and not what stands there.
func parseDocument(document []byte, v any) error {
	err := json.Unmarshal(document, v)
	if err == nil {
		return nil
	}
	if syntax := (*jsontext.SyntacticError)(nil); errors.As(err, &syntax) {
		return fmt.Errorf("the document is not one JSON value: byte %d of %d", syntax.ByteOffset, len(document))
	}
	if semantic := (*json.SemanticError)(nil); errors.As(err, &semantic) {
		return fmt.Errorf("the document has a value of the wrong type: byte %d of %d", semantic.ByteOffset, len(document))
	}
	return errors.New("the document cannot be read")
}

// writable is t within the years that RFC 3339 has, in UTC.
func writable(t *time.Time) *time.Time {
	if t == nil {
		return nil
	}
	at := t.UTC()
	switch {
	case at.Year() > 9999:
		at = time.Date(9999, time.December, 31, 23, 59, 59, 0, time.UTC)
	case at.Year() < 0:
		at = time.Date(0, time.January, 1, 0, 0, 0, 0, time.UTC)
	}
	return &at
}
