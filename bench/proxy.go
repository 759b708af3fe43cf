package main

import (
	"encoding/json"
	"errors"
	"flag"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"strings"
	"sync"
)

// runProxy is the least that one would write in Go: keys in a map, the token put
// in their place, httputil.ReverseProxy with a transport that keeps its connections.
func runProxy(args []string) error {
	f := flag.NewFlagSet("proxy", flag.ContinueOnError)
	tokens := f.String("tokens", "", "a JSON file of tokens by key")
	if err := f.Parse(args); err != nil {
		return err
	}
	document, err := os.ReadFile(*tokens)
	if err != nil {
		return err
	}
	var byKey map[string]string
	if err := json.Unmarshal(document, &byKey); err != nil {
		return err
	}
	if f.NArg()%2 != 0 {
		return errors.New("addresses come in pairs: where to listen, and where to forward to")
	}
	failed := make(chan error)
	for pairs := f.Args(); len(pairs) > 0; pairs = pairs[2:] {
		server := http.Server{Addr: pairs[0], Handler: keyed(byKey, forwarder(pairs[1]))}
		go func() { failed <- server.ListenAndServe() }()
	}
	return <-failed
}

// keyed lets requests with a known key through, with its token instead.
func keyed(tokens map[string]string, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		key, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		token := tokens[key]
		if !ok || token == "" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		r.Header.Set("Authorization", "Bearer "+token)
		next.ServeHTTP(w, r)
	})
}

func forwarder(to string) http.Handler {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.Proxy, transport.DisableCompression = nil, true
	transport.MaxIdleConns, transport.MaxIdleConnsPerHost = 0, 1024
	return &httputil.ReverseProxy{
		Rewrite:    func(p *httputil.ProxyRequest) { p.SetURL(&url.URL{Scheme: "http", Host: to}) },
		Transport:  transport,
		BufferPool: &buffers{sync.Pool{New: func() any { return new([32 << 10]byte) }}},
	}
}

// buffers implements [httputil.BufferPool].
type buffers struct{ pool sync.Pool }

func (b *buffers) Get() []byte { return b.pool.Get().(*[32 << 10]byte)[:] }

func (b *buffers) Put(p []byte) { b.pool.Put((*[32 << 10]byte)(p)) }
