package store

import (
	"context"
	"iter"
	"time"

	"github.com/connexease/caddy-whatsapp-gateway/pricing"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

// Outbox keeps the events that are to be delivered to the apps' endpoints, and
// settles what Meta's statuses mean for the wallets. An event is delivered at
// least once: it is claimed for a while, and up for claiming again when that
// has passed without an outcome.
type Outbox interface {
	// Holds returns whose these holds are. One that is unknown is left out.
	Holds(ctx context.Context, ids []HoldID) (map[HoldID]Sender, error)

	// Receive stores the events of one webhook and applies its statuses. When it
	// returns without an error, all of that is durable; otherwise it may be
	// called again with the same. The results are those of the statuses, in
	// their order.
	//
	// A status proves that Meta accepted the message: a hold without an outcome
	// is captured, and for one that was released [HoldID.Again] is held and captured.
	// A template fee is charged once for each message id, to the account of the
	// hold, or else of the capture with that message id. The fee of a message
	// that is not known yet is remembered for at least [EarlyFee], and charged
	// when a capture names the message.
	Receive(ctx context.Context, events []Event, statuses []Status) ([]StatusResult, error)

	// Backlog returns the apps with pending events and when the first of each is
	// due, which may be one that is claimed.
	Backlog(context.Context) (map[tenant.AppID]time.Time, error)

	// Claim takes up to most pending events of an app that are due and not
	// claimed, the longest due first, and keeps them from others for as long as
	// lease. Of large events it takes fewer, so that the payloads together are
	// not much over [ClaimSize]. next is when the first of those left is due that
	// nobody has claimed; zero where there is none.
	Claim(ctx context.Context, app tenant.AppID, most int, lease time.Duration) (claimed []Claimed, next time.Time, err error)

	// Settle ends a claim with the outcome of the attempt. Once the claim has run
	// out and the event was claimed again, or is gone, only [Delivered] has an effect.
	Settle(context.Context, Claimed, Attempt) error

	// Bury makes the pending events of an app that were received before the
	// given time dead letters, but for those that are claimed, and returns how
	// many there were.
	Bury(ctx context.Context, app tenant.AppID, before time.Time, reason string) (int, error)

	// Events yields what is in the outbox, without payloads, oldest first. The
	// sequence ends at the first error.
	Events(context.Context, EventFilter) iter.Seq2[Event, error]

	// Event returns one event with its payload, or [ErrNotFound].
	Event(context.Context, EventID) (Event, error)

	// Replay makes dead letters pending again, due at once and with all
	// attempts ahead of them, and returns how many there were. It takes those
	// of ids or, where that is empty, all of the app. [ErrNotFound]: an id
	// is not that of a dead letter; nothing is replayed then.
	Replay(ctx context.Context, ids []EventID, app tenant.AppID) (int, error)
}

// HoldReceiver is an [Outbox] that tells whose holds are in the same step in which it
// receives what follows from that.
type HoldReceiver interface {
	// ReceiveHeld is Holds, and Receive of what follows makes of its answer. size is about
	// how many events and statuses that is. follows is called once at the most, by the
	// store, and perhaps after ReceiveHeld has returned an error; it must not block.
	ReceiveHeld(ctx context.Context, ids []HoldID, size int, follows func(map[HoldID]Sender) ([]Event, []Status)) ([]StatusResult, error)
}

// AttemptSettler is an [Outbox] that takes the outcome of most attempts without its
// caller's waiting for the disk.
type AttemptSettler interface {
	// SettleDelivered is Settle with [Delivered]. done is called once, by the store and
	// within milliseconds where its disk is as quick, with nil once that is durable, else
	// with what Settle would have returned. Until then the event is not claimed again, even
	// where its claim runs out. It must not block.
	SettleDelivered(c Claimed, done func(error))
}

const (
	// EarlyFee is for how long a template fee may come before the capture that
	// names its message. A send is answered, and so captured, much sooner. It
	// need not outlast the gateway, because the answer does not, either.
	EarlyFee = 10 * time.Minute
	// MaxQuarantined is how many events without an addressee are kept; the oldest
	// give way. MaxQuarantinedSize bounds their payloads together, in bytes.
	MaxQuarantined     = 1_000
	MaxQuarantinedSize = 64 << 20
	// DeadLetterLifetime is how long dead letters are kept at the least.
	DeadLetterLifetime = 30 * 24 * time.Hour
	// ClaimSize bounds the payloads of one claim, in bytes.
	ClaimSize = 1 << 20
)

// EventID names an event in the outbox. Its endpoint gets it as webhook-id, the
// same with every attempt.
type EventID string

// NewEventID returns a new event id, such as "evt_06d8k2…".
func NewEventID() EventID { return EventID(tenant.NewID("evt")) }

// EventState is where an event stands. An event that was delivered is gone.
type EventState string

// The states of events.
const (
	// Pending events are to be delivered.
	Pending EventState = "pending"
	// Dead letters have had all their attempts.
	Dead EventState = "dead"
	// Quarantined events are kept for inspection: they could not be parsed, or
	// nobody is there to get them.
	Quarantined EventState = "quarantined"
)

// Event is a change that Meta reported, for one app, or what is quarantined.
type Event struct {
	ID EventID
	// App is whose event it is, Name what it is called to its endpoint. Both are
	// empty where it is quarantined.
	App  tenant.AppID
	Name tenant.Event
	// Payload is the body of the delivery: Meta's envelope with the one change.
	// Of what is quarantined it is that, or the whole body that Meta sent.
	Payload []byte
	State   EventState
	// Attempts is how many were made and failed.
	Attempts int
	// ReceivedAt is when the store got it, and once it was replayed, when that was.
	// The store sets it.
	ReceivedAt time.Time
	// NextAttemptAt is when a pending event is due; otherwise it is zero. The
	// store sets it to ReceivedAt at first.
	NextAttemptAt time.Time
	// LastError is why the last attempt failed, or why it is quarantined.
	LastError string
}

// Claimed is an event on its way to its endpoint.
type Claimed struct {
	Event
	// Until is when the claim runs out.
	Until time.Time
	// Token tells one claim of an event from another.
	Token string
}

// Attempt is the outcome of a claim.
type Attempt struct {
	Result AttemptResult
	// NextAttemptAt is when a failed event is due again.
	NextAttemptAt time.Time
	// Error is why it failed, in words for the operator.
	Error string
}

// AttemptResult says what becomes of a claimed event.
type AttemptResult uint8

const (
	// Returned means that no attempt was made: the event is up for claiming as before.
	Returned AttemptResult = iota
	// Delivered means that the endpoint has taken the event.
	Delivered
	// Failed means that another attempt is due at NextAttemptAt.
	Failed
	// GivenUp means that the last attempt failed: it becomes a dead letter.
	GivenUp
)

// EventFilter selects events. Zero fields select all.
type EventFilter struct {
	App   tenant.AppID
	State EventState
}

// Sender is whose hold it is.
type Sender struct {
	App     tenant.AppID
	Account tenant.AccountID
	// Captured means that the hold has its final outcome.
	Captured bool
}

// Status is what a message status of Meta's means for the wallets.
type Status struct {
	// Hold is the hold that the message was sent with. Empty: it carried none.
	Hold HoldID
	// MessageID is Meta's id of the message; it is not empty.
	MessageID string
	// Accounts are those that may have sent the message, where that is known:
	// [Outbox.Receive] need not look elsewhere. Empty: any.
	Accounts []tenant.AccountID
	// Captured says that [Outbox.Holds] has told so: then there is nothing to
	// settle, which saves the store to look. Sender is then what it has told; zero: it
	// has to look.
	Captured bool
	Sender   Sender
	// TemplateFee is the price of the template by currency; nil where the status
	// says nothing that is to be charged. That of the account's currency counts.
	TemplateFee map[string]pricing.Micros
}

// StatusResult is what a status led to.
type StatusResult struct {
	// Settled means that a hold was captured because of it.
	Settled bool
	Fee     FeeResult
}

// FeeResult is what became of a template fee.
type FeeResult uint8

const (
	// NoFee means that the status had none.
	NoFee FeeResult = iota
	// FeeCharged means that it was charged now.
	FeeCharged
	// FeeRepeated means that it was charged before.
	FeeRepeated
	// FeeNotPriced means that it has no price in the account's currency.
	FeeNotPriced
	// FeeUnknownMessage means that no such message is known here, or not yet.
	FeeUnknownMessage
)
