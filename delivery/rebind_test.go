package delivery

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/zap"

	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

// nameServer answers every question for addresses with the next of its answers.
type nameServer struct {
	conn    net.PacketConn
	mu      sync.Mutex
	answers [][]netip.Addr // the last one stays
}

func newNameServer(t *testing.T, answers ...[]netip.Addr) *net.Resolver {
	t.Helper()
	conn, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &nameServer{conn: conn, answers: answers}
	var serving sync.WaitGroup
	serving.Go(s.serve)
	t.Cleanup(func() {
		conn.Close()
		serving.Wait()
	})
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "udp4", conn.LocalAddr().String())
	}}
}

func (s *nameServer) serve() {
	query := make([]byte, 1500)
	for {
		n, from, err := s.conn.ReadFrom(query)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			_, _ = s.conn.WriteTo(s.answer(query[:n]), from)
		}
	}
}

// answer makes the message of RFC 1035, section 4: the header, the question as
// it came, and an A or AAAA record for each address of that kind.
func (s *nameServer) answer(query []byte) []byte {
	const header = 12
	end := header
	for query[end] != 0 {
		end += int(query[end]) + 1
	}
	end += 5 // the root, type and class
	const a, aaaa = 1, 28
	kind := binary.BigEndian.Uint16(query[end-4:])
	message := slices.Clone(query[:end])
	copy(message[2:], []byte{0x84, 0, 0, 1, 0, 0, 0, 0, 0, 0}) // an authoritative answer
	for _, ip := range s.next(kind == a) {
		if ip.Is4() != (kind == a) || kind != a && kind != aaaa {
			continue
		}
		message[7]++
		message = append(message, 0xc0, header, 0, byte(kind), 0, 1, 0, 0, 0, 0, 0, byte(ip.BitLen()/8))
		message = append(message, ip.AsSlice()...)
	}
	return message
}

// next returns the answer of this look-up, of which the question for IPv4 is
// counted.
func (s *nameServer) next(counted bool) []netip.Addr {
	s.mu.Lock()
	defer s.mu.Unlock()
	first := s.answers[0]
	if counted && len(s.answers) > 1 {
		s.answers = s.answers[1:]
	}
	return first
}

var errDialled = errors.New("no packet leaves this machine")

// recorder is a worker that dials what the guard lets pass but for the last step.
func recorder(c Config, r *net.Resolver) (w *Worker, dialled func() []string) {
	w = New(c, nil, zap.NewNop(), nil)
	w.dialer.Resolver = r
	var mu sync.Mutex
	var addresses []string
	control := w.dialer.Control
	w.dialer.Control = func(network, address string, c syscall.RawConn) error {
		if control != nil {
			if err := control(network, address, c); err != nil {
				return err
			}
		}
		mu.Lock()
		defer mu.Unlock()
		addresses = append(addresses, address)
		return errDialled
	}
	return w, func() []string {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(addresses)
	}
}

func addresses(texts ...string) []netip.Addr {
	all := make([]netip.Addr, len(texts))
	for i, text := range texts {
		all[i] = netip.MustParseAddr(text)
	}
	return all
}

func TestNameThatTurnsPrivateIsNotDialled(t *testing.T) {
	w, dialled := recorder(Config{}, newNameServer(t, addresses("1.1.1.1"), addresses("127.0.0.1")))
	hook := &tenant.Webhook{URL: "https://rebinding.example:8443/hook"}
	for i, want := range []string{"no valid answer", "address is not public", "address is not public"} {
		if failed := w.post(hook, new(store.Event)); failed == nil || failed.reason != want {
			t.Errorf("attempt %d: %+v, want %q", i+1, failed, want)
		}
	}
	if diff := cmp.Diff([]string{"1.1.1.1:8443"}, dialled()); diff != "" {
		t.Error(diff)
	}
}

func TestNoAddressOfANameIsDialledThatIsNotPublic(t *testing.T) {
	for _, private := range []string{"10.0.0.1", "127.0.0.1", "169.254.169.254", "100.64.0.1", "64:ff9b::a00:1", "2002:7f00:1::1", "fd00::1", "::1"} {
		w, dialled := recorder(Config{}, newNameServer(t, addresses(private, "1.1.1.1", "2606:4700::1111")))
		w.post(&tenant.Webhook{URL: "https://mixed.example/hook"}, new(store.Event))
		for _, address := range dialled() {
			if address != "1.1.1.1:443" && address != "[2606:4700::1111]:443" {
				t.Errorf("%s was dialled", address)
			}
		}
		if len(dialled()) == 0 {
			t.Errorf("beside %s, nothing was dialled", private)
		}
	}
}

func TestPrivateAddressIsNotDialledHoweverItIsWritten(t *testing.T) {
	for _, host := range []string{
		"127.0.0.1", "127.1", "2130706433", "0x7f000001", "0x7f.0.0.1", "0177.0.0.1", "127.0.0.1.", "localhost", "LOCALHOST.", "a.localhost",
		"[::1]", "[::ffff:127.0.0.1]", "[::127.0.0.1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "[fe80::1%25lo]", "%31%32%37.0.0.1", "１２７.０.０.１",
		"name.example",
	} {
		w, dialled := recorder(Config{}, newNameServer(t, addresses("127.0.0.1", "::1")))
		if failed := w.post(&tenant.Webhook{URL: "https://" + host + "/"}, new(store.Event)); failed == nil {
			t.Errorf("%s: delivered", host)
		}
		if got := dialled(); got != nil {
			t.Errorf("%s: %v was dialled", host, got)
		}
	}
}

func TestURLFromWhenPrivateTargetsWereAllowedIsNotDialled(t *testing.T) {
	for _, url := range []string{"http://1.1.1.1/", "http://name.example/", "https://10.1.1.1/"} {
		w, dialled := recorder(Config{}, newNameServer(t, addresses("1.1.1.1")))
		if failed := w.post(&tenant.Webhook{URL: url}, new(store.Event)); failed == nil || len(dialled()) > 0 {
			t.Errorf("%s: %+v, dialled %v", url, failed, dialled())
		}
		w, dialled = recorder(Config{AllowPrivateTargets: true}, newNameServer(t, addresses("1.1.1.1")))
		if w.post(&tenant.Webhook{URL: url}, new(store.Event)); len(dialled()) == 0 {
			t.Errorf("%s: not dialled though it is allowed", url)
		}
	}
}

func TestRedirectIsNotFollowed(t *testing.T) {
	var followed http.HandlerFunc = func(http.ResponseWriter, *http.Request) { t.Error("a redirect was followed") }
	private := httptest.NewServer(followed)
	defer private.Close()
	for _, status := range []int{300, 301, 302, 303, 307, 308} {
		endpoint := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			rw.Header().Set("Location", private.URL)
			rw.Header().Set("Refresh", "0; url="+private.URL)
			rw.WriteHeader(status)
		}))
		w := poster(t, Config{})
		failed := w.post(&tenant.Webhook{URL: endpoint.URL}, new(store.Event))
		if want := fmt.Sprint("status ", status); failed == nil || failed.reason != want {
			t.Errorf("%+v, want %q", failed, want)
		}
		endpoint.Close()
	}
}
