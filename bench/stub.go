package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"
)

// The stub is a Meta that says yes, as cheaply as it can: it shares the cores with
// what is measured. It is also the customer's endpoint that events are delivered to.
//
//	POST /v23.0/<phone number id>/messages   200 with a message id, or 401 without the number's own token
//	POST /hook                               200
//	GET  /counts                             what was answered 200 so far, as JSON
type stubServer struct {
	messages atomic.Uint64 // the last message's number
	hooks    atomic.Uint64
	accepted [groups]atomic.Uint64 // sends, by the group of the phone number
}

// stubCounts is what GET /counts answers.
type stubCounts struct {
	Hooks    uint64         `json:"hooks"`
	Accepted [groups]uint64 `json:"accepted"`
}

func runStub(args []string) error {
	f := flag.NewFlagSet("stub", flag.ContinueOnError)
	fast := f.String("listen", "", "the address that answers at once")
	slow := f.String("slow", "", "the address that takes its time")
	delay := f.Duration("delay", 0, "how long that is")
	if err := f.Parse(args); err != nil {
		return err
	}
	s := new(stubServer)
	failed := make(chan error)
	for address, delay := range map[string]time.Duration{*fast: 0, *slow: *delay} {
		listener, err := net.Listen("tcp", address)
		if err != nil {
			return err
		}
		go func() { failed <- s.serve(listener, delay) }()
	}
	return <-failed
}

func (s *stubServer) serve(listener net.Listener, delay time.Duration) error {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer conn.Close()
			c := stubConn{server: s, in: bufio.NewReaderSize(conn, 16<<10), out: conn, delay: delay}
			for c.answer() == nil {
			}
		}()
	}
}

// stubConn is one connection, with one request after the other.
type stubConn struct {
	server *stubServer
	in     *bufio.Reader
	out    io.Writer
	delay  time.Duration

	line          []byte // the request line, and the answer
	authorization []byte
	length        int
	reply         []byte
}

var errNoLength = errors.New("the request has no Content-Length")

// answer reads one request and answers it.
func (c *stubConn) answer() error {
	line, err := c.in.ReadSlice('\n')
	if err != nil {
		return err
	}
	c.line = append(c.line[:0], line...)
	if err := c.readHeader(); err != nil {
		return err
	}
	if _, err := c.in.Discard(c.length); err != nil {
		return err
	}
	c.decide()
	if c.delay > 0 {
		time.Sleep(c.delay)
	}
	_, err = c.out.Write(c.reply)
	return err
}

// readHeader reads up to the empty line, and keeps what counts.
func (c *stubConn) readHeader() error {
	c.authorization, c.length = c.authorization[:0], 0
	for {
		line, err := c.in.ReadSlice('\n')
		if err != nil {
			return err
		}
		line = bytes.TrimRight(line, "\r\n")
		if len(line) == 0 {
			return nil
		}
		name, value, _ := bytes.Cut(line, []byte(":"))
		value = bytes.TrimLeft(value, " ")
		switch {
		case len(name) == 14 && bytes.EqualFold(name, []byte("Content-Length")):
			if c.length, err = strconv.Atoi(string(value)); err != nil {
				return err
			}
		case len(name) == 13 && bytes.EqualFold(name, []byte("Authorization")):
			c.authorization = append(c.authorization, value...)
		case len(name) == 17 && bytes.EqualFold(name, []byte("Transfer-Encoding")):
			return errNoLength
		}
	}
}

var (
	messagesPrefix = []byte("POST /v23.0/")
	messagesSuffix = []byte("/messages ")
	hookPrefix     = []byte("POST /hook ")
	countsPrefix   = []byte("GET /counts ")
)

// decide writes the reply.
func (c *stubConn) decide() {
	switch {
	case bytes.HasPrefix(c.line, messagesPrefix):
		phone, rest, _ := bytes.Cut(c.line[len(messagesPrefix):], []byte("/"))
		if !bytes.HasPrefix(rest, messagesSuffix[1:]) || len(phone) != phoneLength {
			c.write(http.StatusNotFound, nil)
			return
		}
		c.send(phone)
	case bytes.HasPrefix(c.line, hookPrefix):
		c.server.hooks.Add(1)
		c.write(http.StatusOK, nil)
	case bytes.HasPrefix(c.line, countsPrefix):
		counts := stubCounts{Hooks: c.server.hooks.Load()}
		for i := range counts.Accepted {
			counts.Accepted[i] = c.server.accepted[i].Load()
		}
		document, _ := json.Marshal(counts) // numbers can be written
		c.write(http.StatusOK, document)
	default:
		c.write(http.StatusNotFound, nil)
	}
}

// send answers one message: with an id that no other has, if the token is that of
// the number.
func (c *stubConn) send(phone []byte) {
	bearer, ok := bytes.CutPrefix(c.authorization, []byte("Bearer "))
	if !ok || !isTokenOf(bearer, phone) {
		c.write(http.StatusUnauthorized, []byte(`{"error":{"message":"Invalid OAuth access token.","type":"OAuthException","code":190}}`))
		return
	}
	group := int(phone[0]-'0')*10 + int(phone[1]-'0')
	c.server.accepted[group%groups].Add(1)
	c.reply = append(c.reply[:0], stubAnswer...)
	number := c.server.messages.Add(1)
	for i := range stubDigits {
		c.reply[stubNumber+stubDigits-1-i] = "0123456789ABCDEF"[number&15]
		number >>= 4
	}
}

// The answer to a message, which has the message's number at stubNumber.
const stubDigits = 16

var stubAnswer, stubNumber = func() ([]byte, int) {
	const before = `{"messaging_product":"whatsapp","contacts":[{"input":"12025550100","wa_id":"12025550100"}],"messages":[{"id":"wamid.HBgLMTIwMjU1NTAxMDAVAgARGBI`
	const after = `AA=="}]}`
	header := fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=UTF-8\r\nContent-Length: %d\r\n\r\n", len(before)+stubDigits+len(after))
	return fmt.Appendf(nil, "%s%s%0*d%s", header, before, stubDigits, 0, after), len(header) + len(before)
}()

func (c *stubConn) write(status int, body []byte) {
	c.reply = fmt.Appendf(c.reply[:0], "HTTP/1.1 %d %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
		status, http.StatusText(status), len(body), body)
}

// stub is a running stub.
type stub struct {
	*process
	fast, slow string // addresses
}

func (r *rig) startStub(name string, delay time.Duration) (*stub, error) {
	s := new(stub)
	if err := freeAddresses(&s.fast, &s.slow); err != nil {
		return nil, err
	}
	var err error
	if s.process, err = r.startSelf(name, "stub", "-listen", s.fast, "-slow", s.slow, "-delay", delay.String()); err != nil {
		return nil, err
	}
	return s, errors.Join(r.awaitPort(s.process, s.fast), r.awaitPort(s.process, s.slow))
}

// counts asks the stub what it has answered.
func (s *stub) counts() (counts stubCounts, err error) {
	response, err := client.Get("http://" + s.fast + "/counts")
	if err != nil {
		return counts, err
	}
	defer response.Body.Close()
	return counts, json.NewDecoder(response.Body).Decode(&counts)
}
