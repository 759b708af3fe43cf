package coretest

import (
	"errors"
	"net/http"

	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

// adminRoutes are this service's own, and no part of the contract: an owner's
// system has its own ways to change what it knows.
func (s *Service) adminRoutes() map[string]http.HandlerFunc {
	return map[string]http.HandlerFunc{
		"PUT /admin/accounts/{id}":         s.putAccount,
		"POST /admin/accounts/{id}/credit": s.postCredit,
		"PUT /admin/apps/{id}":             s.putApp,
		"DELETE /admin/apps/{id}":          s.deleteApp,
		"PUT /admin/keys/{digest}":         s.putKey,
		"DELETE /admin/keys/{digest}":      s.deleteKey,
		"GET /admin/ledger":                s.getLedger,
	}
}

func (s *Service) putAccount(w http.ResponseWriter, r *http.Request) {
	var sent struct {
		Currency string `json:"currency"`
	}
	if !read(w, r, &sent) {
		return
	}
	if len(sent.Currency) != 3 {
		refuse(w, http.StatusBadRequest, "currency must be three capital letters")
		return
	}
	s.changed(w, s.PutAccount(tenant.AccountID(r.PathValue("id")), sent.Currency))
}

func (s *Service) postCredit(w http.ResponseWriter, r *http.Request) {
	var sent struct {
		Amount *int64 `json:"amount_micros"`
	}
	if !read(w, r, &sent) {
		return
	}
	if sent.Amount == nil {
		refuse(w, http.StatusBadRequest, "amount_micros is needed")
		return
	}
	account, err := s.Credit(tenant.AccountID(r.PathValue("id")), *sent.Amount)
	if err != nil {
		s.changed(w, err)
		return
	}
	answer(w, http.StatusOK, account)
}

func (s *Service) putApp(w http.ResponseWriter, r *http.Request) {
	var app tenant.App
	if !read(w, r, &app) {
		return
	}
	if app.RateLimit != nil && app.RateLimit.Validate() != nil {
		refuse(w, http.StatusBadRequest, "rate limits must be at least 1")
		return
	}
	app.ID = tenant.AppID(r.PathValue("id"))
	s.changed(w, s.PutApp(app))
}

func (s *Service) deleteApp(w http.ResponseWriter, r *http.Request) {
	s.changed(w, s.RemoveApp(tenant.AppID(r.PathValue("id"))))
}

func (s *Service) putKey(w http.ResponseWriter, r *http.Request) {
	digest, err := tenant.ParseKeyDigest(r.PathValue("digest"))
	if err != nil {
		refuse(w, http.StatusBadRequest, err.Error())
		return
	}
	var key Key
	if !read(w, r, &key) {
		return
	}
	if key.ID == "" || key.AppID == "" {
		refuse(w, http.StatusBadRequest, "key_id and app_id are needed")
		return
	}
	s.changed(w, s.PutKey(digest, key))
}

func (s *Service) deleteKey(w http.ResponseWriter, r *http.Request) {
	digest, err := tenant.ParseKeyDigest(r.PathValue("digest"))
	if err != nil {
		refuse(w, http.StatusBadRequest, err.Error())
		return
	}
	s.changed(w, s.Revoke(digest))
}

func (s *Service) getLedger(w http.ResponseWriter, _ *http.Request) {
	answer(w, http.StatusOK, map[string][]Entry{"entries": s.Entries()})
}

// changed answers how a change went.
func (s *Service) changed(w http.ResponseWriter, err error) {
	switch {
	case err == nil:
		w.WriteHeader(http.StatusNoContent)
	case errors.Is(err, ErrUnknown):
		refuse(w, http.StatusNotFound, "unknown")
	default:
		refuse(w, http.StatusInternalServerError, "the change could not be kept")
	}
}
