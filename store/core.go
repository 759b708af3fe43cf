package store

import (
	"context"
	"strconv"
	"time"

	"github.com/connexease/caddy-whatsapp-gateway/pricing"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

// Follower is what a store does beside a Core Service, the owner's own system of
// record: its wallets follow the totals that the Core Service names, and its
// ledger is reported there.
type Follower interface {
	// Follow moves an account's wallet by what [Total.Credited] differs from the
	// last total that it followed, once for each version, whoever read it first. A
	// version that is not newer changes nothing. An account that the store does not
	// know is created. [ErrConflict]: its currency is another one.
	// [pricing.ErrOverflow]: it would not fit. The entry in the ledger is a credit
	// with the id [TotalID].
	Follow(context.Context, Total) error

	// Unreported returns the oldest entries that [Follower.Reported] has not been
	// told of: credits, captures and template fees, in the order in which they
	// were made in each account. It returns [ErrBusy] while another process is at it, and
	// a report without entries when there are none.
	Unreported(ctx context.Context, most int) (Report, error)

	// Reported notes that the Core Service has stored the entries of a report. Until
	// then the ledger keeps them, however old they are.
	Reported(context.Context, Report) error
}

// Total is what the Core Service says of an account.
type Total struct {
	Account  tenant.AccountID
	Currency string
	// Credited is everything ever credited, corrections included, less what was
	// charged elsewhere.
	Credited pricing.Micros
	// Version grows with every change of Credited. It is positive.
	Version int64
}

// TotalID is the id of the ledger entry that follows a total.
func (t Total) TotalID() string {
	return tenant.DerivedID("total", string(t.Account)+" "+strconv.FormatInt(t.Version, 10))
}

// Report is a batch of ledger entries for the Core Service.
type Report struct {
	Entries []ReportedEntry
	// Cursor is the store's own.
	Cursor string
}

// ReportedEntry is a ledger entry and whose it is.
type ReportedEntry struct {
	Account tenant.AccountID
	Entry
}

// HoldRememberer is a store that can lose what it has answered for, because another
// server takes over.
type HoldRememberer interface {
	// Remember tells of a hold that was made before, perhaps by a process that is no
	// more: where it is lost, its capture makes it again.
	Remember(Admission)
}

// GrantKeeper is a store that keeps, for all gateways on it, copies of grants
// that one of them has looked up.
type GrantKeeper interface {
	// FindGrant returns the copy of a grant and, where there is none, what [Directory.Grant]
	// returns. It asks for both together. [ErrCorrupt]: the copy cannot be parsed, or there is
	// none and the record cannot be. What would fail of the record alone does not matter where
	// there is a copy.
	FindGrant(context.Context, tenant.KeyDigest) (FoundGrant, error)

	// KeepGrant keeps a copy for as long as lifetime, nil for a key that is
	// unknown, unless there is one, or the key was revoked or its app changed
	// within the last seconds.
	KeepGrant(ctx context.Context, digest tenant.KeyDigest, grant *tenant.Grant, lifetime time.Duration) error
}

// FoundGrant is a grant that a [GrantKeeper] has found, or that the key is known to be unknown.
type FoundGrant struct {
	// Grant is nil where a copy says that there is no such key.
	Grant *tenant.Grant
	// Copied: it is a copy, which may be believed for Left. Otherwise it was made from the
	// store's own records just now.
	Copied bool
	Left   time.Duration
}
