package redis

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/store/redis/redistest"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

func wantNoCopy(t *testing.T, s *Store, digest tenant.KeyDigest) {
	t.Helper()
	f, err := s.FindGrant(t.Context(), digest)
	if err != nil && !errors.Is(err, store.ErrNotFound) || f.Copied {
		t.Errorf("there is %+v, %v", f, err)
	}
}

func TestCopiesOfGrantsComeBack(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	s := openAt(t, server, false)
	ctx := t.Context()
	digest := tenant.KeyDigest{7}
	expires := time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)
	grant := &tenant.Grant{KeyID: "key_1", ExpiresAt: &expires, App: tenant.App{
		ID: "app_1", PhoneNumberID: "111", AccessToken: "v1.k1.AAAA",
		Webhook: &tenant.Webhook{URL: "https://a.example/", Secret: "s3cret", Headers: map[string]tenant.Secret{"X-Team": "a"}},
	}}
	wantNoCopy(t, s, digest)
	for _, lifetime := range []time.Duration{-1, 0, time.Millisecond - 1} { // none that Redis could keep
		noError(t, s.KeepGrant(ctx, digest, grant, lifetime))
		wantNoCopy(t, s, digest)
	}
	noError(t, s.KeepGrant(ctx, digest, grant, time.Hour))
	noError(t, s.KeepGrant(ctx, digest, nil, 2*time.Hour)) // there is one
	f, err := s.FindGrant(ctx, digest)
	noError(t, err)
	if diff := cmp.Diff(grant, f.Grant); diff != "" || !f.Copied || f.Left <= 0 || f.Left > time.Hour {
		t.Errorf("left %v, copy (-want +got):\n%s", f.Left, diff)
	}

	unknown := tenant.KeyDigest{8}
	noError(t, s.KeepGrant(ctx, unknown, nil, time.Hour))
	if f, err := s.FindGrant(ctx, unknown); f.Grant != nil || !f.Copied || f.Left <= 0 || err != nil {
		t.Errorf("of an unknown key there is %+v, %v", f, err)
	}

	// Another program may put a copy there and give it no lifetime.
	foreign := tenant.KeyDigest{9}
	command(t, server, "SET", "wagw:grant:"+foreign.String(), `{"key_id":"key_9","app":{"id":"app_9","account_id":null}}`)
	if f, err := s.FindGrant(ctx, foreign); err != nil || f.Grant.KeyID != "key_9" || f.Left < 24*time.Hour {
		t.Errorf("there is %+v, %v", f, err)
	}
}

func TestCreatingAKeyEndsItsBeingUnknown(t *testing.T) {
	t.Parallel()
	s := openAt(t, redistest.Start(t), false)
	digest := tenant.KeyDigest{1, 2} // that of someApp's key
	noError(t, s.KeepGrant(t.Context(), digest, nil, time.Hour))
	someApp(t, s)
	wantNoCopy(t, s, digest)
}

// A look-up reads the record, the key is revoked or its app changed, and only then
// does the look-up keep what it has read.
func TestALookUpFromBeforeTheChangeCannotBringTheCopyBack(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*Store) error{
		"revocation": func(s *Store) error { return s.RevokeKey(t.Context(), "key_1", time.Now()) },
		"another app": func(s *Store) error {
			_, err := s.UpdateApp(t.Context(), "app_1", func(a *tenant.App) error { a.PhoneNumberID = "222"; return nil })
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			server := redistest.Start(t)
			here, there := openAt(t, server, false), openAt(t, server, false)
			_, key := someApp(t, here)
			ctx := t.Context()
			command(t, server, "DEL", "wagw:grant:"+key.Digest.String()) // the tombstone of the creation
			read, err := here.Grant(ctx, key.Digest)
			noError(t, err)
			noError(t, here.KeepGrant(ctx, key.Digest, read, time.Hour))
			if f, err := there.FindGrant(ctx, key.Digest); err != nil || !f.Copied {
				t.Fatalf("before the change: %+v, %v", f, err)
			}

			noError(t, change(there))
			wantNoCopy(t, here, key.Digest)
			noError(t, here.KeepGrant(ctx, key.Digest, read, time.Hour))
			wantNoCopy(t, here, key.Digest)
			if ttl, _ := command(t, server, "PTTL", "wagw:grant:"+key.Digest.String()).(int64); ttl <= 0 || ttl > tombstoneLifetime.Milliseconds() {
				t.Errorf("the tombstone lies there for %d ms", ttl)
			}
		})
	}
}

// subscribed waits until a gateway listens.
func subscribed(t *testing.T, server *redistest.Server, gateways int64) {
	t.Helper()
	eventually(t, "the gateways listen", func() bool {
		reply := fmt.Sprint(command(t, server, "PUBSUB", "NUMSUB", "wagw:invalidate"))
		return strings.HasSuffix(strings.TrimRight(reply, "]"), fmt.Sprint("invalidate ", gateways)) ||
			strings.HasSuffix(strings.TrimRight(reply, "]"), fmt.Sprint("invalidate:", gateways))
	})
}

// grows waits for a generation to grow beyond what it was.
func grows(t *testing.T, s *Store, was uint64) {
	t.Helper()
	eventually(t, "the generation grows", func() bool { return s.Generation() > was })
}

func TestAChangeReachesEveryGateway(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	gateway, administrator := openAt(t, server, true), openAt(t, server, false)
	_, key := someApp(t, administrator)
	subscribed(t, server, 1)
	grows(t, gateway, 0) // it has noted that it listens

	was := gateway.Generation()
	noError(t, administrator.RevokeKey(t.Context(), key.ID, time.Now()))
	grows(t, gateway, was)
	_, err := gateway.Grant(t.Context(), key.Digest)
	wantError(t, "Grant", err, store.ErrNotFound)

	was = gateway.Generation()
	_, err = administrator.UpdateApp(t.Context(), key.AppID, func(a *tenant.App) error { a.Name = "new"; return nil })
	noError(t, err)
	grows(t, gateway, was)
}

// The Core Service says which key has changed, and need do nothing else.
func TestAMessageBuriesTheCopy(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	gateway := openAt(t, server, true)
	subscribed(t, server, 1)
	grows(t, gateway, 0)
	digest := tenant.KeyDigest{7}
	noError(t, gateway.KeepGrant(t.Context(), digest, &tenant.Grant{KeyID: "key_7", App: tenant.App{ID: "app_7"}}, time.Hour))

	was := gateway.Generation()
	command(t, server, "PUBLISH", "wagw:invalidate", digest.String())
	grows(t, gateway, was)
	wantNoCopy(t, gateway, digest)
	for _, message := range []string{everyKey, "", "no digest"} {
		was = gateway.Generation()
		command(t, server, "PUBLISH", "wagw:invalidate", message)
		grows(t, gateway, was)
	}
}

// What was said while nobody listened may have been anything.
func TestListeningAgainGrowsTheGeneration(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	gateway := openAt(t, server, true)
	subscribed(t, server, 1)
	grows(t, gateway, 0)
	was := gateway.Generation()
	command(t, server, "CLIENT", "KILL", "TYPE", "pubsub")
	grows(t, gateway, was)

	server.Kill()
	was = gateway.Generation()
	server.Start()
	grows(t, gateway, was)
	subscribed(t, server, 1)
}

// A server that is gone without closing its connections must not be listened to forever.
func TestAServerThatFallsSilentIsLeft(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	gateway := openAt(t, server, true)
	core, logs := observer.New(zap.DebugLevel)
	gateway.SetLogger(zap.New(core))
	subscribed(t, server, 1)
	grows(t, gateway, 0)
	server.Freeze()
	eventually(t, "the subscription is given up", func() bool {
		return logs.FilterField(zap.Error(errSilent)).Len() > 0
	})
	was := gateway.Generation()
	server.Thaw()
	grows(t, gateway, was)
}

// Redis gives a new user no channels: an operator who forgets them has to be told.
func TestASubscriptionThatIsRefusedIsLogged(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	command(t, server, "ACL", "SETUSER", "deaf", "on", ">"+secret, "~*", "resetchannels", "+@all")
	connection, err := ParseURLs([]string{"redis://deaf:" + secret + "@" + server.Addr()}, modeSingle, "")
	noError(t, err)
	core, logs := observer.New(zap.WarnLevel)
	s := open(t, Options{Connection: connection, Timeout: 2 * time.Second, Serving: true})
	s.SetLogger(zap.New(core))
	eventually(t, "the refusal is logged", func() bool { return logs.FilterField(zap.String("channel", "wagw:invalidate")).Len() > 0 })

	_, key := someApp(t, s)
	noError(t, s.RevokeKey(t.Context(), key.ID, time.Now())) // which nobody can be told of
	_, err = s.Grant(t.Context(), key.Digest)
	wantError(t, "Grant", err, store.ErrNotFound)
}
