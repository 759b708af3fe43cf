package gateway

import (
	"bytes"
	"cmp"
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
)

// problem is one row of the published table of error codes. A program acts on
// the code, so none of its parts ever changes.
type problem struct {
	code        string
	status      int
	group       string
	description string
}

// The catalogue: every code once. docs/errors.md says when each is answered.
var (
	keyUnknown     = &problem{"AUTH_001", http.StatusUnauthorized, "UNAUTHORIZED", "API Key not found, invalid, or expired."}
	keyMissing     = &problem{"AUTH_002", http.StatusUnauthorized, "UNAUTHORIZED", "Missing Authorization header."}
	keyMalformed   = &problem{"AUTH_003", http.StatusUnauthorized, "UNAUTHORIZED", "Invalid token format. It must be 'Bearer <token>'."}
	authFailed     = &problem{"AUTH_004", http.StatusInternalServerError, "INTERNAL_ERROR", "An error occurred in the authentication service."}
	grantCorrupt   = &problem{"AUTH_005", http.StatusInternalServerError, "INTERNAL_ERROR", "Authentication data is corrupted."}
	rateExceeded   = &problem{"RATE_001", http.StatusTooManyRequests, "TOO_MANY_REQUESTS", "Rate limit exceeded. Please try again later."}
	balanceTooLow  = &problem{"BILL_001", http.StatusPaymentRequired, "PAYMENT_REQUIRED", "Insufficient balance. Please top up your account to continue sending messages."}
	accountMissing = &problem{"BILL_002", http.StatusBadRequest, "BAD_REQUEST", "API Key does not have an associated billing account. Please contact support."}
	walletFailed   = &problem{"BILL_003", http.StatusInternalServerError, "INTERNAL_ERROR", "The billing service is unavailable. Please retry."}
	// bodyRefused, bodyTooLarge and upstreamFailed get their description where they are answered.
	bodyRefused        = &problem{"REQ_001", http.StatusBadRequest, "BAD_REQUEST", ""}
	bodyTooLarge       = &problem{"REQ_002", http.StatusRequestEntityTooLarge, "PAYLOAD_TOO_LARGE", ""}
	methodRefused      = &problem{"REQ_003", http.StatusMethodNotAllowed, "METHOD_NOT_ALLOWED", "This path does not take the method; the Allow header lists those that it does."}
	earlyData          = &problem{"REQ_004", http.StatusTooEarly, "TOO_EARLY", "A message cannot be sent in TLS early data. Please send it again."}
	credentialsMissing = &problem{"WABA_001", http.StatusUnauthorized, "UNAUTHORIZED", "WABA credentials are missing or invalid. Please check your configuration."}
	tokenUnreadable    = &problem{"SEC_001", http.StatusInternalServerError, "INTERNAL_ERROR", "Access token decryption failed. Please contact support."}
	upstreamFailed     = &problem{"GW_001", http.StatusBadGateway, "UPSTREAM_ERROR", ""}
	verifyTokenWrong   = &problem{"WH_001", http.StatusForbidden, "FORBIDDEN", "Invalid verification token."}
	signatureMissing   = &problem{"WH_002", http.StatusUnauthorized, "UNAUTHORIZED", "Missing signature header."}
	signatureWrong     = &problem{"WH_003", http.StatusForbidden, "FORBIDDEN", "Invalid signature."}
	eventNotStored     = &problem{"WH_004", http.StatusInternalServerError, "INTERNAL_ERROR", "The event was not stored. Please deliver it again."}

	catalogue = []*problem{
		keyUnknown, keyMissing, keyMalformed, authFailed, grantCorrupt, rateExceeded, balanceTooLow, accountMissing, walletFailed,
		bodyRefused, bodyTooLarge, methodRefused, earlyData, credentialsMissing, tokenUnreadable, upstreamFailed,
		verifyTokenWrong, signatureMissing, signatureWrong, eventNotStored,
	}
)

// failure is a problem that happened to one request.
type failure struct {
	*problem
	// description, where it is set, stands in place of the problem's.
	description string
	// params is what a program needs beside the code; nil is left out.
	params any
	// cause is for the log alone: it never reaches a client.
	cause error
}

// as makes a failure of the problem, because of cause, which may be nil.
func (p *problem) as(cause error) *failure { return &failure{problem: p, cause: cause} }

// because makes a failure with a description of its own.
func (p *problem) because(description string) *failure {
	return &failure{problem: p, description: description}
}

// errorEnvelope is the JSON of every failure.
type errorEnvelope struct {
	IsSuccess bool        `json:"isSuccess"`
	Errors    errorObject `json:"errors"`
}

type errorObject struct {
	Code        string `json:"code"`
	Group       string `json:"group"`
	Description string `json:"description"`
	Params      any    `json:"params,omitempty"`
}

// write answers with the failure.
func (f *failure) write(w http.ResponseWriter) error {
	if f.status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", "Bearer")
	}
	body, usual := usualBodies[f.problem]
	if !usual || f.description != "" || f.params != nil {
		var err error
		if body, err = f.body(); err != nil {
			return err
		}
	}
	return writeJSON(w, new(headerValues), f.status, body)
}

// usualBodies are the answers to failures that are nothing but their problem, as most are.
var usualBodies = func() map[*problem][]byte {
	all := make(map[*problem][]byte)
	for _, p := range catalogue {
		body, err := p.as(nil).body()
		if err != nil {
			panic(err) // it is part of the program
		}
		all[p] = body
	}
	return all
}()

// body is the envelope.
func (f *failure) body() ([]byte, error) {
	var body bytes.Buffer
	encoder := json.NewEncoder(&body)
	encoder.SetEscapeHTML(false) // Meta's messages are given back as they are
	description := cmp.Or(f.description, f.problem.description)
	err := encoder.Encode(errorEnvelope{Errors: errorObject{f.code, f.group, description, f.params}})
	return bytes.TrimSuffix(body.Bytes(), []byte("\n")), err
}

// writeSuccess answers with Meta's JSON in the envelope, byte for byte.
func (s *send) writeSuccess(w http.ResponseWriter) error {
	const before, after = `{"isSuccess":true,"data":`, `}`
	body := slices.Grow(s.room[:0], len(before)+len(s.answer)+len(after))
	body = append(append(append(body, before...), s.answer...), after...)
	return writeJSON(w, &s.headers, http.StatusOK, body)
}

func writeJSON(w http.ResponseWriter, values *headerValues, status int, body []byte) error {
	h := w.Header()
	h["Content-Type"] = values.of("application/json; charset=utf-8")
	h["Content-Length"] = values.of(strconv.Itoa(len(body)))
	w.WriteHeader(status)
	_, err := w.Write(body)
	return err
}

// headerValues are the values of headers, for some of them in one piece of memory.
type headerValues struct {
	values [8]string
	n      int
}

// of returns what http.Header has for a header with one value.
func (v *headerValues) of(value string) []string {
	if v.n == len(v.values) {
		return []string{value}
	}
	v.values[v.n] = value
	v.n++
	return v.values[v.n-1 : v.n : v.n]
}
