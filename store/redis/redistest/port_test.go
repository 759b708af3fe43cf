package redistest

import (
	"errors"
	"net"
	"testing"
)

func TestAPortThatSomebodyElseTakesIsLeftToThem(t *testing.T) {
	t.Parallel()
	s := prepare(t, durable())
	if err := s.configure(); err != nil {
		t.Fatal(err)
	}
	taken := s.Addr()
	listener, err := net.Listen("tcp", taken)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	if err := s.launch(); !errors.Is(err, errGone) || !s.portTaken() {
		t.Fatalf("starting on a port that is taken: %v\n%s", err, s.lastWords())
	}
	if s.first().Addr() == taken {
		t.Error("two listen on one port")
	}
}

func TestAReservedPortIsNobodyElses(t *testing.T) {
	t.Parallel()
	ports := make(map[int]bool)
	for range portCount / 20 {
		port, reservation, err := reserve()
		if err != nil {
			t.Fatal(err)
		}
		defer reservation.Close()
		if ports[port] {
			t.Fatalf("port %d is reserved twice", port)
		}
		ports[port] = true
	}
}
