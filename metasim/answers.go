package metasim

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
)

// oauthException is the type of nearly all of Meta's errors, whatever they are about.
const oauthException = "OAuthException"

// graphError is an error in Meta's shape. Its zero members are left out, but
// for those that Meta always sends.
type graphError struct {
	status int
	// regainMinutes is how long the sender is shut out, as the usage headers tell it.
	regainMinutes int

	Message     string     `json:"message"`
	Type        string     `json:"type"`
	Code        int        `json:"code"`
	Subcode     int        `json:"error_subcode,omitempty"`
	IsTransient bool       `json:"is_transient,omitempty"`
	UserTitle   string     `json:"error_user_title,omitempty"`
	UserMessage string     `json:"error_user_msg,omitempty"`
	Data        *errorData `json:"error_data,omitempty"`
	TraceID     string     `json:"fbtrace_id"`
}

// errorData is what the WhatsApp side of Meta adds to an error.
type errorData struct {
	MessagingProduct string `json:"messaging_product"`
	Details          string `json:"details"`
}

// The errors that are the same for every request.
var (
	errNoToken = graphError{
		status: http.StatusUnauthorized, Message: "Authentication Error", Type: oauthException, Code: 190,
	}
	errBadToken = graphError{
		status: http.StatusUnauthorized, Message: "Invalid OAuth access token - Cannot parse access token",
		Type: oauthException, Code: 190,
	}
	errTooLarge = graphError{
		status: http.StatusRequestEntityTooLarge, Message: "The request is too large.", Type: oauthException, Code: 1,
	}
	errThrottled = throttled(whatsAppError(http.StatusTooManyRequests, 130429, "Rate limit hit",
		"Cloud API message throughput has been reached."))
	errUnavailable = graphError{
		status: http.StatusInternalServerError, Message: "(#131016) Service unavailable", Type: oauthException,
		Code: 131016, Subcode: 2494055, IsTransient: true,
		UserTitle: "Service unavailable", UserMessage: "A service is temporarily unavailable. Please try again later.",
		Data: &errorData{MessagingProduct: "whatsapp", Details: "Service temporarily unavailable"},
	}
	errUndeliverable = whatsAppError(http.StatusBadRequest, 131026, "Message undeliverable",
		"Message Undeliverable.")
	errOutsideWindow = whatsAppError(http.StatusBadRequest, 131047, "Re-engagement message",
		"Message failed to send because more than 24 hours have passed since the customer last replied to this number.")
	errMediaDownload = whatsAppError(http.StatusBadRequest, 131052, "Media download error",
		"Failed to download the media from the sender. See href for details.")
	errMediaUpload = whatsAppError(http.StatusBadRequest, 131053, "Media upload error",
		"Unable to upload the media used in the message.")
	errUnknownTemplate = whatsAppError(http.StatusNotFound, 132001, "Template name does not exist in the translation",
		"template name does not exist in the language")
)

// whatsAppError is an error with code and title in its message, as WhatsApp's are.
func whatsAppError(status, code int, title, details string) graphError {
	return graphError{
		status: status, Message: fmt.Sprintf("(#%d) %s", code, title), Type: oauthException, Code: code,
		Data: &errorData{MessagingProduct: "whatsapp", Details: details},
	}
}

// throttled adds how long to wait to an error.
func throttled(e graphError) graphError {
	e.regainMinutes = 1
	return e
}

// unknownPath is the answer to a path that the simulator does not know.
func unknownPath(path string) graphError {
	return graphError{
		status: http.StatusNotFound, Message: "Unknown path components: " + path, Type: oauthException, Code: 2500,
	}
}

// unsupportedMethod is Meta's answer to a wrong method, and to an object that
// it does not have or the token may not see: it does not tell them apart.
func unsupportedMethod(method, id string) graphError {
	return graphError{
		status: http.StatusBadRequest,
		Message: fmt.Sprintf("Unsupported %s request. Object with ID '%s' does not exist, cannot be loaded due to missing "+
			"permissions, or does not support this operation. Please read the Graph API documentation at "+
			"https://developers.facebook.com/docs/graph-api", strings.ToLower(method), id),
		Type: "GraphMethodException", Code: 100, Subcode: 33,
	}
}

// tokenInError is an error that repeats the access token wherever it has room
// for text, which Meta does for tokens that it cannot parse.
func tokenInError(token string) graphError {
	text := "Malformed access token " + token
	return graphError{
		status: http.StatusUnauthorized, Message: text, Type: oauthException, Code: 190, Subcode: 467,
		UserTitle: text, UserMessage: text, Data: &errorData{MessagingProduct: "whatsapp", Details: text},
	}
}

// acceptance is Meta's answer to a message that it accepted.
type acceptance struct {
	MessagingProduct string        `json:"messaging_product"`
	Contacts         []contact     `json:"contacts"`
	Messages         []sentMessage `json:"messages"`
}

// contact says whom Meta took the address for: UserID is there for a
// business-scoped user id, WhatsAppID for a phone number.
type contact struct {
	Input      string `json:"input"`
	WhatsAppID string `json:"wa_id,omitempty"`
	UserID     string `json:"user_id,omitempty"`
}

// sentMessage names a message from here on.
type sentMessage struct {
	ID string `json:"id"`
	// Status is "accepted" for a template, and left out otherwise.
	Status string `json:"message_status,omitempty"`
}

// acceptance is the answer to the message of this exchange.
func (x *exchange) acceptance() acceptance {
	sent := sentMessage{ID: x.messageID}
	if x.message.kind == "template" {
		sent.Status = "accepted"
	}
	return acceptance{MessagingProduct: "whatsapp", Contacts: []contact{x.message.contact()}, Messages: []sentMessage{sent}}
}

// answer writes v as JSON, with Meta's headers.
func (x *exchange) answer(status int, v any) error {
	x.setHeaders(newTraceID(), 0)
	return writeJSON(x.w, status, v)
}

// fail writes an error of Meta's.
func (x *exchange) fail(e graphError) error {
	e.TraceID = newTraceID()
	x.setHeaders(e.TraceID, e.regainMinutes)
	h := x.w.Header()
	if e.status == http.StatusUnauthorized {
		h.Set("WWW-Authenticate", fmt.Sprintf(`OAuth "Facebook Platform" "invalid_token" %q`, e.Message))
	}
	if e.regainMinutes > 0 {
		h.Set("Retry-After", fmt.Sprint(e.regainMinutes*60))
	}
	return writeJSON(x.w, e.status, map[string]graphError{"error": e})
}

// setHeaders sets what Meta sends with every answer: the headers that the
// gateway hands on, and some of those that it must not.
func (x *exchange) setHeaders(traceID string, regainMinutes int) {
	used := 1 // percent
	if regainMinutes > 0 {
		used = 100
	}
	h := x.w.Header()
	h.Set("x-fb-trace-id", traceID)
	h.Set("x-app-usage", fmt.Sprintf(`{"call_count":%d,"total_cputime":0,"total_time":0}`, used))
	h.Set("x-business-use-case-usage", fmt.Sprintf(`{"102290129340398":[{"type":"whatsapp","call_count":%d,`+
		`"total_cputime":1,"total_time":1,"estimated_time_to_regain_access":%d}]}`, used, regainMinutes))
	h.Set("x-fb-request-id", newTraceID())
	h.Set("x-fb-rev", "1020000000")
	h.Set("Cache-Control", "private, no-cache, no-store, must-revalidate")
	h.Set("Access-Control-Allow-Origin", "*")
	if x.version != "" {
		h.Set("facebook-api-version", x.version)
	}
}

// writeJSON writes v without a newline behind it and without escaping what
// only matters in HTML, as Meta does. An error in writing concerns a client
// that has gone.
func writeJSON(w http.ResponseWriter, status int, v any) error {
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json; charset=UTF-8")
	w.WriteHeader(status)
	_, _ = w.Write([]byte(strings.TrimSuffix(b.String(), "\n")))
	return nil
}

// newMessageID returns a unique id that looks like one of Meta's: long, with
// the characters of base64 that want care in a URL. Meta's contain the
// recipient's number, these do not.
func newMessageID() string {
	var b [31]byte
	rand.Read(b[:]) // never fails, see crypto/rand
	return "wamid.HBgL" + base64.StdEncoding.EncodeToString(b[:])
}

// newTraceID returns an id like those of fbtrace_id.
func newTraceID() string {
	var b [16]byte
	rand.Read(b[:]) // never fails, see crypto/rand
	return "A" + base64.RawURLEncoding.EncodeToString(b[:])
}
