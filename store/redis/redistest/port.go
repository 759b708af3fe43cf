package redistest

import (
	"errors"
	"io"
	"math/rand/v2"
	"net"
)

// The ports of servers lie below those that systems give to outgoing connections,
// one of which might otherwise take the port of a server that does not run just
// now. A Cluster's nodes talk to each other on ports that are busOffset higher.
const (
	firstPort = 10000
	portCount = 10000
	busOffset = 10000
)

// errNoPort: all ports that were tried are taken.
var errNoPort = errors.New("no port of 127.0.0.1 is free")

// reserve finds a port that nobody listens on, nor on that of its bus. Until it is
// closed nobody else who reserves ports gets it, in this process or another: a UDP
// socket of the same number, which is in no server's way, stands for it.
func reserve() (int, io.Closer, error) {
	for range 200 {
		port := firstPort + rand.IntN(portCount)
		reservation, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port})
		if err != nil {
			continue
		}
		if free(port) && free(port+busOffset) {
			return port, reservation, nil
		}
		reservation.Close()
	}
	return 0, nil, errNoPort
}

// free tells whether nobody listens on a port.
func free(port int) bool {
	listener, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port})
	if err != nil {
		return false
	}
	return listener.Close() == nil
}
