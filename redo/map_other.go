//go:build !(linux || darwin || freebsd || netbsd || openbsd || dragonfly)

package redo

import "os"

// mapping is a file that is written to by calls of the system.
type mapping struct{ file *os.File }

func newMapping(file *os.File, _ int) (mapping, error) { return mapping{file}, nil }

func (m mapping) write(b []byte, offset int) error {
	_, err := m.file.WriteAt(b, int64(offset))
	return err
}

func (m mapping) close() error { return nil }
