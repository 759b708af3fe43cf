package redistest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// StartTLS starts one server that speaks TLS alone. Its certificate is valid for
// 127.0.0.1, and signed by nobody but itself.
func StartTLS(t testing.TB, options ...string) *Server {
	t.Helper()
	s := prepare(t, append(durable(), options...))
	if err := s.certify(); err != nil {
		t.Fatalf("making a certificate: %v", err)
	}
	return s.first()
}

// Roots trust the certificate of [StartTLS]'s server, and nothing else. They are
// nil for other servers.
func (s *Server) Roots() *x509.CertPool {
	if s.tls == nil {
		return nil
	}
	return s.tls.RootCAs
}

// CertificateFile is where that certificate is, in PEM, such as for SSL_CERT_FILE
// in the environment of a program that is to trust it.
func (s *Server) CertificateFile() string { return filepath.Join(s.dir, "certificate.pem") }

// certify gives the server a key and a certificate.
func (s *Server) certify() error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(24 * time.Hour),
		IPAddresses:           []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA:                  true,
		BasicConstraintsValid: true,
	}
	certificate, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	keyFile := filepath.Join(s.dir, "key.pem")
	if err := os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), 0o600); err != nil {
		return err
	}
	public := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate})
	if err := os.WriteFile(s.CertificateFile(), public, 0o600); err != nil {
		return err
	}
	s.tls = &tls.Config{RootCAs: x509.NewCertPool()}
	s.tls.RootCAs.AppendCertsFromPEM(public)
	return nil
}
