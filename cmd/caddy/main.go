// Command caddy is Caddy with the gateway and the Meta simulator, for
// development and tests. Releases are built with xcaddy and leave the simulator
// out.
package main

import (
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/connexease/caddy-whatsapp-gateway"
	_ "github.com/connexease/caddy-whatsapp-gateway/metasim"
)

func main() {
	caddycmd.Main()
}
