package caddytest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"io"
	"maps"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// certificate is one that nobody trusts, for 127.0.0.1.
func certificate(t testing.TB) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Meta"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// tlsUpstream is an upstream behind TLS; protocols are those that it offers.
func tlsUpstream(t testing.TB, serve func(net.Conn), protocols ...string) (address string) {
	t.Helper()
	config := &tls.Config{Certificates: []tls.Certificate{certificate(t)}, NextProtos: protocols}
	return listen(t, func(c net.Conn) {
		secured := tls.Server(c, config)
		if secured.Handshake() == nil {
			serve(secured)
		}
	})
}

func TestAMessageThatCannotHaveBeenSentIsReleased(t *testing.T) {
	t.Parallel()
	refusing := freeAddress(t)
	var served atomic.Int64
	serve := func(c net.Conn) {
		served.Add(1)
		_, _ = io.Copy(io.Discard, c)
	}
	selfSigned := tlsUpstream(t, serve)
	plain := listen(t, func(c net.Conn) {
		var some [1]byte
		_, _ = c.Read(some[:])
		_, _ = io.WriteString(c, "HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n"+upstreamText)
	})
	silent := listen(t, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) })
	closing := listen(t, func(c net.Conn) { reset(c) })
	g := startGateway(t, settings{site: under("refused", "reverse_proxy "+refusing) +
		under("self-signed", "reverse_proxy https://"+selfSigned) +
		under("plain", "reverse_proxy https://"+plain) +
		under("silent", "upstream_timeout 300ms\nreverse_proxy https://"+silent) +
		under("closing", "reverse_proxy https://"+closing) +
		under("unhealthy", "reverse_proxy "+refusing+" {\nfail_duration 1h\n}")})
	g.hide("text of the upstream's", upstreamText)
	who := g.tenant(t, profile{})
	var outcomes []outcome
	for _, c := range []struct{ path, description string }{
		{"refused", unreachable},
		{"self-signed", insecure},
		{"plain", insecure},
		{"silent", unreachable},
		{"closing", unreachable},
		{"unhealthy", unreachable},
		{"unhealthy", unreachable}, // this time it is known to be
	} {
		a := g.sendTo(t, "/"+c.path+messagePath, who.key, g.message(accepted))
		a.want(t, http.StatusBadGateway, gw001(c.description, `"retry_safe":true`))
		outcomes = append(outcomes, outcome{c.path, released})
	}
	g.wantOutcomes(t, who, outcomes...)
	if served.Load() != 0 {
		t.Error("a connection was made to a server that nobody trusts")
	}
}

// What is configured to try again does so for dials that failed, and for
// nothing else.
func TestOnlyFailedDialsAreTriedAgain(t *testing.T) {
	t.Parallel()
	first, second := startUpstream(t), startUpstream(t)
	const again = " {\nlb_policy first\nlb_retries 3\nlb_try_duration 10s\nfail_duration 1m\n}"
	g := startGateway(t, settings{
		site:  under("refused", "reverse_proxy "+freeAddress(t)+" "+second.address+again),
		proxy: "reverse_proxy " + first.address + " " + second.address + again,
	})
	who := g.tenant(t, profile{})
	first.play(who, reset)
	second.play(who, withJSON("200 OK", acceptance))
	g.send(t, who.key, g.message(accepted)).want(t, http.StatusBadGateway, gw001(broken, `"retry_safe":false`))
	first.wantSends(t, who, 1)
	second.wantSends(t, who, 0)
	g.sendTo(t, "/refused"+messagePath, who.key, g.message(accepted)).wantCode(t, "")
	second.wantSends(t, who, 1)
	g.wantOutcomes(t, who, outcome{"reset", inDoubt}, outcome{"refused", captured})
}

// trusting is the block of a reverse_proxy that takes any certificate.
const trusting = " {\ntransport http {\ntls_insecure_skip_verify\n}\n}"

// A frame of HTTP/2 is a header of 9 bytes and a payload (RFC 9113, section 4.1).
const (
	frameData, frameHeaders, frameReset, frameSettings, frameGoAway = 0, 1, 3, 4, 7

	flagAck, flagEndStream = 1, 1
)

func writeFrame(w io.Writer, kind, flags byte, stream uint32, payload []byte) {
	frame := binary.BigEndian.AppendUint32(nil, uint32(len(payload))<<8|uint32(kind))
	frame = binary.BigEndian.AppendUint32(append(frame, flags), stream)
	_, _ = w.Write(append(frame, payload...))
}

// serveHTTP2 reads requests of HTTP/2 and has answer answer each of them, once
// its end has come.
func serveHTTP2(c net.Conn, answer func(stream uint32)) {
	preface := make([]byte, len("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"))
	if _, err := io.ReadFull(c, preface); err != nil {
		return
	}
	writeFrame(c, frameSettings, 0, 0, nil)
	for {
		var header [9]byte
		if _, err := io.ReadFull(c, header[:]); err != nil {
			return
		}
		length := binary.BigEndian.Uint32(header[:]) >> 8
		if _, err := io.CopyN(io.Discard, c, int64(length)); err != nil {
			return
		}
		kind, flags, stream := header[3], header[4], binary.BigEndian.Uint32(header[5:])
		switch {
		case kind == frameSettings && flags&flagAck == 0:
			writeFrame(c, frameSettings, flagAck, 0, nil)
		case (kind == frameData || kind == frameHeaders) && flags&flagEndStream != 0:
			answer(stream)
		}
	}
}

// Whatever HTTP/2 says of streams, a message whose request has left is not sent
// a second time, and what became of it is not known.
func TestStreamsThatHTTP2EndsAreInDoubtAndNotSentAgain(t *testing.T) {
	t.Parallel()
	word := func(n uint32) []byte { return binary.BigEndian.AppendUint32(nil, n) }
	for name, end := range map[string]func(c net.Conn, stream uint32){
		"RST_STREAM with INTERNAL_ERROR": func(c net.Conn, stream uint32) { writeFrame(c, frameReset, 0, stream, word(2)) },
		"RST_STREAM with REFUSED_STREAM": func(c net.Conn, stream uint32) { writeFrame(c, frameReset, 0, stream, word(7)) },
		"RST_STREAM with CANCEL":         func(c net.Conn, stream uint32) { writeFrame(c, frameReset, 0, stream, word(8)) },
		"GOAWAY before the stream":       func(c net.Conn, _ uint32) { writeFrame(c, frameGoAway, 0, 0, append(word(0), word(0)...)); c.Close() },
		"GOAWAY with an error": func(c net.Conn, stream uint32) {
			writeFrame(c, frameGoAway, 0, 0, append(word(stream), word(2)...))
			c.Close()
		},
		"closed": func(c net.Conn, _ uint32) { c.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var requests atomic.Int64
			address := tlsUpstream(t, func(c net.Conn) {
				serveHTTP2(c, func(stream uint32) {
					requests.Add(1)
					end(c, stream)
				})
			}, "h2")
			g := startGateway(t, settings{proxy: "reverse_proxy https://" + address + trusting})
			who := g.tenant(t, profile{})
			a := g.send(t, who.key, g.message(accepted))
			a.want(t, http.StatusBadGateway, gw001(broken, `"retry_safe":false`))
			if n := requests.Load(); n != 1 {
				t.Errorf("%d requests came in for one message", n)
			}
			g.wantOutcomes(t, who, outcome{"", inDoubt})
		})
	}
}

// A Meta that speaks HTTP/2 as it should gets what it gets over HTTP/1.
func TestHTTP2ToMeta(t *testing.T) {
	t.Parallel()
	got := make(chan []string, 1)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got <- append(slices.Sorted(maps.Keys(r.Header)), r.Proto)
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, acceptance)
	}))
	server.EnableHTTP2 = true
	server.StartTLS()
	t.Cleanup(server.Close)
	g := startGateway(t, settings{proxy: "reverse_proxy " + server.URL + trusting})
	who := g.tenant(t, profile{})
	g.send(t, who.key, g.message(accepted)).want(t, http.StatusOK, `{"isSuccess":true,"data":`+acceptance+`}`)
	want := []string{"Accept", "Authorization", "Content-Length", "Content-Type", "User-Agent", "HTTP/2.0"}
	if diff := cmp.Diff(want, <-got); diff != "" {
		t.Error(diff)
	}
	g.wantOutcomes(t, who, outcome{"", captured})
}
