package delivery

import (
	"encoding/binary"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"testing"
)

func prefixes(texts ...string) []netip.Prefix {
	all := make([]netip.Prefix, len(texts))
	for i, text := range texts {
		all[i] = netip.MustParsePrefix(text)
	}
	return all
}

// special are the blocks of IANA's special-purpose address registries that are
// not globally reachable, with multicast and what was once site-local, and
// all blocks whose addresses have an IPv4 address in them.
var special = prefixes(
	"0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
	"192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24",
	"224.0.0.0/4", "240.0.0.0/4", "255.255.255.255/32",
	"::/128", "::1/128", "::/96", "::ffff:0:0/96", "::ffff:0:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48", "100::/64", "100:0:0:1::/64",
	"2001::/32", "2001:2::/48", "2001:10::/28", "2001:db8::/32", "2002::/16", "3fff::/20", "5f00::/16",
	"fc00::/7", "fe80::/10", "fec0::/10", "ff00::/8",
)

// beyond are blocks that are globally reachable by the registries and refused
// all the same: nobody's endpoint is there.
var beyond = prefixes(
	"192.31.196.0/24", "192.52.193.0/24", "192.175.48.0/24", "168.63.129.16/32", "2001::/23", "2620:4f:8000::/48",
)

// within compares bit by bit and so does without netip's rules on mapped
// addresses and zones.
func within(blocks []netip.Prefix, ip netip.Addr) bool {
	a := ip.AsSlice()
	return slices.ContainsFunc(blocks, func(block netip.Prefix) bool {
		b := block.Addr().AsSlice()
		if len(a) != len(b) {
			return false
		}
		for i := range block.Bits() {
			if (a[i/8]^b[i/8])>>(7-i%8)&1 != 0 {
				return false
			}
		}
		return true
	})
}

// reachable is the reference: it tells whether an address may be anybody's endpoint.
func reachable(ip netip.Addr) bool { return ip.Zone() == "" && !within(special, ip) }

// judged is what the guard says of an address, which it gets as a dialer has it.
func judged(ip netip.Addr, port uint16) error {
	network := "tcp4"
	if ip.Is6() {
		network = "tcp6"
	}
	return guard(network, net.JoinHostPort(ip.String(), strconv.Itoa(int(port))), nil)
}

func TestGuardRefusesWhatIsNotPublic(t *testing.T) {
	for _, block := range special {
		first := block.Addr()
		last := first.AsSlice()
		for i := block.Bits(); i < len(last)*8; i++ {
			last[i/8] |= 0x80 >> (i % 8)
		}
		end, _ := netip.AddrFromSlice(last)
		for _, ip := range []netip.Addr{first, end} {
			if err := judged(ip, 443); err == nil {
				t.Errorf("%v of %v may be dialled", ip, block)
			}
		}
	}
	for _, text := range []string{
		"127.0.0.1", "127.1.2.3", "10.1.2.3", "172.31.255.255", "192.168.1.1", "169.254.169.254", "100.100.100.200", "168.63.129.16",
		"192.0.0.192", "255.255.255.255", "::ffff:127.0.0.1", "::ffff:8.8.8.8", "::127.0.0.1", "::8.8.8.8", "64:ff9b::7f00:1", "64:ff9b::808:808",
		"64:ff9b:1::a00:1", "2002:7f00:1::", "2002:808:808::1", "2001:0:7f00:1::", "fd00:ec2::254", "fe80::1%eth0", "2606:4700::1%eth0", "ff02::1",
	} {
		if judged(netip.MustParseAddr(text), 443) == nil {
			t.Errorf("%s may be dialled", text)
		}
	}
}

func TestGuardLetsPublicAddressesPass(t *testing.T) {
	for _, text := range []string{
		"1.1.1.1", "8.8.8.8", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "126.255.255.255", "128.0.0.0",
		"172.15.255.255", "172.32.0.0", "192.167.255.255", "192.169.0.0", "198.17.255.255", "198.20.0.0", "223.255.255.255",
		"2606:4700:4700::1111", "2a00:1450:4001:80b::200e", "2400:cb00::1", "2001:4860:4860::8888",
	} {
		for _, port := range []uint16{80, 443, 8443, 1} {
			if err := judged(netip.MustParseAddr(text), port); err != nil {
				t.Errorf("%s, port %d: %v", text, port, err)
			}
		}
	}
}

func TestGuardRefusesOtherNetworksAndNonsense(t *testing.T) {
	for _, c := range [][2]string{
		{"udp4", "8.8.8.8:443"}, {"unix", "/run/socket"}, {"tcp", "8.8.8.8:443"}, {"tcp4", ""}, {"tcp4", "8.8.8.8"},
		{"tcp4", "example.com:443"}, {"tcp4", "8.8.8.8:99999"}, {"tcp4", "0x08.8.8.8:443"}, {"tcp6", "[::1]"},
	} {
		if guard(c[0], c[1], nil) == nil {
			t.Errorf("%s %q may be dialled", c[0], c[1])
		}
	}
}

func FuzzGuard(f *testing.F) {
	for _, block := range slices.Concat(special, beyond) {
		f.Add(block.Addr().AsSlice(), "", block.String())
	}
	f.Add([]byte{8, 8, 8, 8}, "", "8.8.8.8:443")
	f.Add(netip.MustParseAddr("2606:4700::1111").AsSlice(), "eth0", "[2606:4700::1111]:443")
	f.Add([]byte{}, "", "[::ffff:127.0.0.1]:443")
	f.Fuzz(func(t *testing.T, raw []byte, zone, address string) {
		if err := guard("tcp4", address, nil); err == nil {
			target, err := netip.ParseAddrPort(address)
			if err != nil || !reachable(target.Addr()) {
				t.Fatalf("%q may be dialled", address)
			}
		}
		ip, ok := netip.AddrFromSlice(raw)
		if !ok {
			return
		}
		if ip.Is6() {
			ip = ip.WithZone(zone)
		}
		allowed := judged(ip, 443) == nil
		switch {
		case allowed && !reachable(ip):
			t.Fatalf("%v may be dialled", ip)
		case !allowed && reachable(ip) && !within(beyond, ip) && (ip.Is4() || binary.BigEndian.Uint16(raw)>>13 == 1):
			t.Fatalf("%v may not be dialled", ip)
		}
		if entered := CheckURL("https://"+net.JoinHostPort(ip.String(), "443"), false) == nil; allowed != entered {
			t.Fatalf("%v may be dialled: %v; may be entered: %v", ip, allowed, entered)
		}
	})
}
