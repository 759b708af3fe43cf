package redis

import (
	"bytes"
	"net"
	"testing"
	"time"

	"github.com/connexease/caddy-whatsapp-gateway/store/redis/redistest"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

// keeping keeps a copy of a grant that is known to be unknown, and does something to the
// command that brings it.
func keeping(t *testing.T, server *redistest.Server, timeout, lifetime time.Duration, meddle func(sent []byte) fate) string {
	t.Helper()
	o := testOptions(t, "single", "", server.URL())
	o.Timeout, o.Serving = timeout, false
	var w wire
	s := open(t, w.under(o))
	noError(t, eventuallyDone(t, func() error { return s.KeepGrant(t.Context(), tenant.KeyDigest{1}, nil, time.Hour) })) // it is connected
	met := false
	w.decide(func(sent []byte) fate {
		if !bytes.Contains(sent, []byte(unknownCopy)) {
			return arrives
		}
		met = true
		return meddle(sent)
	})
	digest := tenant.KeyDigest{2}
	if err := s.KeepGrant(t.Context(), digest, nil, lifetime); err == nil {
		t.Error("it was kept in time")
	}
	if !met {
		t.Fatal("the copy was not sent")
	}
	return s.grantKey(digest.String())
}

// A key may have been revoked since, and the tombstone be gone.
func TestACopyThatComesAfterItsEndIsNotKept(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	var late []byte
	key := keeping(t, server, short, short/2, func(sent []byte) fate {
		late = bytes.Clone(sent)
		return heldUp
	})
	// The caller was told that there was no answer in time, which is after the copy's end.
	conn, err := net.Dial("tcp", server.Addr())
	noError(t, err)
	defer conn.Close()
	_, err = conn.Write(late)
	noError(t, err)
	answer := make([]byte, 64)
	if n, err := conn.Read(answer); err != nil || answer[0] == '-' {
		t.Errorf("what came late is answered %q, %v", answer[:n], err)
	}
	if there := command(t, server, "EXISTS", key); there != int64(0) {
		t.Error("there is a copy")
	}
}

func TestACopyThatARedisKeepsWhichStoodStillEndsInTime(t *testing.T) {
	t.Parallel()
	const lifetime = time.Hour
	server := redistest.Start(t)
	var end time.Time
	key := keeping(t, server, short, lifetime, func([]byte) fate {
		end = time.Now().Add(lifetime) // at the latest: the grant was read before
		server.Freeze()
		return arrives
	})
	server.Thaw()
	eventually(t, "the copy is there", func() bool { return command(t, server, "EXISTS", key) == int64(1) })
	now := time.Now()
	left, _ := command(t, server, "PTTL", key).(int64)
	if over := now.Add(time.Duration(left) * time.Millisecond).Sub(end); left <= 0 || over > 0 {
		t.Errorf("the copy is there for %d ms, %v too long", left, over)
	}
}
