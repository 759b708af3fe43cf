package coretest

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"time"
)

// Route is one request of the contract.
type Route string

// The routes.
const (
	Grants   Route = "GET /v1/grants/{digest}"
	Apps     Route = "GET /v1/apps"
	Accounts Route = "GET /v1/accounts/{id}"
	Ledger   Route = "POST /v1/ledger-entries"
)

// Routes are all there are.
var Routes = []Route{Grants, Apps, Accounts, Ledger}

// Fault is how a route fails. The zero value is not at all. Its parts come in
// the order in which they stand here.
type Fault struct {
	// Delay is waited before anything else, and Until, unless it is nil, for to be
	// closed; neither for longer than the request or the service lasts.
	Delay time.Duration
	Until <-chan struct{}
	// Down closes the connection without an answer.
	Down bool
	// Late does what was asked for, and then fails as the rest says. Otherwise
	// nothing is done.
	Late bool
	// Half answers with the first half of the right answer.
	Half bool
	// Status and Body are answered instead of the right answer, unless Status is 0.
	Status int
	Body   string
	Header http.Header
}

// The faults that need no parameter.
var (
	Down     = Fault{Down: true}
	Error    = Fault{Status: http.StatusInternalServerError, Body: `{"error":"internal"}`}
	HTML     = Fault{Status: http.StatusOK, Body: "<!doctype html><title>Welcome</title>", Header: http.Header{"Content-Type": {"text/html"}}}
	HalfJSON = Fault{Half: true}
	NotFound = Fault{Status: http.StatusNotFound, Body: `{"error":"not found"}`}
)

// Slow answers rightly after a time.
func Slow(by time.Duration) Fault { return Fault{Delay: by} }

// Set makes routes fail from now on; without routes, all of them.
func (s *Service) Set(fault Fault, routes ...Route) {
	if len(routes) == 0 {
		routes = Routes
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, route := range routes {
		s.faults[route] = fault
	}
}

// Heal ends the faults of routes; without routes, of all.
func (s *Service) Heal(routes ...Route) { s.Set(Fault{}, routes...) }

// Requests returns how often a route was asked, whatever the answer; with the
// wrong token, too.
func (s *Service) Requests(route Route) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.requests[route]
}

// failing counts a request and does to it what the fault of its route says.
func (s *Service) failing(route Route, next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.requests[route]++
		fault := s.faults[route]
		s.mu.Unlock()
		// A server notices that a client has gone only once it has read the body.
		body, err := io.ReadAll(io.LimitReader(r.Body, maxBody+1))
		if err != nil || !s.wait(fault, r) {
			panic(http.ErrAbortHandler)
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		if fault.Late {
			next(httptest.NewRecorder(), r)
		}
		switch {
		case fault.Down:
			panic(http.ErrAbortHandler) // net/http closes the connection
		case fault.Half:
			half(w, r, next)
		case fault.Status != 0:
			for name, values := range fault.Header {
				w.Header()[name] = values
			}
			w.WriteHeader(fault.Status)
			_, _ = w.Write([]byte(fault.Body))
		default:
			next(w, r)
		}
	}
}

// wait waits as a fault says. Not ok means that the request or the service ended.
func (s *Service) wait(fault Fault, r *http.Request) (ok bool) {
	timer := time.NewTimer(fault.Delay)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-r.Context().Done():
		return false
	case <-s.ended:
		return false
	}
	if fault.Until == nil {
		return true
	}
	select {
	case <-fault.Until:
		return true
	case <-r.Context().Done():
		return false
	case <-s.ended:
		return false
	}
}

// half answers with the first half of what next answers.
func half(w http.ResponseWriter, r *http.Request, next http.HandlerFunc) {
	if r.Method == http.MethodPost { // which is not to be done
		next = func(w http.ResponseWriter, _ *http.Request) { answer(w, http.StatusOK, map[string]int{"stored": 1}) }
	}
	recorder := httptest.NewRecorder()
	next(recorder, r)
	document := bytes.TrimSpace(recorder.Body.Bytes())
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(recorder.Code)
	_, _ = w.Write(document[:len(document)/2])
}
