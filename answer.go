package gateway

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
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
// message may have been on its way by then. (Meta's error codes, the row
// "unknown, service down, maintenance".)
var unsureCodes = map[int]bool{1: true, 2: true, 131000: true, 131016: true, 131057: true, 133004: true}

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
	Code      number `json:"code"`
	Subcode   number `json:"error_subcode"`
	ErrorData struct {
		Details string `json:"details"`
	} `json:"error_data"`
	TraceID string `json:"fbtrace_id"`
}

// number is a whole number, or nil for anything else.
type number struct{ *int }

// UnmarshalJSON implements json.Unmarshaler. It never fails.
func (n *number) UnmarshalJSON(b []byte) error {
	if i, err := strconv.Atoi(string(b)); err == nil {
		n.int = &i
	}
	return nil
}

// judge reads Meta's answer: the message is accepted, refused, or nobody knows.
// What decides is the JSON; the HTTP status only tells success from the rest,
// because Meta's own pages disagree on it.
func (s *send) judge(r *recorder) *failure {
	body, err := r.decoded()
	if errors.Is(err, errOversize) {
		return unclear(metaOversize, r.status)
	}
	if err == nil && r.status == http.StatusOK && !s.message.receipt {
		if id := plainAcceptance(body); id != "" {
			s.fate, s.answer, s.messageID = accepted, body, id
			return nil
		}
	}
	var answer metaAnswer
	if err == nil {
		err = parseAnswer(body, &answer)
	}
	switch {
	case err != nil:
		return unclear(metaUnclear, r.status)
	case r.status == http.StatusOK && s.isAcceptance(&answer):
		s.fate, s.answer = accepted, body
		return nil
	case answer.Error != nil && answer.Error.Code.int != nil:
		return s.refusedByMeta(answer.Error, r.status)
	default:
		return unclear(metaUnclear, r.status)
	}
}

// isAcceptance tells whether an answer with status 200 accepts the message.
func (s *send) isAcceptance(answer *metaAnswer) bool {
	if s.message.receipt {
		return answer.Success && answer.Error == nil
	}
	if len(answer.Messages) > 0 {
		s.messageID = answer.Messages[0].ID
	}
	return s.messageID != ""
}

// plainAcceptance returns the id of the first message in an acceptance as Meta
// writes them, at a fraction of the cost of decoding it. It returns nothing for
// all that another reader might understand in another way: that is looked at by
// [parseAnswer].
func plainAcceptance(body []byte) (id string) {
	s := scanner{text: body}
	plain := utf8.Valid(body)
	// only passes over a value, with read where its name is this one.
	only := func(name jsontext.Value, wanted string, read func() error) error {
		switch {
		case string(name[1:len(name)-1]) == wanted:
			return read()
		case bytes.IndexByte(name, '\\') >= 0 || strings.EqualFold(string(name[1:len(name)-1]), wanted):
			plain = false
		}
		return s.skip(maxNesting)
	}
	messages, ids := 0, 0
	err := s.object(func(name jsontext.Value) error {
		return only(name, "messages", func() error {
			messages++
			first := true
			return s.array(func() error {
				if !first {
					return s.skip(maxNesting)
				}
				first = false
				return s.object(func(name jsontext.Value) error {
					return only(name, "id", func() error {
						ids++
						value, ok := s.quoted()
						if !ok {
							return errNotJSON
						}
						id = string(unquoted(value))
						return nil
					})
				})
			})
		})
	})
	if err != nil || !s.ended() || !plain || messages != 1 || ids != 1 {
		return ""
	}
	return id
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
func unclear(description string, status int) *failure {
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
		Code:      e.Code.int,
		Subcode:   e.Subcode.int,
		Type:      s.mask(e.Type),
		Status:    status,
		Details:   s.mask(e.ErrorData.Details),
		TraceID:   s.mask(e.TraceID),
		RetrySafe: !unsureCodes[*e.Code.int],
	}
	return f
}

// masked stands in for a secret.
const masked = "***"

// looksSecret is what Meta's access tokens and our API keys look like.
var looksSecret = regexp.MustCompile(`\b(?:EAA[0-9A-Za-z]{16,}|[ps]k_[0-9A-Za-z]{30,})`)

// mask takes tokens and keys out of a text of Meta's: those of this request,
// whole or in part, and whatever looks like one.
func (s *send) mask(text string) string {
	text = maskSecret(text, s.grant.token)
	text = maskSecret(text, string(s.key))
	if strings.Contains(text, "EAA") || strings.Contains(text, "k_") {
		text = looksSecret.ReplaceAllString(text, masked)
	}
	return text
}

// recognisable is how long a part of a secret has to be to count as one, in bytes.
const recognisable = 10

// maskSecret replaces every part of secret in text: Meta shortens and breaks up
// the tokens that it repeats.
func maskSecret(text, secret string) string {
	if !sharesPart(text, secret) {
		return text
	}
	var out strings.Builder
	done := 0
	for i := 0; i+recognisable <= len(text); {
		if !strings.Contains(secret, text[i:i+recognisable]) {
			i++
			continue
		}
		end := i + recognisable
		for end < len(text) && strings.Contains(secret, text[i:end+1]) {
			end++
		}
		out.WriteString(text[done:i])
		out.WriteString(masked)
		i, done = end, end
	}
	out.WriteString(text[done:])
	return out.String()
}

// sharesPart tells, cheaply, whether text may have a recognisable part of
// secret: such a part covers a whole block of half its length.
func sharesPart(text, secret string) bool {
	const block = recognisable / 2
	for i := 0; i+block <= len(text); i += block {
		if strings.Contains(secret, text[i:i+block]) {
			return true
		}
	}
	return false
}

// errOversize means that an answer is over [maxAnswerSize].
var errOversize = errors.New("the answer is too large")

// recorder is a ResponseWriter that keeps an answer. It has room for a usual one.
type recorder struct {
	header   http.Header
	status   int // 0 until there is one
	body     []byte
	overflow bool
	room     [256]byte
}

// Header implements http.ResponseWriter. What is set once there is a status is a
// trailer, which nobody gets.
func (r *recorder) Header() http.Header {
	if r.status != 0 {
		return make(http.Header)
	}
	return r.header
}

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
	if len(r.body)+len(p) > maxAnswerSize {
		r.overflow = true
		return 0, errOversize
	}
	if r.body == nil {
		r.body = r.room[:0]
	}
	r.body = append(r.body, p...)
	return len(p), nil
}

// decoded returns the body without its content coding. None was asked for, but
// a message accepted in a compressed answer is accepted all the same.
func (r *recorder) decoded() ([]byte, error) {
	switch coding := strings.ToLower(r.header.Get("Content-Encoding")); coding {
	case "", "identity":
		return r.body, nil
	case "gzip":
		reader, err := gzip.NewReader(bytes.NewReader(r.body))
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
