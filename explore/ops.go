//go:build explore

package explore

import (
	"bytes"
	"fmt"

	"github.com/hanwen/go-fuse/v2/fuse"

	"inlinefs/internal/sched"
)

// start0 is what the file holds before the race.
const start0 = 'o'

type opKind uint8

const (
	opWrite opKind = iota
	opStore
	opAnnounce
	opTouch
	opTruncate
	opFallocate
	opSetxattr
	opRead
	opWriteback
	opEvict
	opFsync
	opCommit
	opCrash
)

var opNames = [...]string{"write", "store", "mmap", "touch", "truncate", "fallocate", "setxattr", "read", "writeback", "evict", "fsync", "commit", "crash"}

// op is one system call of an actor, or one event of its machine.
type op struct {
	kind  opKind
	off   int
	data  []byte
	size  uint64
	actor int
	skip  bool // left out by shrinking

	ran  bool // it was begun
	done bool // it has returned
	st   fuse.Status
	got  []byte
}

// String is "write W*8 at 8".
func (o *op) String() string {
	switch o.kind {
	case opWrite, opStore:
		return fmt.Sprintf("%s %s at %d", opNames[o.kind], show(o.data), o.off)
	case opTruncate, opFallocate:
		return fmt.Sprintf("%s %d", opNames[o.kind], o.size)
	}
	return opNames[o.kind]
}

func wr(c byte, off, n int) op { return op{kind: opWrite, off: off, data: bytes.Repeat([]byte{c}, n)} }
func st(c byte, off, n int) op { return op{kind: opStore, off: off, data: bytes.Repeat([]byte{c}, n)} }

// run does the operation for thread pid.
func (o *op) run(w *world, pid uint32) fuse.Status {
	o.ran = true
	c := w.c
	switch o.kind {
	case opWrite:
		o.st = c.write(pid, uint64(o.off), o.data)
	case opStore:
		o.st = c.store(pid, uint64(o.off), o.data)
	case opAnnounce:
		o.st = c.announce(pid)
	case opTouch:
		o.st = c.touch(pid)
	case opTruncate:
		o.st = c.truncate(pid, o.size)
	case opFallocate:
		o.st = c.fallocate(pid, o.size)
	case opSetxattr:
		o.st = c.setxattr(pid, "user.explore", bytes.Repeat([]byte{'x'}, int(o.size)))
	case opRead:
		o.got, o.st = c.read(pid, pageSize)
	case opWriteback:
		o.st = c.launder(false)
	case opEvict:
		o.st = c.launder(true)
	case opFsync:
		o.st = c.fsync(pid)
	case opCommit:
		o.st = fuse.ToStatus(w.fs.Commit())
	case opCrash:
		w.crash()
	}
	o.done = true
	sched.Note(fmt.Sprintf("%s: %v", o, o.st))
	return o.st
}

// apply is the operation's effect on a model of the file.
func (o *op) apply(state []byte) []byte {
	switch o.kind {
	case opWrite:
		return put(state, o.off, o.data, true)
	case opStore:
		return put(state, o.off, o.data, false)
	case opTruncate:
		return resize(state, int(o.size))
	case opFallocate:
		return resize(state, max(len(state), int(o.size)))
	}
	return state
}

func resize(state []byte, n int) []byte {
	out := make([]byte, n)
	copy(out, state)
	return out
}

// put stores p at off; a write grows the file, a store through a mapping is cut at its end.
func put(state []byte, off int, p []byte, grow bool) []byte {
	n := len(state)
	if grow {
		n = max(n, off+len(p))
	}
	out := resize(state, n)
	if off < n {
		copy(out[off:], p)
	}
	return out
}
