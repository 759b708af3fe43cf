package metasim

import (
	"bytes"
	"compress/gzip"
	"crypto/tls"
	"encoding/json"
	"net/http"
	"strings"
	"time"
)

// resetUnread is the fate that a phone number ID can choose too.
const resetUnread = "9001"

// giantSize is how large a giant answer is, in bytes, at the least.
const giantSize = 10 << 20

// fate is what becomes of a message.
type fate struct {
	// digits are the last four of the recipient.
	digits string
	// accepted tells whether the message counts as accepted.
	accepted bool
	// meaning is the line of the package documentation.
	meaning string
	answer  func(*exchange) error
}

// fates is the table of the package documentation. The first one is
// everybody's whose digits are not in it.
var fates = []fate{
	{"0000", true, "as is every recipient whose digits are not in this table", succeed},

	{"0190", false, "code 190, and the texts of the error contain the access token of the request", leakToken},
	{"0429", false, "code 130429, throttled", failWith(errThrottled)},
	{"1016", false, "code 131016, Meta is down: an error with every optional member", failWith(errUnavailable)},
	{"1026", false, "code 131026, not on WhatsApp", failWith(errUndeliverable)},
	{"1047", false, "code 131047, more than 24 hours since the user wrote", failWith(errOutsideWindow)},
	{"1052", false, "code 131052, media cannot be downloaded", failWith(errMediaDownload)},
	{"1053", false, "code 131053, media cannot be uploaded", failWith(errMediaUpload)},
	{"2001", false, "code 132001, unknown template", failWith(errUnknownTemplate)},

	{"8001", true, "delivered twice", succeed},
	{"8002", true, "read without delivered", succeed},
	{"8003", true, "never delivered", succeed},
	{"8004", true, "not billable", succeed},
	{"8005", true, "out of order: read, then delivered, then sent", succeed},
	{"8006", true, "failed after sent", succeed},
	{"8007", true, "delivered after failed", succeed},

	{resetUnread, false, "the connection is reset before the request was read", reset},
	{"9002", false, "the connection is reset after the request was read", reset},
	{"9003", false, "no answer until the client goes away", neverAnswer},
	{"9004", false, "status 500 with an HTML page", answerHTML},
	{"9005", false, "status 200 without a message id", answerWithoutID},
	{"9006", false, "status 200 with a body that is not JSON", answerGarbage},

	{"9102", true, "the connection is reset after the request was read", reset},
	{"9103", true, "no answer until the client goes away", neverAnswer},
	{"9107", true, "the answer is compressed with gzip, asked for or not", answerGzip},
	{"9108", true, "the answer has 10 MiB", answerGiant},
	{"9109", true, "the answer takes as long as slow_answer says", answerSlowly},
	{"9110", true, "the answer ends in the middle of its body", answerHalf},
}

// fateByDigits is the table by its key.
var fateByDigits = func() map[string]fate {
	m := make(map[string]fate, len(fates))
	for _, f := range fates {
		m[f.digits] = f
	}
	return m
}()

// fateOf is the fate of a message to this phone number or user id.
func fateOf(address string) fate {
	digits := onlyDigits(address)
	if f, ok := fateByDigits[digits[max(0, len(digits)-4):]]; ok {
		return f
	}
	return fates[0]
}

// onlyDigits is s without what people put between digits.
func onlyDigits(s string) string {
	return strings.Map(func(c rune) rune {
		if c < '0' || c > '9' {
			return -1
		}
		return c
	}, s)
}

func succeed(x *exchange) error { return x.answer(http.StatusOK, x.acceptance()) }

func failWith(e graphError) func(*exchange) error {
	return func(x *exchange) error { return x.fail(e) }
}

func leakToken(x *exchange) error { return x.fail(tokenInError(x.token)) }

// reset ends the connection without an answer. The writer is taken out of its
// wrappers first, because a connection that comes from Caddy's access log has
// no way to the TCP socket.
func reset(x *exchange) error {
	w := x.w
	for {
		wrapper, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			break
		}
		w = wrapper.Unwrap()
	}
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		// HTTP/2 shares its connection; the server resets the stream instead.
		panic(http.ErrAbortHandler)
	}
	if encrypted, ok := conn.(*tls.Conn); ok {
		conn = encrypted.NetConn() // whose Close says no goodbye
	}
	if socket, ok := conn.(interface{ SetLinger(seconds int) error }); ok {
		_ = socket.SetLinger(0) // makes Close send RST instead of FIN
	}
	_ = conn.Close()
	return nil
}

// neverAnswer relies on the body having been read to its end: only then does
// the server notice that a client of HTTP/1 goes away.
func neverAnswer(x *exchange) error {
	<-x.r.Context().Done()
	return nil
}

func answerSlowly(x *exchange) error {
	timer := time.NewTimer(x.slowAnswer)
	defer timer.Stop()
	select {
	case <-timer.C:
		return succeed(x)
	case <-x.r.Context().Done():
		return nil
	}
}

func answerHTML(x *exchange) error {
	x.w.Header().Set("Content-Type", "text/html; charset=utf-8")
	x.w.WriteHeader(http.StatusInternalServerError)
	_, _ = x.w.Write([]byte("<!DOCTYPE html>\n<html lang=\"en\"><head><title>Error</title></head>" +
		"<body><h1>Sorry, something went wrong.</h1></body></html>\n"))
	return nil
}

func answerWithoutID(x *exchange) error {
	body := x.acceptance()
	body.Messages = []sentMessage{}
	return x.answer(http.StatusOK, body)
}

func answerGarbage(x *exchange) error {
	x.setHeaders(newTraceID(), 0)
	x.w.Header().Set("Content-Type", "application/json; charset=UTF-8")
	_, _ = x.w.Write([]byte("{\"messaging_product\":\"whatsapp\",\"messages\":[{\"id\":\"wamid.\xff\x00"))
	return nil
}

func answerGzip(x *exchange) error {
	var compressed bytes.Buffer
	writer := gzip.NewWriter(&compressed)
	if err := json.NewEncoder(writer).Encode(x.acceptance()); err != nil {
		return err
	}
	if err := writer.Close(); err != nil {
		return err
	}
	x.setHeaders(newTraceID(), 0)
	x.w.Header().Set("Content-Type", "application/json; charset=UTF-8")
	x.w.Header().Set("Content-Encoding", "gzip")
	_, _ = x.w.Write(compressed.Bytes())
	return nil
}

// answerGiant writes a good answer whose id comes early and whose end comes
// late, without Content-Length.
func answerGiant(x *exchange) error {
	body, err := json.Marshal(x.acceptance())
	if err != nil {
		return err
	}
	x.setHeaders(newTraceID(), 0)
	x.w.Header().Set("Content-Type", "application/json; charset=UTF-8")
	_, _ = x.w.Write(append(body[:len(body)-1], `,"padding":"`...))
	padding := bytes.Repeat([]byte("x"), 64<<10)
	for range giantSize / len(padding) {
		if _, err := x.w.Write(padding); err != nil {
			return nil // the client has had enough
		}
	}
	_, _ = x.w.Write([]byte(`"}`))
	return nil
}

// answerHalf writes half of a good answer, up to the id and no further, and
// breaks off.
func answerHalf(x *exchange) error {
	body, err := json.Marshal(x.acceptance())
	if err != nil {
		return err
	}
	x.setHeaders(newTraceID(), 0)
	x.w.Header().Set("Content-Type", "application/json; charset=UTF-8")
	_, _ = x.w.Write(body[:bytes.Index(body, []byte("wamid."))])
	_ = http.NewResponseController(x.w).Flush()
	panic(http.ErrAbortHandler)
}
