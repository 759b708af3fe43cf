//go:build linux || darwin || freebsd || netbsd || openbsd || dragonfly

package redo

import (
	"fmt"
	"os"
	"runtime/debug"
	"syscall"
)

// mapping is a file in memory: what is copied there is in the system's cache at once, for
// a hundredth of what a call of the system costs.
type mapping struct{ memory []byte }

func newMapping(file *os.File, size int) (mapping, error) {
	memory, err := syscall.Mmap(int(file.Fd()), 0, size, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
	if err != nil {
		return mapping{}, fmt.Errorf("mapping %s: %w", file.Name(), err)
	}
	return mapping{memory}, nil
}

// write copies b to an offset. A disk that has no room, because the file system copies what
// is written to, or that is broken, is told by a fault.
func (m mapping) write(b []byte, offset int) (err error) {
	defer func(before bool) {
		debug.SetPanicOnFault(before)
		if fault := recover(); fault != nil {
			err = fmt.Errorf("writing to the redo log: %v", fault)
		}
	}(debug.SetPanicOnFault(true))
	copy(m.memory[offset:], b)
	return nil
}

func (m mapping) close() error {
	if m.memory == nil {
		return nil
	}
	return syscall.Munmap(m.memory)
}
