// Package store says what a store of the gateway does: it keeps the directory
// (accounts, apps, keys), the wallets (admission, holds, ledger) and the outbox
// (events to deliver). Package storetest is the suite that every implementation
// passes.
package store

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"iter"
	"strings"
	"time"

	"github.com/connexease/caddy-whatsapp-gateway/pricing"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

var (
	// ErrNotFound means that the store answered and has no such record.
	ErrNotFound = errors.New("not found")
	// ErrRevoked is an [ErrNotFound]: the store has the key, and it is revoked.
	ErrRevoked = fmt.Errorf("%w: revoked", ErrNotFound)
	// ErrCorrupt means that a record was found and cannot be parsed.
	ErrCorrupt = errors.New("record is corrupt")
	// ErrExists means that the id is already taken.
	ErrExists = errors.New("already exists")
	// ErrConflict means that an operation id has taken effect with another
	// content, or that a hold already has the other outcome.
	ErrConflict = errors.New("conflicts with what was recorded before")
	// ErrPepper means that the store's keys were made with another pepper.
	ErrPepper = errors.New("the key pepper is not the one that the store's keys were made with")
	// ErrBusy means that another process is at the same work.
	ErrBusy = errors.New("another gateway is at it")
	// ErrFull means that the store answers, and has no room for what is to be written.
	ErrFull = errors.New("the store is full")
	// ErrClosed means that the store was closed.
	ErrClosed = errors.New("store is closed")
)

// Answered tells whether an error is an answer: the store was there, has understood,
// and would say the same again. [ErrFull] is none, since there may be room later.
func Answered(err error) bool {
	for _, answer := range []error{ErrNotFound, ErrCorrupt, ErrExists, ErrConflict, ErrPepper, ErrBusy, pricing.ErrOverflow} {
		if errors.Is(err, answer) {
			return true
		}
	}
	return false
}

// Store is a directory, the wallets and the outbox. Any error other than those of this
// package and those of the context means that the store cannot be reached or
// written; nothing has taken effect then, or it takes effect once when the
// operation is repeated with the same id.
type Store interface {
	Directory
	Wallet
	Outbox

	// Close waits for operations under way and frees what the store holds.
	Close() error
}

// Directory keeps accounts, apps and keys.
type Directory interface {
	// Grant returns what the key with this digest may do, whether or not it has
	// expired. An unknown key is [ErrNotFound], a revoked one [ErrRevoked], which is
	// that, too; an unreadable record is [ErrCorrupt].
	Grant(context.Context, tenant.KeyDigest) (*tenant.Grant, error)

	// Generation grows whenever a record that was read earlier may be out of
	// date. It does no I/O: a cache compares it at every hit.
	Generation() uint64

	// BindPepper remembers the pepper's fingerprint the first time and returns
	// [ErrPepper] for any other one after that.
	BindPepper(ctx context.Context, fingerprint string) error

	// CreateAccount adds an account with an empty wallet, or returns [ErrExists].
	CreateAccount(context.Context, tenant.Account) error
	// Account returns one account, or [ErrNotFound].
	Account(context.Context, tenant.AccountID) (tenant.Account, error)
	// Accounts returns all accounts, oldest first.
	Accounts(context.Context) ([]tenant.Account, error)

	// CreateApp adds an app. [ErrExists]: the id is taken. [ErrNotFound]: its
	// account, where it names one, does not exist.
	CreateApp(context.Context, tenant.App) error
	// UpdateApp changes an app in one atomic step: change gets the record as it
	// is and edits it, perhaps more than once; an error of change is returned and
	// nothing is written. [ErrNotFound]: no such app, or no such account as it
	// names now. What change does to ID and CreatedAt is ignored.
	UpdateApp(ctx context.Context, id tenant.AppID, change func(*tenant.App) error) (tenant.App, error)
	// App returns one app, or [ErrNotFound].
	App(context.Context, tenant.AppID) (tenant.App, error)
	// Apps returns all apps, oldest first.
	Apps(context.Context) ([]tenant.App, error)
	// AppsWithNumber returns the apps with this phone number id of Meta's, and
	// AppsOfWABA those of this WhatsApp Business Account, oldest first; of an
	// empty id, none.
	AppsWithNumber(ctx context.Context, phoneNumberID string) ([]tenant.App, error)
	AppsOfWABA(ctx context.Context, wabaID string) ([]tenant.App, error)

	// CreateKey adds a key. [ErrExists]: id or digest are taken. [ErrNotFound]:
	// its app does not exist.
	CreateKey(context.Context, tenant.APIKey) error
	// Keys returns the keys of an app, oldest first; [ErrNotFound] where there
	// is no such app.
	Keys(context.Context, tenant.AppID) ([]tenant.APIKey, error)
	// RevokeKey makes a key unknown to Grant; revoking it again changes
	// nothing. [ErrNotFound]: no such key.
	RevokeKey(ctx context.Context, id tenant.KeyID, at time.Time) error
}

// Wallet admits requests and keeps the money. Amounts are micro-units of the
// account's currency. For each account, always:
//
//	credits = available + held + captured
type Wallet interface {
	// Admit decides on one request in one atomic step: both rate windows, then
	// the balance, then, for [Hold], the hold itself, which is durable when
	// Admit returns. A refused request changes nothing. In no window of a
	// second or a minute, wherever it starts, are more than the limit admitted;
	// at most 5 % of what an exact log would admit are refused. Repeating a
	// hold id is answered Admitted and changes nothing. Where Admit returns an
	// error, no hold is left behind, or one that the store itself gives back soon:
	// the id must not be used again then. The quotas are set where they are known. It
	// takes no longer than [AdmitTimeout], whatever the context says.
	Admit(context.Context, Admission) (Decision, error)

	// Capture turns a hold into a charge for messageID. Capturing again changes
	// nothing. [ErrNotFound]: no such hold. [ErrConflict]: it was released.
	Capture(ctx context.Context, id HoldID, messageID string) error

	// Release gives a hold back. Releasing again changes nothing.
	// [ErrNotFound]: no such hold. [ErrConflict]: it was captured.
	Release(context.Context, HoldID) error

	// InDoubt settles every hold that was made before the given time and has no
	// outcome, in the given way, and returns how many there were.
	InDoubt(ctx context.Context, before time.Time, outcome Outcome) (int, error)

	// Credit adds amount (negative: a correction) to what is available, once
	// for each operation id; a repetition returns the balance as it is now.
	// [ErrNotFound]: no such account. [ErrConflict]: the operation id stands
	// for something else, or could come to (see [ReservedEntryID]).
	// [pricing.ErrOverflow]: it would not fit.
	Credit(ctx context.Context, account tenant.AccountID, amount pricing.Micros, operation string) (Balance, error)

	// Balance returns an account's balance, or [ErrNotFound].
	Balance(context.Context, tenant.AccountID) (Balance, error)

	// Ledger yields an account's entries made at since or later, oldest first.
	// The sequence ends at the first error: [ErrNotFound] where there is no
	// such account.
	Ledger(ctx context.Context, account tenant.AccountID, since time.Time) iter.Seq2[Entry, error]
}

// AdmitTimeout is how long an admission takes at the most.
const AdmitTimeout = 5 * time.Second

// Settler is a [Wallet] that takes the outcome of a hold without its caller's waiting
// for the disk.
type Settler interface {
	// SettleHold is Capture or Release. Whatever is asked of the store afterwards sees the
	// outcome. done is called once, by the store and within milliseconds where its disk is as
	// quick, with nil when the outcome is durable, else with what Capture or Release would
	// have returned. It must not block.
	SettleHold(id HoldID, outcome Outcome, messageID string, done func(error))
}

// PatientCapturer is a [Wallet] to which requests take a way that is worth sharing.
type PatientCapturer interface {
	// CapturePatiently begins a Capture for which nobody waits: it may take some milliseconds
	// longer, and goes with what others ask for meanwhile. done is called once, by the store, with nil when the
	// outcome is as durable as Capture would have made it; with an error nothing is known of it, and Capture is to be
	// called. It must not block.
	CapturePatiently(id HoldID, messageID string, done func(error))
}

// HoldID names a hold: it is made by the caller, with [NewHoldID], and travels
// to Meta and back.
type HoldID string

const holdPrefix = "hold"

// HoldIDLength is the number of characters of a hold id.
const HoldIDLength = len(holdPrefix) + 1 + tenant.IDLength

// Valid tells whether an id looks like one of [NewHoldID].
func (id HoldID) Valid() bool {
	return len(id) == HoldIDLength && strings.HasPrefix(string(id), holdPrefix+"_") &&
		strings.Trim(string(id[len(holdPrefix)+1:]), "0123456789abcdefghijklmnopqrstuv") == ""
}

// NewHoldID returns a new hold id, such as "hold_06d8k2…".
func NewHoldID() HoldID { return HoldID(tenant.NewID(holdPrefix)) }

// NewHoldIDFor returns a new hold id whose hint is that of the account, so that a
// store that spreads accounts over several places knows where to look first.
func NewHoldIDFor(account tenant.AccountID) HoldID {
	return HoldID(tenant.NewHintedID(holdPrefix, AccountHint(account)))
}

// AccountHint is a number that is always the same for an account.
func AccountHint(account tenant.AccountID) byte {
	hash := fnv.New32a()
	hash.Write([]byte(account)) // it never fails
	return byte(hash.Sum32())
}

// Hint is the hint of the account that a hold of [NewHoldIDFor] is for. Of any
// other hold it says nothing.
func (id HoldID) Hint() byte { return tenant.Hint(string(id)) }

// Mode is what an admission does if every check passes.
type Mode uint8

const (
	// Check does nothing: the request is going to be refused by a later check,
	// and only the first refusal counts.
	Check Mode = iota
	// Count counts the request in both windows and holds nothing: a sandbox
	// send, a read receipt.
	Count
	// Hold counts the request and holds its fee.
	Hold
)

// Admission is one request that asks to be let through.
type Admission struct {
	Mode Mode
	App  tenant.AppID
	// Account is who pays; empty is answered [NoAccount].
	Account tenant.AccountID
	Limits  tenant.RateLimit
	// Fee is what a Hold holds; it is not negative and may be zero.
	Fee pricing.Micros
	// HoldID names the hold. It is empty but for a Hold.
	HoldID HoldID
}

// Verdict is the outcome of an admission.
type Verdict uint8

const (
	// Admitted means that every check passed.
	Admitted Verdict = iota
	// OverSecond means that the second's window is full.
	OverSecond
	// OverMinute means that the minute's window is full; it outranks OverSecond,
	// because waiting a second would not help.
	OverMinute
	// NoAccount means that there is no such account.
	NoAccount
	// NoBalance means that nothing is available: the balance is zero or less.
	NoBalance
)

// Quota is how much of a window is left after the decision.
type Quota struct{ Limit, Remaining int }

// Decision is what Admit decided.
type Decision struct {
	Verdict        Verdict
	Second, Minute Quota
	// ByShare means that the store is away, and that this gateway has judged the
	// rate by its own share of the limits.
	ByShare bool
}

// Outcome is how a hold ends.
type Outcome uint8

const (
	// Captured means that the hold became a charge.
	Captured Outcome = iota
	// Released means that the hold was given back.
	Released
)

// Balance is the state of a wallet. Available may be negative after a
// correction, by less than one fee after the last hold, and by the template fees
// of what was delivered.
type Balance struct{ Available, Held, Captured pricing.Micros }

// Kind is what a ledger entry did to the wallet.
type Kind string

// The kinds of ledger entries. Each amount moves:
const (
	// KindCredit adds its amount, which may be negative, to available.
	KindCredit Kind = "credit"
	// KindHold moves its amount from available to held.
	KindHold Kind = "hold"
	// KindCapture moves its amount from held to captured.
	KindCapture Kind = "capture"
	// KindRelease moves its amount from held back to available.
	KindRelease Kind = "release"
	// KindTemplateFee moves its amount from available to captured. There is one
	// for a message at the most.
	KindTemplateFee Kind = "template_fee"
)

// Entry is one line of the ledger, which is only ever appended to.
type Entry struct {
	// Seq grows by time over all accounts of a store; it may have gaps.
	Seq int64
	// ID is the operation's id, unique over all kinds. A credit has the one it
	// was given; hold, capture and release of one hold differ in the word
	// before the underscore only.
	ID   string
	Kind Kind
	// Amount is what the entry moved; see the kinds.
	Amount pricing.Micros
	// Balance is what was available after it.
	Balance pricing.Micros
	// MessageID is Meta's id of the message: on a capture where it is known, and
	// on a template fee.
	MessageID string
	// AppID is the app that sent the message; empty for credits.
	AppID tenant.AppID
	At    time.Time
}

// EntryID returns the id of the ledger entry of this kind for a hold.
func (id HoldID) EntryID(kind Kind) string {
	return string(kind) + id.Suffix()
}

// Suffix is what the ids of all ledger entries of a hold end with, behind the kind of each.
func (id HoldID) Suffix() string { return strings.TrimPrefix(string(id), holdPrefix) }

// Again is the id of the hold that is made in place of a released one when it
// turns out that Meta had accepted the message. It is always the same one.
func (id HoldID) Again() HoldID { return HoldID(tenant.DerivedID(holdPrefix, string(id))) }

// TemplateFeeID is the id of the ledger entry with a message's template fee.
func TemplateFeeID(messageID string) string { return string(KindTemplateFee) + "_" + messageID }

// ReservedEntryID tells whether an entry that is no credit of [Wallet.Credit] may
// have this id, which such a credit then may not: a hold and what becomes of it, a
// template fee, and what follows a total of the Core Service ([Total.TotalID]).
func ReservedEntryID(id string) bool {
	if strings.HasPrefix(id, TemplateFeeID("")) {
		return true
	}
	word, rest, _ := strings.Cut(id, "_")
	switch word {
	case string(KindHold), string(KindCapture), string(KindRelease), "total":
		return len(rest) == tenant.IDLength
	}
	return false
}
