package metasim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
)

const (
	// maxAtOnce is how many webhooks are under way at the same time.
	maxAtOnce = 16

	// maxPending is how many webhooks wait at most. What waits takes some
	// hundred bytes, because a body is made when it is needed.
	maxPending = 100_000

	// maxAttempts is how often a webhook is sent before it is given up, within
	// two minutes where every attempt fails at once. Meta goes on for days.
	maxAttempts = 12

	// firstRetryDelay doubles with every attempt, up to maxRetryDelay.
	firstRetryDelay = 100 * time.Millisecond
	maxRetryDelay   = 30 * time.Second

	// webhookTimeout is how long an answer may take, to its last byte.
	webhookTimeout = 10 * time.Second

	// maxWebhookAnswer is how much of an answer is read, in bytes. Only its
	// status counts.
	maxWebhookAnswer = 64 << 10
)

// errNoAnswer stands for every error of the HTTP client: their texts contain
// the URL.
var errNoAnswer = errors.New("no answer")

// couriers has the courier of this process, under processCourier, for as long
// as a configuration has a simulator.
var couriers = caddy.NewUsagePool()

// processCourier is the only key of couriers.
const processCourier = "process"

// courier brings webhooks to where they belong. There is one in a process, so
// that a reload of the configuration loses nothing that waits. Its goroutines
// exist only while there is something to bring. It is safe for concurrent use.
type courier struct {
	client *http.Client
	// limit, attempts and firstDelay are the constants above, but in tests.
	limit, attempts int
	firstDelay      time.Duration

	// open ends when the courier is closed.
	open    context.Context
	close   context.CancelFunc
	workers sync.WaitGroup

	mu     sync.Mutex
	closed bool
	atWork int
	// queue has webhooks that are brought one after the other by one worker.
	queue  [][]delivery
	counts webhookCounts
}

// delivery is one webhook on its way.
type delivery struct {
	to *Webhook
	// body makes the same bytes whenever it is called.
	body     func() []byte
	attempts int
}

// webhookCounts says what became of the webhooks.
type webhookCounts struct {
	// Sent were answered with a status of 2xx.
	Sent int `json:"sent"`
	// Retried are the attempts that were not the first one of their webhook.
	Retried int `json:"retried"`
	// Failed were given up, or dropped because too many were waiting.
	Failed int `json:"failed"`
	// Pending are under way or waiting.
	Pending int `json:"pending"`
	// LastError says why the last attempt that failed did so.
	LastError string `json:"last_error,omitempty"`
}

func newCourier() *courier {
	c := &courier{
		client: &http.Client{
			// No proxy is taken from the environment: the zero Transport has none.
			Transport:     &http.Transport{MaxIdleConnsPerHost: maxAtOnce, IdleConnTimeout: time.Minute, DisableCompression: true},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
			Timeout:       webhookTimeout,
		},
		limit: maxPending, attempts: maxAttempts, firstDelay: firstRetryDelay,
	}
	c.open, c.close = context.WithCancel(context.Background())
	return c
}

// sharedCourier returns the courier of this process; who gets it gives it back
// with releaseCourier.
func sharedCourier() (*courier, error) {
	pooled, _, err := couriers.LoadOrNew(processCourier, func() (caddy.Destructor, error) { return newCourier(), nil })
	if err != nil {
		return nil, err
	}
	return pooled.(*courier), nil
}

// releaseCourier closes the courier of this process if nobody else has it.
func releaseCourier() error {
	_, err := couriers.Delete(processCourier)
	return err
}

// bring queues webhooks that leave in this order, and tells whether there was
// room for them. One that has to be repeated holds up none of the others.
func (c *courier) bring(sequence ...delivery) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || c.counts.Pending+len(sequence) > c.limit {
		c.counts.Failed += len(sequence)
		c.counts.LastError = "too many webhooks are waiting"
		return false
	}
	c.counts.Pending += len(sequence)
	c.enqueue(sequence)
	return true
}

// enqueue needs the lock.
func (c *courier) enqueue(sequence []delivery) {
	c.queue = append(c.queue, sequence)
	if c.atWork < maxAtOnce {
		c.atWork++
		c.workers.Go(c.work)
	}
}

// work brings what is queued until there is nothing more.
func (c *courier) work() {
	for {
		sequence, ok := c.next()
		if !ok {
			return
		}
		for _, d := range sequence {
			c.deliver(d)
		}
	}
}

// next takes the oldest part of the queue, or ends the worker's work.
func (c *courier) next() ([]delivery, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || len(c.queue) == 0 {
		c.atWork--
		return nil, false
	}
	first := c.queue[0]
	c.queue[0] = nil
	c.queue = c.queue[1:]
	return first, true
}

// deliver makes one attempt, and sees to the next one where it fails.
func (c *courier) deliver(d delivery) {
	status, err := c.post(c.open, d.to, d.body())
	if err == nil && status/100 != 2 {
		err = fmt.Errorf("status %d", status)
	}
	d.attempts++
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return
	}
	if err == nil {
		c.counts.Pending--
		c.counts.Sent++
		return
	}
	c.counts.LastError = err.Error()
	if d.attempts >= c.attempts {
		c.counts.Pending--
		c.counts.Failed++
		return
	}
	// A timer that outlives the courier finds it closed.
	time.AfterFunc(retryDelay(c.firstDelay, d.attempts), func() { c.retry(d) })
}

// retry queues a webhook whose delay is over.
func (c *courier) retry(d delivery) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return
	}
	c.counts.Retried++
	c.enqueue([]delivery{d})
}

// retryDelay is how long to wait after so many attempts.
func retryDelay(first time.Duration, attempts int) time.Duration {
	delay := first
	for range attempts - 1 {
		delay = min(2*delay, maxRetryDelay)
	}
	return delay
}

// post sends one webhook and returns the status of the answer, or errNoAnswer.
func (c *courier) post(ctx context.Context, to *Webhook, body []byte) (int, error) {
	r, err := to.request(ctx, body)
	if err != nil {
		return 0, err
	}
	resp, err := c.client.Do(r)
	if err != nil {
		return 0, errNoAnswer
	}
	defer resp.Body.Close()
	// The rest of the answer makes no difference, but the connection can be
	// used again once it is read.
	_, _ = io.CopyN(io.Discard, resp.Body, maxWebhookAnswer)
	return resp.StatusCode, nil
}

// tell returns what was counted.
func (c *courier) tell() webhookCounts {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.counts
}

// forget counts anew; what is pending stays so.
func (c *courier) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.counts = webhookCounts{Pending: c.counts.Pending}
}

// Destruct closes the courier at once: what waits is lost, and no goroutine is
// left.
func (c *courier) Destruct() error {
	c.mu.Lock()
	c.closed, c.queue = true, nil
	c.mu.Unlock()
	c.close()
	c.workers.Wait()
	c.client.CloseIdleConnections()
	return nil
}

// Interface guards
var (
	_ caddy.Destructor = (*courier)(nil)
)
