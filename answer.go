package gateway

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"regexp"
	"strings"
)

// fate is what is known of a message at Meta.
type fate uint8

const (
	// unknown: it may have been sent.
	unknown fate = iota
	// refused: it was not sent.
	refused
	// accepted: Meta gave it an id.
	accepted
)

// upstreamParams are the params of GW_001: what Meta said of the error, where it
// said so, and whether to send again is safe.
type upstreamParams struct {
	Code    *int   `json:"meta_code,omitempty"`
	Subcode *int   `json:"meta_subcode,omitempty"`
	Type    string `json:"meta_type,omitempty"`
	// Status is the HTTP status of Meta's answer.
	Status  int    `json:"meta_status,omitempty"`
	Details string `json:"meta_details,omitempty"`
	TraceID string `json:"fbtrace_id,omitempty"`
	// RetrySafe is true only where the message cannot have been sent.
	RetrySafe bool `json:"retry_safe"`
}

// unsureCodes are Meta's errors that say that something failed and not what: the
// message may have been on its way by then. (Meta's error codes 1, 2 and 131000:
// "unknown", "temporary", "something went wrong".)
var unsureCodes = map[int]bool{1: true, 2: true, 131000: true}

// metaAnswer is what the gateway reads of Meta's JSON.
type metaAnswer struct {
	Messages []struct {
		ID string `json:"id"`
	} `json:"messages"`
	Success bool       `json:"success"`
	Error   *metaError `json:"error"`
}

// metaError is Meta's error object.
type metaError struct {
	Message   string `json:"message"`
	Type      string `json:"type"`
	Code      *int   `json:"code"`
	Subcode   *int   `json:"error_subcode"`
	ErrorData struct {
		Details string `json:"details"`
	} `json:"error_data"`
	TraceID string `json:"fbtrace_id"`
}

// judge reads Meta's answer: the message is accepted, refused, or nobody knows.
// What decides is the JSON; the HTTP status only tells success from the rest,
// because Meta's own pages disagree on it.
func (s *send) judge(r *recorder) *failure {
	body, err := r.decoded()
	if errors.Is(err, errOversize) {
		return s.unclear(metaOversize, r.status)
	}
	var answer metaAnswer
	if err == nil {
		err = parseAnswer(body, &answer)
	}
	switch {
	case err != nil:
		return s.unclear(metaUnclear, r.status)
	case answer.Error != nil && (answer.Error.Code != nil || answer.Error.Message != ""):
		return s.refusedByMeta(answer.Error, r.status)
	case r.status != http.StatusOK:
		return s.unclear(metaUnclear, r.status)
	case s.message.receipt && answer.Success:
	case !s.message.receipt && len(answer.Messages) > 0 && answer.Messages[0].ID != "":
		s.messageID = answer.Messages[0].ID
	default:
		return s.unclear(metaUnclear, r.status)
	}
	s.fate, s.answer = accepted, body
	return nil
}

// parseAnswer reads JSON. A member of another type than expected is passed over:
// an error must not go unrecognised because its trace id is a number.
func parseAnswer(body []byte, answer *metaAnswer) error {
	err := json.Unmarshal(body, answer)
	if errors.As(err, new(*json.UnmarshalTypeError)) {
		return nil
	}
	return err
}

// unclear is the failure for an answer that does not tell the message's fate.
func (s *send) unclear(description string, status int) *failure {
	f := upstreamFailed.because(description)
	f.params = &upstreamParams{Status: status}
	f.cause = errors.New(description)
	return f
}

// refusedByMeta is the failure for an error of Meta's.
func (s *send) refusedByMeta(e *metaError, status int) *failure {
	s.fate = refused
	description := s.mask(e.Message)
	if description == "" {
		description = "Meta refused the message without saying why."
	}
	f := upstreamFailed.because(description)
	f.params = &upstreamParams{
		Code:      e.Code,
		Subcode:   e.Subcode,
		Type:      s.mask(e.Type),
		Status:    status,
		Details:   s.mask(e.ErrorData.Details),
		TraceID:   s.mask(e.TraceID),
		RetrySafe: e.Code != nil && !unsureCodes[*e.Code],
	}
	return f
}

// masked stands in for a secret.
const masked = "***"

// looksSecret is what Meta's access tokens and our API keys look like.
var looksSecret = regexp.MustCompile(`EAA[0-9A-Za-z]{8,}|[ps]k_[0-9A-Za-z]{8,}`)

// mask takes tokens and keys out of a text of Meta's: those of this request,
// and whatever looks like one.
func (s *send) mask(text string) string {
	text = maskSecret(text, s.grant.token)
	text = maskSecret(text, string(s.key))
	if strings.Contains(text, "EAA") || strings.Contains(text, "k_") {
		text = looksSecret.ReplaceAllString(text, masked)
	}
	return text
}

// maskSecret replaces every occurrence of secret in text, and of its beginning
// where it is cut off: Meta shortens tokens that it repeats.
func maskSecret(text, secret string) string {
	const recognisable = 8
	if len(secret) < recognisable || !strings.Contains(text, secret[:recognisable]) {
		return text
	}
	var out strings.Builder
	for {
		i := strings.Index(text, secret[:recognisable])
		if i < 0 {
			out.WriteString(text)
			return out.String()
		}
		n := recognisable
		for n < len(secret) && i+n < len(text) && text[i+n] == secret[n] {
			n++
		}
		out.WriteString(text[:i])
		out.WriteString(masked)
		text = text[i+n:]
	}
}

// errOversize means that an answer is over [maxAnswerSize].
var errOversize = errors.New("the answer is too large")

// recorder is a ResponseWriter that keeps an answer.
type recorder struct {
	header   http.Header
	status   int // 0 until there is one
	body     bytes.Buffer
	overflow bool
}

// Header implements http.ResponseWriter.
func (r *recorder) Header() http.Header { return r.header }

// WriteHeader implements http.ResponseWriter. What is informational is not the answer.
func (r *recorder) WriteHeader(status int) {
	if r.status == 0 && status >= http.StatusOK {
		r.status = status
	}
}

// Write implements http.ResponseWriter. It fails once the answer is too large,
// which ends the exchange.
func (r *recorder) Write(p []byte) (int, error) {
	r.WriteHeader(http.StatusOK)
	if r.body.Len()+len(p) > maxAnswerSize {
		r.overflow = true
		return 0, errOversize
	}
	return r.body.Write(p)
}

// decoded returns the body without its content coding. None was asked for, but
// a message accepted in a compressed answer is accepted all the same.
func (r *recorder) decoded() ([]byte, error) {
	switch coding := strings.ToLower(r.header.Get("Content-Encoding")); coding {
	case "", "identity":
		return r.body.Bytes(), nil
	case "gzip":
		reader, err := gzip.NewReader(&r.body)
		if err != nil {
			return nil, err
		}
		body, err := io.ReadAll(io.LimitReader(reader, maxAnswerSize+1))
		if err == nil && len(body) > maxAnswerSize {
			err = errOversize
		}
		return body, err
	default:
		return nil, errors.New("unknown content coding")
	}
}
