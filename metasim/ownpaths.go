package metasim

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"time"
)

const (
	// ownPaths begin the paths that are the simulator's own.
	ownPaths     = "/_simulator/"
	acceptedPath = ownPaths + "accepted"
	lastPath     = ownPaths + "last"
	messagePath  = ownPaths + "message"
	webhookPath  = ownPaths + "webhook"

	// maxRawWebhook is how much is signed and sent on request, in bytes: more
	// than anybody takes, so that a receiver's limit can be tried out.
	maxRawWebhook = 8 << 20
)

// ownRoutes are the methods and paths that are the simulator's own.
var ownRoutes = map[string]func(*MetaSimulator, http.ResponseWriter, *http.Request) error{
	"GET " + acceptedPath:    (*MetaSimulator).showAccepted,
	"DELETE " + acceptedPath: (*MetaSimulator).forgetAccepted,
	"GET " + lastPath:        (*MetaSimulator).showLast,
	"POST " + messagePath:    (*MetaSimulator).writeMessage,
	"POST " + webhookPath:    (*MetaSimulator).sendRaw,
}

// serveOwn answers the simulator's own paths.
func (m *MetaSimulator) serveOwn(w http.ResponseWriter, r *http.Request) error {
	if serve, ok := ownRoutes[r.Method+" "+r.URL.Path]; ok {
		return serve(m, w, r)
	}
	return refuse(w, http.StatusNotFound, "the simulator knows GET and DELETE "+acceptedPath+", GET "+lastPath+
		", POST "+messagePath+" and POST "+webhookPath)
}

// refuse answers a request of the simulator's own that failed.
func refuse(w http.ResponseWriter, status int, why string) error {
	return writeJSON(w, status, map[string]string{"error": why})
}

func (m *MetaSimulator) showAccepted(w http.ResponseWriter, _ *http.Request) error {
	s := m.sends.summarize()
	s.Webhooks = m.courier.tell()
	return writeJSON(w, http.StatusOK, s)
}

func (m *MetaSimulator) forgetAccepted(w http.ResponseWriter, _ *http.Request) error {
	m.sends.forget()
	m.courier.forget()
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (m *MetaSimulator) showLast(w http.ResponseWriter, _ *http.Request) error {
	last := m.sends.lastRequest()
	if last == nil {
		return refuse(w, http.StatusNotFound, "no request has come in yet")
	}
	return writeJSON(w, http.StatusOK, last)
}

// noWebhook is the answer to requests for webhooks that have nowhere to go.
const noWebhook = "no webhook is configured"

// writeMessage has a user write to a business.
func (m *MetaSimulator) writeMessage(w http.ResponseWriter, r *http.Request) error {
	if m.Webhook == nil {
		return refuse(w, http.StatusNotFound, noWebhook)
	}
	var u userMessage
	dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody))
	dec.DisallowUnknownFields()
	if dec.Decode(&u) != nil || dec.Decode(new(json.RawMessage)) != io.EOF {
		return refuse(w, http.StatusBadRequest,
			"the body must be a JSON object with the strings phone_number_id, from, text and, if need be, type")
	}
	if why := u.fault(); why != "" {
		return refuse(w, http.StatusBadRequest, why)
	}
	id := newMessageID()
	body := u.body(id, time.Now())
	if !m.courier.bring(delivery{to: m.Webhook, body: func() []byte { return body }}) {
		return refuse(w, http.StatusServiceUnavailable, "too many webhooks are waiting")
	}
	return writeJSON(w, http.StatusOK, sentMessage{ID: id})
}

// sendRaw signs and sends what it gets, whatever that is.
func (m *MetaSimulator) sendRaw(w http.ResponseWriter, r *http.Request) error {
	if m.Webhook == nil {
		return refuse(w, http.StatusNotFound, noWebhook)
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxRawWebhook))
	if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
		return refuse(w, http.StatusRequestEntityTooLarge, "the body is too large")
	}
	if err != nil {
		return refuse(w, http.StatusBadRequest, "the body cannot be read")
	}
	status, err := m.courier.post(r.Context(), m.Webhook, body)
	if err != nil {
		return refuse(w, http.StatusBadGateway, "no answer from the webhook")
	}
	return writeJSON(w, http.StatusOK, map[string]int{"status": status})
}
