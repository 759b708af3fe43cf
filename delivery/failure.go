package delivery

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// failure is why an attempt failed. Its reason is for the operator; it has
// nothing in it of what the endpoint or the app may keep to themselves, and is
// at most maxReason long.
type failure struct {
	reason string
	// retryAfter is how long the endpoint asked to wait.
	retryAfter time.Duration
	// gone means that the endpoint says there is none any more.
	gone bool
}

// maxReason bounds a failure's reason, in bytes; all of them are ASCII.
const maxReason = 200

// statusFailure is an answer that is not 2xx.
func statusFailure(answer *http.Response, now time.Time) *failure {
	return &failure{
		reason:     "status " + strconv.Itoa(answer.StatusCode),
		retryAfter: retryAfter(answer.Header, now),
		gone:       answer.StatusCode == http.StatusGone,
	}
}

// reasons are what errors are called, the first that matches.
var reasons = []struct {
	matches func(error) bool
	reason  string
}{
	{is(errNotPublic), errNotPublic.Error()},
	{is(syscall.ECONNREFUSED), "connection refused"},
	{is(syscall.ECONNRESET, syscall.EPIPE), "connection reset"},
	{is(syscall.EHOSTUNREACH, syscall.ENETUNREACH, syscall.EADDRNOTAVAIL, syscall.EAFNOSUPPORT), "address cannot be reached"},
	{unknownName, "name not found"},
	{as[*net.DNSError], "name could not be looked up"},
	{as[x509.UnknownAuthorityError], "TLS: certificate is signed by an unknown authority"},
	{as[x509.HostnameError], "TLS: certificate is for another name"},
	{expired, "TLS: certificate has expired or is not valid yet"},
	{as[*tls.CertificateVerificationError], "TLS: certificate is not valid"},
	{as[tls.RecordHeaderError], "TLS: the endpoint does not speak it"},
	{handshake, "TLS: handshake failed"},
	{is(io.EOF, io.ErrUnexpectedEOF, net.ErrClosed), "connection closed without an answer"},
}

// describe returns the reason of an error of the transport. Text of the error's
// is not taken over: it may repeat what the endpoint sent.
func describe(err error, timeout time.Duration) string {
	if late(err) {
		return "no answer within " + timeout.String()
	}
	for _, r := range reasons {
		if r.matches(err) {
			return r.reason
		}
	}
	return "no valid answer"
}

// late tells whether an attempt took too long. Timeouts of looking up, dialling
// and shaking hands have errors of their own.
func late(err error) bool {
	var timeout net.Error
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) ||
		errors.As(err, &timeout) && timeout.Timeout()
}

func is(targets ...error) func(error) bool {
	return func(err error) bool {
		for _, target := range targets {
			if errors.Is(err, target) {
				return true
			}
		}
		return false
	}
}

func as[E error](err error) bool {
	var target E
	return errors.As(err, &target)
}

func unknownName(err error) bool {
	var lookup *net.DNSError
	return errors.As(err, &lookup) && lookup.IsNotFound
}

// handshake tells whether this is one of crypto/tls's errors that have no type:
// an alert, from the other side or to it, or a text of its own.
func handshake(err error) bool {
	var alert *net.OpError
	return errors.As(err, &alert) && (alert.Op == "remote error" || alert.Op == "local error") ||
		strings.HasPrefix(err.Error(), "tls: ")
}

func expired(err error) bool {
	var certificate x509.CertificateInvalidError
	return errors.As(err, &certificate) && certificate.Reason == x509.Expired
}
