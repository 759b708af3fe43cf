package delivery

import (
	"errors"
	"net/netip"
	"syscall"

	"code.dny.dev/ssrf"
)

// errNotPublic means that an address is not to be dialled.
var errNotPublic = errors.New("address is not public")

// guardian knows the addresses that are not public: what IANA's registries of
// special-purpose addresses have, and all of IPv6 that is not allocated to
// global unicast, where IPv4 addresses are embedded (mapped, compatible, NAT64).
// 6to4 and Teredo, which embed them as well, are among the first. Webhooks may be
// at any port.
var guardian = ssrf.New(ssrf.WithAnyPort(), ssrf.WithDeniedV4Prefixes(
	// Azure's host answers every machine there under this address of the public
	// space: learn.microsoft.com/azure/virtual-network/what-is-ip-address-168-63-129-16
	netip.MustParsePrefix("168.63.129.16/32"),
))

// guard is for [net.Dialer.Control]: it sees each address that a name resolved
// to, right before it is dialled.
func guard(network, address string, c syscall.RawConn) error {
	if guardian.Safe(network, address, c) != nil {
		return errNotPublic // what the library says has the address in it
	}
	return nil
}

// publicAddress tells whether an address may be dialled. One with a zone, or an
// IPv4 address within an IPv6 one, may not.
func publicAddress(ip netip.Addr) bool { return guardian.SafeAddr(ip) == nil }
