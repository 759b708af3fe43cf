// Package redo keeps what a process knows and has not committed yet through its end:
// a log in a file, for records that need not outlive the machine's power, because what
// they say can be found out in another way then, but that nobody should lose because a
// process was killed.
//
// A record is written to the system's cache, which costs nothing to speak of where a
// durable one costs a commit. It lies in a slot of its own until it is done. A process that
// is killed between committing a record and noting that leaves it behind: what is done with
// records must be harmless when it is done twice.
package redo

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/gofrs/flock"
)

const (
	// MaxSize is the length of the longest record, in bytes.
	MaxSize = slotSize - slotHeader
	// Slots is how many records can wait at a time.
	Slots = 4096

	slotSize   = 512
	lengthSize = 2
	slotHeader = lengthSize + 4 // and checksum
	// lockEvery is how often it is tried again to get a lock.
	lockEvery = 5 * time.Millisecond
	// suffix is that of the files with records, and lockSuffix of those that are
	// locked for as long as their process lives.
	suffix     = ".redo"
	lockSuffix = ".lock"
	// takenSuffix is added to the name of a file whose records somebody is taking, and
	// asideSuffix to that of one that was set aside.
	takenSuffix = ".taken"
	asideSuffix = ".aside"
)

var (
	// ErrFull means that as many records wait as there is room for.
	ErrFull = errors.New("the redo log is full")
	// ErrTooLong means that a record is longer than [MaxSize].
	ErrTooLong = errors.New("the record is too long for the redo log")
	// ErrAside is for the one who takes records, and cannot read some: their file is set
	// aside, under a name that ends in ".aside".
	ErrAside = errors.New("set aside")
)

var checksums = crc32.MakeTable(crc32.Castagnoli)

// Slot is where a record lies.
type Slot int32

// Log is the log of this process. It is safe for concurrent use.
type Log struct {
	file    *os.File
	mapping mapping
	lock    *flock.Flock

	mu     sync.Mutex
	closed bool
	free   []Slot // what was used last is used next, so that few pages are
}

// Open makes a log in a folder, which it makes where it is missing, for the owner's eyes
// alone. Its room is taken at once: a disk that is full later does not matter.
func Open(dir string) (_ *Log, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	l := &Log{free: make([]Slot, Slots)}
	for i := range l.free {
		l.free[i] = Slot(Slots - 1 - i)
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("making a redo log in %s: %w", dir, err), l.remove())
		}
	}()
	named, err := os.CreateTemp(dir, "*"+lockSuffix) // mode 0600
	if err != nil {
		return nil, err
	}
	l.lock = flock.New(named.Name())
	if err := named.Close(); err != nil {
		return nil, err
	}
	if err := l.lock.Lock(); err != nil {
		return nil, err
	}
	// Nobody looks at what is locked before there is a file with records beside it.
	path := strings.TrimSuffix(l.lock.Path(), lockSuffix) + suffix
	if l.file, err = os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600); err != nil {
		return nil, err
	}
	if _, err := l.file.Write(make([]byte, Slots*slotSize)); err != nil {
		return nil, err
	}
	l.mapping, err = newMapping(l.file, Slots*slotSize)
	return l, err
}

// Write writes a record, which is not empty. Once it returns without an error, the end of the process does
// not lose it. [ErrFull] and [ErrTooLong] say why it cannot be written, as do errors of the
// disk's own.
func (l *Log) Write(record []byte) (Slot, error) {
	if len(record) > MaxSize {
		return 0, ErrTooLong
	}
	slot, err := l.take()
	if err != nil {
		return 0, err
	}
	var b [slotSize]byte
	n := len(encode(b[:0], record))
	if err := l.mapping.write(b[:n], int(slot)*slotSize); err != nil {
		l.Done(slot)
		return 0, err
	}
	return slot, nil
}

// take returns a slot that is not used.
func (l *Log) take() (Slot, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch n := len(l.free); {
	case l.closed:
		return 0, os.ErrClosed
	case n == 0:
		return 0, ErrFull
	default:
		slot := l.free[n-1]
		l.free = l.free[:n-1]
		return slot, nil
	}
}

// Done erases a record that is committed.
func (l *Log) Done(slot Slot) {
	_ = l.mapping.write(make([]byte, lengthSize), int(slot)*slotSize) // what stays is done twice
	l.mu.Lock()
	defer l.mu.Unlock()
	l.free = append(l.free, slot)
}

// Close closes the log, when nobody is writing. What is not done stays in its file, for
// [Abandoned].
func (l *Log) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	if len(l.free) < Slots {
		return errors.Join(l.mapping.close(), l.file.Close(), l.lock.Close())
	}
	return l.remove()
}

// remove closes and removes the files that there are.
func (l *Log) remove() (err error) {
	if l.file != nil {
		err = errors.Join(l.mapping.close(), l.file.Close(), os.Remove(l.file.Name()))
	}
	if l.lock != nil {
		err = errors.Join(err, unlock(l.lock))
	}
	return err
}

// unlock gives up a lock and removes its file. Whoever has that open and gets the lock next
// finds no records, and perhaps has removed it.
func unlock(lock *flock.Flock) error {
	err := lock.Close()
	_ = os.Remove(lock.Path())
	return err
}

// Abandoned gives take the records of the logs in a folder whose processes have ended, log
// by log and in no order, and removes a log once take has returned without an error, or sets
// it aside for [ErrAside]. The log of a process that lives, such as own, is left to it. One that
// somebody else is taking is waited for, and taken where that fails. What can be done with the
// others is done even after an error.
func Abandoned(ctx context.Context, dir string, own *Log, take func(records [][]byte) error) error {
	found, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	errs := []error{err}
	for _, file := range found {
		path := filepath.Join(dir, strings.TrimSuffix(file.Name(), takenSuffix))
		if !strings.HasSuffix(path, suffix) || own != nil && own.file.Name() == path {
			continue
		}
		if err := abandoned(ctx, path, take); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", path, err))
		}
	}
	return errors.Join(errs...)
}

func abandoned(ctx context.Context, path string, take func([][]byte) error) error {
	lock := flock.New(strings.TrimSuffix(path, suffix) + lockSuffix)
	taken := path + takenSuffix
	locked, err := lock.TryLock()
	if err == nil && !locked {
		// Who takes a log renames it at once.
		select {
		case <-time.After(lockEvery):
		case <-ctx.Done():
		}
		if _, err := os.Stat(taken); err != nil {
			return nil // its process lives
		}
		locked, err = lock.TryLockContext(ctx, lockEvery)
	}
	if err != nil || !locked {
		return err
	}
	err = os.Rename(path, taken)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return errors.Join(err, lock.Close())
	}
	content, err := os.ReadFile(taken)
	if errors.Is(err, fs.ErrNotExist) { // somebody was faster
		return unlock(lock)
	}
	if records := decodeAll(content); err == nil && len(records) > 0 {
		err = take(records)
	}
	switch {
	case errors.Is(err, ErrAside):
		err = os.Rename(taken, path+asideSuffix)
	case err == nil:
		err = os.Remove(taken)
	default:
		return errors.Join(err, lock.Close())
	}
	return errors.Join(err, unlock(lock))
}

// encode appends a record as it lies in its slot.
func encode(b, record []byte) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(len(record)))
	b = binary.BigEndian.AppendUint32(b, crc32.Checksum(record, checksums))
	return append(b, record...)
}

// decodeAll returns the records of a file. Slots that were never used, or not written to
// their end, have none.
func decodeAll(content []byte) (records [][]byte) {
	for ; len(content) >= slotHeader; content = content[min(slotSize, len(content)):] {
		n := int(binary.BigEndian.Uint16(content))
		if n == 0 || n > min(MaxSize, len(content)-slotHeader) {
			continue
		}
		record := content[slotHeader : slotHeader+n]
		if crc32.Checksum(record, checksums) == binary.BigEndian.Uint32(content[lengthSize:]) {
			records = append(records, record)
		}
	}
	return records
}

// Interface guard
var _ io.Closer = (*Log)(nil)
