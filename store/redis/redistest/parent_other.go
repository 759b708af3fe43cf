//go:build unix && !linux

package redistest

import "syscall"

// attributes put a server into a process group of its own, with the children
// that it forks to write files.
func attributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
