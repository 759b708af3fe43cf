package core

import (
	"context"
	"crypto/x509"
	"net"
)

// DialWith makes connections otherwise. It is called before the first request.
func (c *Client) DialWith(dial func(ctx context.Context, network, address string) (net.Conn, error)) {
	c.transport.DialContext = dial
}

// Trust makes the client accept certificates of these authorities alone.
func (c *Client) Trust(pool *x509.CertPool) { c.transport.TLSClientConfig.RootCAs = pool }
