package gateway

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

// eventView is what is shown of an event: not its payload, which holds what a
// customer's users wrote.
type eventView struct {
	ID            store.EventID    `json:"id"`
	AppID         *tenant.AppID    `json:"app_id"`
	Event         *tenant.Event    `json:"event"`
	State         store.EventState `json:"state"`
	Attempts      int              `json:"attempts"`
	ReceivedAt    time.Time        `json:"received_at"`
	NextAttemptAt *time.Time       `json:"next_attempt_at"`
	LastError     *string          `json:"last_error"`
}

func viewEvent(e store.Event) eventView {
	return eventView{
		e.ID, optional(e.App), optional(e.Name), e.State, e.Attempts,
		e.ReceivedAt.UTC(), optional(e.NextAttemptAt.UTC()), optional(e.LastError),
	}
}

func viewEvents(events iter.Seq2[store.Event, error]) iter.Seq2[eventView, error] {
	return func(yield func(eventView, error) bool) {
		for e, err := range events {
			if !yield(viewEvent(e), err) {
				return
			}
		}
	}
}

// payloadView is an event with its payload: as it is, where it is JSON.
type payloadView struct {
	eventView
	Payload       json.RawMessage `json:"payload,omitempty"`
	PayloadBase64 *string         `json:"payload_base64,omitempty"`
}

func viewPayload(e store.Event) payloadView {
	view := payloadView{eventView: viewEvent(e)}
	if json.Valid(e.Payload) && utf8.Valid(e.Payload) {
		view.Payload = e.Payload
		return view
	}
	encoded := base64.StdEncoding.EncodeToString(e.Payload)
	view.PayloadBase64 = &encoded
	return view
}

// payloadText is a payload for people: indented where it is JSON, and without
// what would do something to the terminal.
func payloadText(payload []byte) string {
	var b bytes.Buffer
	if json.Indent(&b, payload, "", "  ") != nil {
		b.Reset()
		b.Write(payload)
	}
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' {
			return r
		}
		return visible(r)
	}, b.String())
}

var eventStates = []store.EventState{store.Pending, store.Dead, store.Quarantined}

func parseEventState(s string) (store.EventState, error) {
	if !slices.Contains(eventStates, store.EventState(s)) {
		return "", fmt.Errorf("the states are %s", listed(eventStates))
	}
	return store.EventState(s), nil
}

func eventList() *cobra.Command {
	var filter store.EventFilter
	cmd := verb("list", "List the events that have not been delivered", func(ctx context.Context, c *command, _ []string) error {
		if err := checkApp(ctx, c, filter.App); err != nil {
			return err
		}
		return printAll(c, viewEvents(c.store.Events(ctx, filter)), "no events")
	})
	cmd.Long = `List the events that have not been delivered, oldest first.

Pending ones are on their way to the app's webhook. Dead letters have had all
their attempts, and can be replayed. Quarantined ones could not be parsed, or
belong to no app; "event show" has what Meta sent.`
	flag(cmd, &filter.App, "app", "the `id` of the app whose events to list", parseAppID)
	flag(cmd, &filter.State, "state", "the `state` of the events to list: "+listed(eventStates), parseEventState)
	return cmd
}

// checkApp looks whether there is an app, where one is named.
func checkApp(ctx context.Context, c *command, id tenant.AppID) error {
	if id == "" {
		return nil
	}
	_, err := c.store.App(ctx, id)
	return notFound(err, "app", id)
}

func eventShow() *cobra.Command {
	var withPayload bool
	cmd := verb("show ID", "Show an event that has not been delivered", func(ctx context.Context, c *command, args []string) error {
		id := store.EventID(args[0])
		event, err := c.store.Event(ctx, id)
		if err != nil {
			return notFound(err, "event", id)
		}
		if withPayload && c.json {
			return c.print(viewPayload(event))
		}
		if err := c.print(viewEvent(event)); err != nil || !withPayload {
			return err
		}
		_, err = fmt.Fprintf(c.OutOrStdout(), "\n%s\n", payloadText(event.Payload))
		return err
	})
	cmd.Long = `Show an event that has not been delivered.

Its payload is printed only when it is asked for: users' messages stand in it.
In JSON it is "payload", or "payload_base64" where it is not JSON itself.`
	cmd.Flags().BoolVar(&withPayload, "payload", false, "print the payload, too")
	return cmd
}

func eventReplay() *cobra.Command {
	var app tenant.AppID
	cmd := verb("replay "+anyIDs, "Deliver dead letters again", func(ctx context.Context, c *command, args []string) error {
		if err := checkApp(ctx, c, app); err != nil {
			return err
		}
		var ids []store.EventID
		for _, arg := range args {
			ids = append(ids, store.EventID(arg))
		}
		slices.Sort(ids)
		ids = slices.Compact(ids)
		if err := checkEndpoints(ctx, c, ids, app); err != nil {
			return err
		}
		replayed, err := c.store.Replay(ctx, ids, app)
		if errors.Is(err, store.ErrNotFound) {
			return notDead(ctx, c, ids)
		}
		if err != nil {
			return err
		}
		return c.print(struct {
			Replayed int `json:"replayed"`
		}{replayed})
	})
	cmd.Long = `Deliver dead letters again: those with the given ids, or all of one app. They
are due at once, and have all their attempts ahead of them. Where one id is not
that of a dead letter, nothing is replayed.`
	cmd.Example = "  caddy whatsapp-gateway event replay evt_... evt_...\n" +
		"  caddy whatsapp-gateway event replay --app app_..."
	flag(cmd, &app, "app", "the `id` of the app whose dead letters to deliver again", parseAppID)
	checkUsage(cmd, func(args []string) error {
		if (len(args) > 0) == (app != "") {
			return errors.New("replay takes either ids or --app")
		}
		return nil
	})
	return cmd
}

// checkEndpoints refuses to replay what would only be given up again: where an
// app has no endpoint, or one that is disabled.
func checkEndpoints(ctx context.Context, c *command, ids []store.EventID, app tenant.AppID) error {
	apps := map[tenant.AppID]bool{app: true}
	for _, id := range ids {
		event, err := c.store.Event(ctx, id)
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		if event.State == store.Dead { // of anything else there is more to say
			apps[event.App] = true
		}
	}
	delete(apps, "")
	for _, id := range slices.Sorted(maps.Keys(apps)) {
		record, err := c.store.App(ctx, id)
		switch {
		case err != nil:
			return notFound(err, "app", id)
		case record.Webhook == nil || record.Webhook.URL == "":
			return fmt.Errorf("app %s has no webhook URL to deliver to", id)
		case record.Webhook.DisabledAt != nil:
			return fmt.Errorf("the endpoint of app %s has answered that it is gone (410): set its webhook URL first", id)
		}
	}
	return nil
}

// notDead says which of the ids is not that of a dead letter.
func notDead(ctx context.Context, c *command, ids []store.EventID) error {
	for _, id := range ids {
		event, err := c.store.Event(ctx, id)
		if err != nil {
			return notFound(err, "event", id)
		}
		if event.State != store.Dead {
			return fmt.Errorf("event %s is %s, not a dead letter", id, event.State)
		}
	}
	return errors.New("the events have changed meanwhile; nothing was replayed")
}
