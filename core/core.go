package core

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

// Client asks the Core Service. Errors of look-ups are [store.ErrNotFound] where
// it knows nothing of the kind (404), [store.ErrCorrupt] where it answered what
// cannot be read, and any other where it could not be asked. None has the token,
// a digest, an id or a word of an answer in it.
//
// Look-ups of the same thing at the same time are one request, which nobody's
// going away ends. Nothing is asked twice: what to do about a failure is the
// caller's to say. (The transport alone sends a request again when the kept
// connection that it chose turns out to have been closed meanwhile. That is
// harmless, as every request here may be repeated.)
//
// Make one with [New]; it is safe for concurrent use.
type Client struct {
	base       string // without a slash at its end
	token      string
	userAgent  string
	timeout    time.Duration
	generation func() uint64
	transport  *http.Transport
	lookUps    singleflight.Group
	open       context.Context // ends when the client is closed
	close      context.CancelFunc
}

// New makes a client from what [Config.Validate] accepts. It does no I/O.
func New(c Config) *Client {
	client := &Client{
		base:       strings.TrimRight(c.URL, "/"),
		token:      c.Token,
		userAgent:  c.UserAgent,
		timeout:    c.Timeout,
		generation: c.Generation,
		transport:  newTransport(),
	}
	if client.timeout == 0 {
		client.timeout = DefaultTimeout
	}
	if client.userAgent == "" {
		client.userAgent = defaultUserAgent
	}
	if client.generation == nil {
		client.generation = func() uint64 { return 0 }
	}
	client.open, client.close = context.WithCancel(context.Background())
	return client
}

// Close ends what is under way and closes all connections.
func (c *Client) Close() {
	c.close()
	c.transport.CloseIdleConnections()
}

// Grant returns what the key with this digest may do.
func (c *Client) Grant(ctx context.Context, digest tenant.KeyDigest) (*tenant.Grant, error) {
	document, err := c.lookUp(ctx, grants, "/v1/grants/"+digest.String())
	if err != nil {
		return nil, err
	}
	grant, err := tenant.ParseGrant(document)
	if err != nil {
		return nil, grants.corrupt(err)
	}
	return grant, nil
}

// AppsWithNumber returns the apps with this phone number id of Meta's; of an
// empty one, none.
func (c *Client) AppsWithNumber(ctx context.Context, phoneNumberID string) ([]tenant.App, error) {
	return c.apps(ctx, "phone_number_id", phoneNumberID)
}

// AppsOfWABA returns the apps of this WhatsApp Business Account of Meta's; of an
// empty one, none.
func (c *Client) AppsOfWABA(ctx context.Context, wabaID string) ([]tenant.App, error) {
	return c.apps(ctx, "waba_id", wabaID)
}

func (c *Client) apps(ctx context.Context, parameter, id string) ([]tenant.App, error) {
	if id == "" {
		return nil, nil
	}
	document, err := c.lookUp(ctx, apps, "/v1/apps?"+url.Values{parameter: {id}}.Encode())
	if err != nil {
		return nil, err
	}
	list, err := tenant.ParseApps(document)
	if err != nil {
		return nil, apps.corrupt(err)
	}
	return list, nil
}

// Account returns what was ever credited to an account.
func (c *Client) Account(ctx context.Context, id tenant.AccountID) (store.Total, error) {
	// These would be another path, whatever way they are written.
	if id == "" || id == "." || id == ".." {
		return store.Total{}, accounts.because(store.ErrNotFound)
	}
	document, err := c.lookUp(ctx, accounts, "/v1/accounts/"+url.PathEscape(string(id)))
	if err != nil {
		return store.Total{}, err
	}
	total, err := parseTotal(document)
	if err != nil {
		return store.Total{}, accounts.corrupt(err)
	}
	if total.Account != id {
		return store.Total{}, accounts.corrupt(errAnotherAccount)
	}
	return total, nil
}

// Report sends ledger entries, at most [MaxEntries], in one request. A nil error
// means that all of them are stored. After any other they may be stored or not,
// and are to be sent again.
func (c *Client) Report(ctx context.Context, entries []store.ReportedEntry) error {
	body, err := batch(entries)
	if err != nil {
		return ledger.because(err)
	}
	_, err = c.exchange(ctx, ledger, pathLedger, body)
	return err
}

// lookUp gets a path's answer, together with all others who want it now. The
// bytes are everybody's; each makes records of its own from them.
func (c *Client) lookUp(ctx context.Context, r route, path string) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, r.because(err)
	}
	key := strconv.FormatUint(c.generation(), 36) + " " + path
	result := c.lookUps.DoChan(key, func() (any, error) {
		return c.exchange(context.WithoutCancel(ctx), r, path, nil)
	})
	select {
	case answer := <-result:
		document, _ := answer.Val.([]byte)
		return document, answer.Err
	case <-ctx.Done():
		return nil, r.because(ctx.Err())
	}
}
