package coretest

import (
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/connexease/caddy-whatsapp-gateway/core"
	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

// maxBody is how long a request's body may be, in bytes.
const maxBody = 4 << 20

// mux has the contract's routes and, under /admin, those by which this service is filled.
func (s *Service) mux() *http.ServeMux {
	mux := http.NewServeMux()
	for route, handler := range map[Route]http.HandlerFunc{
		Grants: s.getGrant, Apps: s.getApps, Accounts: s.getAccount, Ledger: s.postEntries,
	} {
		mux.HandleFunc(string(route), s.failing(route, s.authorized(handler)))
	}
	for pattern, handler := range s.adminRoutes() {
		mux.HandleFunc(pattern, s.authorized(handler))
	}
	return mux
}

// ServeHTTP implements http.Handler.
func (s *Service) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.routes.ServeHTTP(w, r) }

func (s *Service) authorized(next http.HandlerFunc) http.HandlerFunc {
	want := []byte("Bearer " + s.token)
	return func(w http.ResponseWriter, r *http.Request) {
		if subtle.ConstantTimeCompare([]byte(r.Header.Get("Authorization")), want) != 1 {
			w.Header().Set("WWW-Authenticate", "Bearer")
			refuse(w, http.StatusUnauthorized, "a bearer token is needed")
			return
		}
		next(w, r)
	}
}

func (s *Service) getGrant(w http.ResponseWriter, r *http.Request) {
	grant, ok := s.grant(r.PathValue("digest"))
	if !ok {
		refuse(w, http.StatusNotFound, "unknown key")
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(grant.Document())
}

func (s *Service) getApps(w http.ResponseWriter, r *http.Request) {
	number, waba := r.URL.Query().Get("phone_number_id"), r.URL.Query().Get("waba_id")
	if (number == "") == (waba == "") {
		refuse(w, http.StatusBadRequest, "either phone_number_id or waba_id is needed")
		return
	}
	answer(w, http.StatusOK, map[string][]tenant.App{"apps": s.apps(func(app tenant.App) bool {
		return number != "" && app.PhoneNumberID == number || waba != "" && app.WABAID == waba
	})})
}

func (s *Service) getAccount(w http.ResponseWriter, r *http.Request) {
	account, err := s.Account(tenant.AccountID(r.PathValue("id")))
	if err != nil {
		refuse(w, http.StatusNotFound, "unknown account")
		return
	}
	answer(w, http.StatusOK, account)
}

// sentEntry is an entry as it comes, before it is known whether all is there.
type sentEntry struct {
	Entry
	Amount *int64     `json:"amount_micros"`
	At     *time.Time `json:"at"`
}

func (s *Service) postEntries(w http.ResponseWriter, r *http.Request) {
	var sent struct {
		Entries []sentEntry `json:"entries"`
	}
	if !read(w, r, &sent) {
		return
	}
	entries, err := check(sent.Entries)
	if err != nil {
		refuse(w, http.StatusBadRequest, err.Error())
		return
	}
	if err := s.store(entries); err != nil {
		refuse(w, http.StatusInternalServerError, "the entries could not be stored")
		return
	}
	answer(w, http.StatusOK, map[string]int{"stored": len(entries)})
}

// check says what is wrong with a batch. An account that nobody knows is not:
// refusing its entries would hold up all those behind them.
func check(sent []sentEntry) ([]Entry, error) {
	if len(sent) == 0 || len(sent) > core.MaxEntries {
		return nil, fmt.Errorf("a batch has 1 to %d entries", core.MaxEntries)
	}
	entries := make([]Entry, len(sent))
	for i, e := range sent {
		switch {
		case e.ID == "" || e.Account == "" || e.Amount == nil || e.At == nil:
			return nil, fmt.Errorf("entry %d lacks id, account_id, amount_micros or at", i)
		case e.Kind != store.KindCredit && e.Kind != store.KindCapture && e.Kind != store.KindTemplateFee:
			return nil, fmt.Errorf("entry %d is of another kind", i)
		case e.Kind != store.KindCredit && *e.Amount < 0:
			return nil, fmt.Errorf("entry %d is a fee below zero", i)
		}
		e.Entry.Amount, e.Entry.At = *e.Amount, *e.At
		entries[i] = e.Entry
	}
	return entries, nil
}

// read reads a request's body, or refuses it.
func read(w http.ResponseWriter, r *http.Request, v any) (ok bool) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if over := (*http.MaxBytesError)(nil); errors.As(err, &over) {
		refuse(w, http.StatusRequestEntityTooLarge, "the body is too large")
		return false
	}
	if err != nil || json.Unmarshal(body, v) != nil {
		refuse(w, http.StatusBadRequest, "the body is not the JSON that it should be")
		return false
	}
	return true
}

func answer(w http.ResponseWriter, status int, v any) {
	document, err := json.Marshal(v)
	if err != nil {
		refuse(w, http.StatusInternalServerError, "the answer cannot be written")
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(document)
}

func refuse(w http.ResponseWriter, status int, reason string) {
	answer(w, status, map[string]string{"error": reason})
}

var _ http.Handler = (*Service)(nil)
