package core

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/connexease/caddy-whatsapp-gateway/pricing"
	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

// total is an account on the wire. Amounts are numbers there, of millionths.
type total struct {
	Account  tenant.AccountID `json:"account_id"`
	Currency string           `json:"currency"`
	Credited *int64           `json:"credited_micros"`
	Version  int64            `json:"version"`
}

// entry is a ledger entry on the wire.
type entry struct {
	ID        string           `json:"id"`
	Account   tenant.AccountID `json:"account_id"`
	Kind      store.Kind       `json:"kind"`
	Amount    int64            `json:"amount_micros"`
	MessageID string           `json:"message_id,omitempty"`
	AppID     tenant.AppID     `json:"app_id,omitempty"`
	At        time.Time        `json:"at"`
}

// parseTotal is strict: it is money. No error repeats any of the document.
func parseTotal(document []byte) (store.Total, error) {
	var t total
	if err := json.Unmarshal(document, &t); err != nil {
		return store.Total{}, errors.New("an account that is not JSON, or has a value of the wrong type")
	}
	switch {
	case t.Account == "":
		return store.Total{}, errors.New("an account without account_id")
	case len(t.Currency) != 3 || strings.Trim(t.Currency, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") != "":
		return store.Total{}, errors.New("an account whose currency is not three capital letters")
	case t.Credited == nil:
		return store.Total{}, errors.New("an account without credited_micros")
	case t.Version < 1:
		return store.Total{}, errors.New("an account whose version is not positive")
	}
	return store.Total{Account: t.Account, Currency: t.Currency, Credited: pricing.Micros(*t.Credited), Version: t.Version}, nil
}

// batch writes ledger entries for the wire, in their order.
func batch(entries []store.ReportedEntry) ([]byte, error) {
	if len(entries) > MaxEntries {
		return nil, fmt.Errorf("a batch of %d entries is over the limit of %d", len(entries), MaxEntries)
	}
	body := struct {
		Entries []entry `json:"entries"`
	}{make([]entry, len(entries))}
	for i, e := range entries {
		body.Entries[i] = entry{e.ID, e.Account, e.Kind, int64(e.Amount), e.MessageID, e.AppID, e.At.UTC()}
	}
	document, err := json.Marshal(body, jsontext.AllowInvalidUTF8(true))
	if err != nil { // a time beyond the year 9999
		return nil, errors.New("the entries cannot be written as JSON")
	}
	return document, nil
}
