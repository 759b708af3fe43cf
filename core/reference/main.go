// Reference serves the reference Core Service of core/coretest, to try a gateway
// with. What it knows is kept in one JSON file, which is written anew with every
// change: it is not made for more than trying.
//
//	go run ./core/reference -listen 127.0.0.1:8090 -token-file core.token -state core.json
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/connexease/caddy-whatsapp-gateway/core/coretest"
)

// grace is how long requests may take that are under way when the program ends.
const grace = 5 * time.Second

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	switch err := run(ctx, os.Args[1:], os.Stdout); {
	case errors.Is(err, flag.ErrHelp):
		os.Exit(2)
	case err != nil:
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// run serves until ctx ends. It prints the address that it listens on.
func run(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("reference", flag.ContinueOnError)
	listen := flags.String("listen", "127.0.0.1:8090", "address to listen on")
	tokenFile := flags.String("token-file", "", "file with the bearer token")
	stateFile := flags.String("state", "", "JSON file to keep the state in; none: memory only")
	if err := flags.Parse(args); err != nil {
		return flag.ErrHelp // which has been printed
	}
	token, err := os.ReadFile(*tokenFile)
	if err != nil || strings.TrimSpace(string(token)) == "" {
		return errors.New("-token-file must name a file with a token")
	}
	state, err := load(*stateFile)
	if err != nil {
		return err
	}
	var save func(coretest.State) error
	if *stateFile != "" {
		save = func(state coretest.State) error { return write(*stateFile, state) }
	}
	service := coretest.NewFrom(strings.TrimSpace(string(token)), state, save)
	defer service.Close()
	return serve(ctx, *listen, service, out)
}

func serve(ctx context.Context, address string, handler http.Handler, out io.Writer) error {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err != nil {
		return err
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: grace}
	stopped := make(chan error, 1)
	defer context.AfterFunc(ctx, func() {
		within, cancel := context.WithTimeout(context.Background(), grace)
		defer cancel()
		stopped <- server.Shutdown(within)
	})()
	fmt.Fprintf(out, "core service on http://%v\n", listener.Addr())
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return <-stopped
}

// load reads the state; where there is no file yet, it is empty.
func load(file string) (state coretest.State, err error) {
	if file == "" {
		return state, nil
	}
	document, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return state, nil
	}
	if err != nil {
		return state, err
	}
	if json.Unmarshal(document, &state) != nil {
		return state, errors.New("the state file cannot be read as JSON")
	}
	return state, nil
}

// write replaces the state file in one step, so that it is never half written.
func write(file string, state coretest.State) error {
	document, err := json.Marshal(state, jsontext.WithIndent("  "), json.Deterministic(true))
	if err != nil {
		return err
	}
	next, err := os.CreateTemp(filepath.Dir(file), filepath.Base(file)+".*") // readable by its owner only
	if err != nil {
		return err
	}
	defer os.Remove(next.Name()) // which fails once it has its name
	_, err = next.Write(document)
	if err = errors.Join(err, next.Sync(), next.Close()); err != nil {
		return err
	}
	return os.Rename(next.Name(), file)
}
