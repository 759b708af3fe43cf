package caddytest

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
)

// upstream is a Meta that does what the simulator does not. It speaks HTTP/1
// by hand, so that it can break it, and does for each phone number ID what a
// test says.
type upstream struct {
	// address is host and port.
	address string

	mu       sync.Mutex
	scripts  map[string]script
	requests map[string][]wireRequest
}

// script answers one request on its connection. The connection is used again
// where it returns true.
type script func(c net.Conn) (keepAlive bool)

// wireRequest is a request as it came over the wire.
type wireRequest struct {
	// line is the first line, header the lines behind it.
	line   string
	header []string
	body   string
}

// startUpstream starts an upstream that ends with the test.
func startUpstream(t testing.TB) *upstream {
	t.Helper()
	u := &upstream{scripts: make(map[string]script), requests: make(map[string][]wireRequest)}
	u.address = listen(t, u.serve)
	return u
}

// listen serves connections until the test ends, each on a goroutine of its
// own, and closes them then. It returns the address.
func listen(t testing.TB, serve func(net.Conn)) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var open []net.Conn
	var running sync.WaitGroup
	running.Go(func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return // the test has ended
			}
			mu.Lock()
			open = append(open, c)
			mu.Unlock()
			running.Go(func() {
				defer c.Close()
				serve(c)
			})
		}
	})
	t.Cleanup(func() {
		listener.Close()
		mu.Lock()
		for _, c := range open {
			c.Close()
		}
		mu.Unlock()
		running.Wait()
	})
	return listener.Addr().String()
}

// play has the upstream answer the sends of a tenant.
func (u *upstream) play(who tenant, s script) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.scripts[who.phone] = s
}

// received returns the requests of a tenant that came in whole.
func (u *upstream) received(who tenant) []wireRequest {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.requests[who.phone]
}

// wantSends fails the test unless so many sends of a tenant have come in.
func (u *upstream) wantSends(t testing.TB, who tenant, want int) {
	t.Helper()
	if got := len(u.received(who)); got != want {
		t.Errorf("%d sends have come in, want %d", got, want)
	}
}

// serve answers the requests of one connection.
func (u *upstream) serve(c net.Conn) {
	in := bufio.NewReader(c)
	for {
		request, phone, err := readWire(in)
		if err != nil {
			return
		}
		u.mu.Lock()
		u.requests[phone] = append(u.requests[phone], request)
		answer := u.scripts[phone]
		u.mu.Unlock()
		if answer == nil || !answer(c) {
			return
		}
	}
}

// readWire reads one request and the phone number ID in its path.
func readWire(in *bufio.Reader) (request wireRequest, phone string, err error) {
	var head bytes.Buffer
	for !bytes.HasSuffix(head.Bytes(), []byte("\r\n\r\n")) {
		line, err := in.ReadString('\n')
		if err != nil {
			return request, "", err
		}
		head.WriteString(line)
	}
	lines := strings.Split(strings.TrimSuffix(head.String(), "\r\n\r\n"), "\r\n")
	request.line, request.header = lines[0], lines[1:]
	parsed, err := http.ReadRequest(bufio.NewReader(io.MultiReader(&head, in)))
	if err != nil {
		return request, "", err
	}
	body, err := io.ReadAll(parsed.Body)
	request.body = string(body)
	parts := strings.Split(parsed.URL.Path, "/")
	if err == nil && len(parts) != 4 {
		err = errors.New("not a path for messages")
	}
	if err != nil {
		return request, "", err
	}
	return request, parts[2], nil
}

// raw answers with these bytes and closes the connection. An answer that is
// whole says so itself (Connection: close): else the gateway may send the next
// message on it before it sees that it is closed.
func raw(answer string) script {
	return func(c net.Conn) bool {
		_, _ = io.WriteString(c, answer) // a client that has gone is none of Meta's business
		return false
	}
}

// lines answers like raw. In the header, which ends at the first empty line,
// lines may end in \n.
func lines(answer string) script {
	head, body, _ := strings.Cut(answer, "\n\n")
	return raw(strings.ReplaceAll(head, "\n", "\r\n") + "\r\n\r\n" + body)
}

// withJSON answers with this status and body.
func withJSON(status, body string) script {
	return lines("HTTP/1.1 " + status + "\nContent-Type: application/json\nConnection: close\n\n" + body)
}

// acceptance is Meta's answer to a message that it accepted.
const acceptance = `{"messaging_product":"whatsapp","contacts":[{"input":"1","wa_id":"1"}],"messages":[{"id":"wamid.accepted"}]}`

// reset closes the connection with a TCP RST and no answer.
func reset(c net.Conn) bool {
	if socket, ok := c.(*net.TCPConn); ok {
		_ = socket.SetLinger(0)
	}
	_ = c.Close()
	return false
}

// stall answers with these bytes and nothing more until the client goes away.
func stall(answer string) script {
	return func(c net.Conn) bool {
		raw(answer)(c)
		_, _ = io.Copy(io.Discard, c)
		return false
	}
}
