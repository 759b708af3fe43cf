package gateway

import (
	"errors"
	"regexp"
	"strings"

	"github.com/connexease/caddy-whatsapp-gateway/seal"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

// phoneNumberID is what Meta's ids look like, and what may become a segment of
// the path of a request to Meta.
var phoneNumberID = regexp.MustCompile(`^[0-9]{1,32}$`)

// openCredentials opens an app's access token, once for as long as its grant is
// remembered. The failure is what a send is answered without it.
func openCredentials(ring *seal.Ring, app *tenant.App) (token string, refusal *failure) {
	if app.AccessToken == "" || !phoneNumberID.MatchString(app.PhoneNumberID) {
		return "", credentialsMissing.as(nil)
	}
	token, err := ring.Open(app.ID, app.AccessToken)
	if err != nil {
		return "", tokenUnreadable.as(err)
	}
	if validateToken(token) != nil {
		return "", credentialsMissing.as(nil)
	}
	return token, nil
}

// validateToken refuses what cannot stand in an Authorization header.
func validateToken(token string) error {
	if token == "" || len(token) > 4096 || strings.ContainsFunc(token, notVisibleASCII) {
		return errors.New("an access token is 1 to 4096 visible ASCII characters without spaces")
	}
	return nil
}
