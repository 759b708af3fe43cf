package caddytest

import (
	"fmt"
	"net"
	"strings"
)

// settings are what differs from one gateway to the next. Nearly every
// member is lines of a Caddyfile that are put in their place; the zero value is a gateway with
// nothing but defaults, in front of the simulator.
type settings struct {
	// app is for the global option whatsapp_gateway.
	app string
	// handler is for the directive whatsapp_gateway.
	handler string
	// proxy is the reverse_proxy of the directive, all of it, in place of the
	// one that reaches the simulator.
	proxy string
	// site is for the site of the gateway, before that directive.
	site string
	// simulator is for the directive meta_simulator.
	simulator string
	// global is for the global options.
	global string
	// sites stands behind all the rest.
	sites string
	// env are further variables of the process, as NAME=value.
	env []string
	// common is what the gateway shares with others, or nil. Its lines come first.
	common *common
}

// withWebhooks are the settings with all that it takes to receive webhooks and to
// deliver them on this machine; lines are for the block delivery.
func (s settings) withWebhooks(lines ...string) settings {
	lines = append([]string{
		"webhook_verify_token {env.VERIFY_TOKEN}", "meta_app_secret {env.APP_SECRET}", "delivery {", "allow_private_targets",
	}, append(lines, "}", s.app)...)
	s.app = strings.Join(lines, "\n")
	return s
}

// withReports are the settings with a simulator that reports what becomes of messages.
func (s settings) withReports() settings {
	s.simulator += "\nwebhook http://{env.SITE}/v1/wa/webhook {env.APP_SECRET}"
	return s
}

// caddyfile is the configuration of this gateway with other settings.
func (g *gateway) caddyfile(s settings) string {
	if s.common != nil {
		s.app = s.common.caddyfile() + "\n" + s.app
	}
	proxy := s.proxy
	if proxy == "" {
		proxy = "reverse_proxy " + g.simulator
	}
	_, sitePort, _ := net.SplitHostPort(g.site)
	_, simulatorPort, _ := net.SplitHostPort(g.simulator)
	return fmt.Sprintf(`{
	admin unix/%s
	grace_period 10s
	%s
	whatsapp_gateway {
		%s
	}
}

http://:%s {
	bind 127.0.0.1
	log {
		format filter {
			request>uri query {
				replace hub.verify_token REDACTED
			}
		}
	}
	%s
	whatsapp_gateway {
		%s
		%s
	}
	respond "another handler" 404
}

http://:%s {
	bind 127.0.0.1
	meta_simulator {
		%s
	}
}

%s
`, g.admin(), s.global, s.app, sitePort, s.site, s.handler, proxy, simulatorPort, s.simulator, s.sites)
}

// under is a gateway of its own under a path of the site: lines for settings.site.
func under(path, lines string) string {
	return "handle_path /" + path + "/* {\nwhatsapp_gateway {\n" + lines + "\n}\n}\n"
}
