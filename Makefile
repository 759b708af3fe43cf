# The same flags everywhere, so that Go builds Caddy once and not once a target.
# (The tags leave out Caddy's storage engines for SQL and badger, as xcaddy does.)
export GOFLAGS := -buildvcs=false -trimpath -tags=nobadger,nomysql,nopgx
CADDY_VERSION := v2.11.9
MODULE        := github.com/connexease/caddy-whatsapp-gateway

.PHONY: run build xcaddy test check bench tools clean

# The gateway on :8080 with a simulated Meta and a customer's endpoint, until
# Ctrl-C. The secrets are the demo's. An address without a scheme is http, for
# which Caddy makes no certificates.
GATEWAY_ADDRESS ?= :8080
META_SIMULATOR_ADDRESS ?= 127.0.0.1:8081
run: override export GATEWAY_ADDRESS := $(if $(findstring ://,$(GATEWAY_ADDRESS))$(filter :%,$(GATEWAY_ADDRESS)),,http://)$(GATEWAY_ADDRESS)
run: export GATEWAY_URL ?= $(patsubst :%,http://127.0.0.1:%,$(GATEWAY_ADDRESS))
run: export META_URL ?= http://$(META_SIMULATOR_ADDRESS)
run: export WEBHOOK_VERIFY_TOKEN ?= demo-verify-token
run: export META_APP_SECRET ?= demo-app-secret
run: export DELIVERY_TARGETS ?= allow_private_targets
run: build
	@bin/caddy whatsapp-gateway demo --config Caddyfile.demo
	@exec bin/caddy run --config Caddyfile.demo

build:
	CGO_ENABLED=0 go build -ldflags "-w -s" -o bin/caddy ./cmd/caddy

# Caddy with the plugin as a user would build it. The explicit version keeps Go
# from asking a proxy for the module as it is here.
xcaddy:
	go tool xcaddy build $(CADDY_VERSION) --output bin/caddy-xcaddy --with $(MODULE)@v0.0.0=.
	bin/caddy-xcaddy list-modules | grep -x whatsapp_gateway
	bin/caddy-xcaddy list-modules | grep -x http.handlers.whatsapp_gateway
	bin/caddy-xcaddy list-modules | grep -x whatsapp_gateway.stores.sqlite
	bin/caddy-xcaddy list-modules | grep -x whatsapp_gateway.stores.redis

# Everything that CI checks; go test comes last. Each benchmark runs once, so that it
# keeps working, and without the race detector, under which some take minutes.
test: check xcaddy
	CGO_ENABLED=0 go test -run '^$$' -bench . -benchtime 1x ./...
	CGO_ENABLED=1 go test -race -timeout 20m ./...

check: tools
	@unformatted=$$(gofmt -l .); test -z "$$unformatted" || { echo "gofmt: $$unformatted"; exit 1; }
	CGO_ENABLED=0 go vet ./...
	CGO_ENABLED=0 go tool staticcheck ./...

# The gateway beside what one would run instead of it; BENCH="-series main -rounds 5"
# and the like are options, which `go run ./bench -h` lists.
bench: build tools
	CGO_ENABLED=0 go build -o bin/bench ./bench
	@exec bin/bench $(BENCH)

# The race detector needs a C compiler, a test runs the curl lines that `make run`
# prints, and others run Redis servers of their own. What is missing is installed
# where that is possible. The benchmark leaves out the gateway's peers where they are
# missing, so those need not be; Debian would have web servers run from then on.
tools bench test: export PATH := $(PATH):/usr/sbin:/sbin
tools:
	@./scripts/install-missing "gcc:gcc libc6-dev" curl:curl redis-server:redis-server
	-@new=$$(for s in nginx haproxy; do command -v $$s >/dev/null || echo $$s; done); \
	./scripts/install-missing wrk:wrk nginx:"nginx libnginx-mod-http-lua" haproxy:haproxy && \
	for s in $$new; do \
		sudo=; [ "$$(id -u)" = 0 ] || sudo="sudo -n"; \
		$$sudo systemctl disable --now $$s >/dev/null 2>&1 || $$sudo service $$s stop >/dev/null 2>&1 || true; \
	done

clean:
	rm -rf bin
