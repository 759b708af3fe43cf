package gateway

import (
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/connexease/caddy-whatsapp-gateway/delivery"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

// webhookView is what is shown of an app's webhook: never its secret, what
// stands in the query of its URL, or the values of its headers.
type webhookView struct {
	URL         *string        `json:"webhook_url"`
	HasSecret   bool           `json:"has_webhook_secret"`
	Events      []tenant.Event `json:"events"`
	HeaderNames []string       `json:"header_names"`
	DisabledAt  *time.Time     `json:"webhook_disabled_at"`
}

// viewWebhook shows the events that are delivered: none without a URL.
func viewWebhook(w *tenant.Webhook) webhookView {
	view := webhookView{HeaderNames: []string{}}
	if w == nil {
		return view
	}
	view.URL, view.HasSecret, view.DisabledAt = optional(shownURL(w.URL)), w.Secret != "", w.DisabledAt
	if w.URL != "" {
		view.Events = w.Events
		if len(w.Events) == 0 {
			view.Events = tenant.Events
		}
	}
	view.HeaderNames = slices.AppendSeq(view.HeaderNames, maps.Keys(w.Headers))
	slices.Sort(view.HeaderNames)
	return view
}

// shownURL is a URL without what may be secret in it.
func shownURL(raw string) string {
	if raw == "" {
		return ""
	}
	u, err := url.Parse(raw)
	if err != nil {
		return masked
	}
	shown := u.Scheme + "://" + u.Host + u.EscapedPath()
	if u.RawQuery != "" {
		shown += "?" + masked
	}
	return shown
}

// webhookFlags are the parts of an app's webhook.
type webhookFlags struct {
	url, secretFile string
	// secret is what the file holds, see readSecret.
	secret    tenant.Secret
	events    []tenant.Event
	headers   map[string]tenant.Secret
	noHeaders bool
}

// webhookFlagNames are the flags that add adds.
var webhookFlagNames = []string{"webhook-url", "webhook-secret-file", "events", "header"}

func (f *webhookFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.url, "webhook-url", "", "the `URL` that the app's events are posted to; an empty one ends that")
	flag(cmd, &f.secretFile, "webhook-secret-file", "the `file` with the secret that deliveries bear and are signed with; - is standard input", parsePath)
	flag(cmd, &f.events, "events", "the `names` of the events to deliver, separated by commas: "+listed(tenant.Events)+"; or all", parseEvents)
	cmd.Flags().Func("header", "a header of each delivery, as `'Name: value'`; may be repeated", f.addHeader)
}

// allEvents is how an app is told to get every event.
const allEvents = "all"

// parseEvents reads names of events. All of them are none, which means all.
func parseEvents(s string) ([]tenant.Event, error) {
	names := strings.Split(s, ",")
	for i, name := range names {
		names[i] = strings.TrimSpace(name)
		if names[i] != allEvents && !slices.Contains(tenant.Events, tenant.Event(names[i])) {
			return nil, fmt.Errorf("the events are %s; or %s", listed(tenant.Events), allEvents)
		}
	}
	if slices.Contains(names, allEvents) {
		return nil, nil
	}
	var events []tenant.Event
	for _, event := range tenant.Events {
		if slices.Contains(names, string(event)) {
			events = append(events, event)
		}
	}
	return events, nil
}

// addHeader reads one header. An empty one stands for no headers at all.
func (f *webhookFlags) addHeader(line string) error {
	if f.noHeaders || line == "" && len(f.headers) > 0 {
		return errors.New("an empty header removes all, so that there can be no other")
	}
	if line == "" {
		f.noHeaders = true
		return nil
	}
	name, value, ok := strings.Cut(line, ":")
	if !ok {
		return errors.New("write a header as 'Name: value'")
	}
	value = strings.Trim(value, " \t")
	if err := delivery.CheckHeader(name, value); err != nil {
		return err
	}
	for other := range f.headers {
		if strings.EqualFold(other, name) {
			return fmt.Errorf("%s is given twice", name)
		}
	}
	if f.headers == nil {
		f.headers = make(map[string]tenant.Secret)
	}
	f.headers[name] = tenant.Secret(value)
	return nil
}

// readSecret reads the secret, if one is given.
func (f *webhookFlags) readSecret(c *command) error {
	if f.secretFile == "" {
		return nil
	}
	secret, err := readSecret(c.Command, "webhook secret", f.secretFile)
	if err != nil {
		return err
	}
	f.secret = tenant.Secret(secret)
	return delivery.CheckSecret(f.secret)
}

// apply changes the parts of the app's webhook whose flags were given, and
// checks what comes of it.
func (f *webhookFlags) apply(c *command, app *tenant.App) error {
	given := c.Flags().Changed
	if !slices.ContainsFunc(webhookFlagNames, given) {
		return nil
	}
	var w tenant.Webhook
	if app.Webhook != nil {
		w = *app.Webhook
	}
	if given("webhook-url") {
		// Whoever names the endpoint means that it is there, or there again.
		w.URL, w.DisabledAt = f.url, nil
	}
	if given("webhook-secret-file") {
		w.Secret = f.secret
	}
	if given("events") {
		w.Events = f.events
	}
	if given("header") {
		w.Headers = f.headers
	}
	app.Webhook = &w
	if w.URL == "" {
		return nil
	}
	// A URL that was there before need not be allowed by this configuration.
	return delivery.CheckWebhook(&w, c.app.Delivery.AllowPrivateTargets || !given("webhook-url"))
}
