package redistest

import "syscall"

// attributes put a server into a process group of its own, with the children
// that it forks to write files. It dies with the test's process, which runs no
// cleanup where it panics or is killed.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
