package core

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/connexease/caddy-whatsapp-gateway/store"
)

const (
	maxIdle         = 64
	idleTimeout     = 90 * time.Second
	keepAlive       = 15 * time.Second
	maxHeaderBytes  = 64 << 10
	maxDrained      = 64 << 10 // of an answer that nobody wants
	pathLedger      = "/v1/ledger-entries"
	contentTypeJSON = "application/json"
)

// newTransport takes no proxy from the environment: what it carries are the
// tenants' credentials, and the way to the Core Service is to be seen in the
// configuration. How long a dial, a handshake or an answer may take is bounded
// by the exchange as a whole.
func newTransport() *http.Transport {
	return &http.Transport{
		DialContext:            (&net.Dialer{KeepAlive: keepAlive}).DialContext,
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12},
		ForceAttemptHTTP2:      true, // a dialer of our own would turn it off
		MaxIdleConns:           maxIdle,
		MaxIdleConnsPerHost:    maxIdle,
		IdleConnTimeout:        idleTimeout,
		MaxResponseHeaderBytes: maxHeaderBytes,
		// A small answer may be a large one under compression.
		DisableCompression: true,
	}
}

// route is a request of the contract as errors name it, without what is in it.
type route string

const (
	grants   route = "GET /v1/grants/{digest}"
	apps     route = "GET /v1/apps"
	accounts route = "GET /v1/accounts/{id}"
	ledger   route = "POST " + pathLedger
)

func (r route) because(err error) error { return fmt.Errorf("core service: %s: %w", r, err) }

// corrupt is [store.ErrCorrupt] with a reason that is our own words.
func (r route) corrupt(reason error) error {
	return r.because(fmt.Errorf("%w: %w", store.ErrCorrupt, reason))
}

var (
	errOversize       = fmt.Errorf("an answer of more than %d bytes", MaxAnswer)
	errNotJSON        = errors.New("an answer that is not JSON")
	errAnotherAccount = errors.New("the answer is about another account")
	errClosed         = errors.New("the client was closed")
	errBroken         = errors.New("the exchange broke off, or was no HTTP")
)

// exchange sends one request, a POST where there is a body, and returns the answer.
//
// It uses the transport itself instead of an http.Client: redirects are not
// followed, there are no cookies, and no error has the URL in it.
func (c *Client) exchange(ctx context.Context, r route, path string, body []byte) ([]byte, error) {
	within, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	defer context.AfterFunc(c.open, cancel)()

	request, err := c.request(within, path, body)
	if err != nil {
		return nil, r.because(errors.New("the URL is not valid"))
	}
	answer, err := c.transport.RoundTrip(request)
	if err != nil {
		return nil, r.because(c.cause(ctx, within, err))
	}
	defer answer.Body.Close()
	if err := r.judge(answer.StatusCode); err != nil {
		_, _ = io.CopyN(io.Discard, answer.Body, maxDrained) // so that the connection can be used again
		return nil, err
	}
	document, err := io.ReadAll(io.LimitReader(answer.Body, MaxAnswer+1))
	switch {
	case len(document) > MaxAnswer:
		return nil, r.corrupt(errOversize)
	case err != nil:
		return nil, r.because(c.cause(ctx, within, err))
	case r == ledger && len(bytes.TrimSpace(document)) > 0 && !jsontext.Value(document).IsValid():
		// Whatever says 200 with a page of HTML has not stored anything.
		return nil, r.corrupt(errNotJSON)
	}
	return document, nil
}

func (c *Client) request(ctx context.Context, path string, body []byte) (*http.Request, error) {
	method, content := http.MethodGet, io.Reader(http.NoBody)
	if body != nil {
		method, content = http.MethodPost, bytes.NewReader(body)
	}
	request, err := http.NewRequestWithContext(ctx, method, c.base+path, content)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Authorization", "Bearer "+c.token)
	request.Header.Set("Accept", contentTypeJSON)
	request.Header.Set("User-Agent", c.userAgent)
	if body != nil {
		request.Header.Set("Content-Type", contentTypeJSON)
	}
	return request, nil
}

// judge says what a status means. Only 200 tells that entries are stored, while
// any 2xx is taken for the answer to a look-up.
func (r route) judge(status int) error {
	switch {
	case status == http.StatusOK, r != ledger && status/100 == 2:
		return nil
	case r != ledger && status == http.StatusNotFound:
		return r.because(store.ErrNotFound)
	}
	return r.because(fmt.Errorf("status %d", status))
}

// cause is what may be said of a failed exchange. Errors of package net/http may
// repeat what the other side wrote, so that only kinds that do not are passed on.
func (c *Client) cause(asked, within context.Context, err error) error {
	switch {
	case c.open.Err() != nil:
		return errClosed
	case asked.Err() != nil:
		return asked.Err()
	case within.Err() != nil:
		return fmt.Errorf("no answer within %v", c.timeout)
	case errors.Is(err, http.ErrSchemeMismatch):
		return http.ErrSchemeMismatch
	}
	if network := (*net.OpError)(nil); errors.As(err, &network) {
		return network
	}
	if certificate := (*tls.CertificateVerificationError)(nil); errors.As(err, &certificate) {
		return certificate
	}
	return errBroken
}
