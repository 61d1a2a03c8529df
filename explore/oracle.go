//go:build explore

package explore

import (
	"bytes"
	"fmt"
	"slices"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"

	"inlinefs/internal/sched"
)

// judge compares what was read with what some order of the operations that worked gives. Operations of one actor keep their order; those
// that failed have no effect.
func (w *world) judge(content []byte, st fuse.Status) (out []sched.Failure) {
	fail := func(class, format string, a ...any) {
		out = append(out, sched.Failure{Class: class, Detail: fmt.Sprintf(format, a...)})
	}
	if st != fuse.OK {
		fail("unexpected-error", "read at the end: %v", st)
		return out
	}
	violated := len(w.fs.Report().Violations) > 0
	for _, o := range w.ops {
		switch {
		case o.st == fuse.OK || !o.ran:
		case o.kind == opStore && !w.failed && !violated:
			fail("sigbus", "%s: %v, and nothing was made to fail", o, o.st)
		case w.failed && o.st == fuse.Status(syscall.ENOSPC), violated && o.st == fuse.EIO, o.kind == opStore, o.st == fuse.Status(syscall.EDEADLK):
		default:
			fail("unexpected-error", "%s: %v", o, o.st)
		}
	}
	ends, all := w.outcomes()
	if !ends[string(content)] {
		class, text := w.missing(content)
		fail(class, "the file ends as %s: %s", show(content), text)
	}
	for _, o := range w.ops {
		if o.kind == opRead && o.ran && o.st == fuse.OK && !all[string(o.got)] {
			fail("torn-read", "%s returned %s, which the file never was", o, show(o.got))
		}
	}
	return out
}

// outcomes are the contents that the operations can end in, and all that the file can be on the way, over every order.
func (w *world) outcomes() (ends, all map[string]bool) {
	ends, all = map[string]bool{}, map[string]bool{}
	queues := make([][]*op, len(w.sc.Actors))
	for _, o := range w.ops {
		if o.ran && (o.st == fuse.OK || o.kind == opTruncate || o.kind == opFallocate) {
			queues[o.actor] = append(queues[o.actor], o)
		}
	}
	var walk func(state []byte)
	walk = func(state []byte) {
		all[string(state)] = true
		done := true
		for a := range queues {
			if len(queues[a]) == 0 {
				continue
			}
			done = false
			o := queues[a][0]
			queues[a] = queues[a][1:]
			walk(o.apply(state))
			if o.st != fuse.OK {
				walk(state) // it may have failed before or after its effect
			}
			queues[a] = append([]*op{o}, queues[a]...)
		}
		if done {
			ends[string(state)] = true
		}
	}
	walk(w.sc.start())
	if w.c.lost { // a write-back was refused with an error that msync returns: its stores may be missing
		for n := range w.ops {
			if w.ops[n].kind == opStore && w.ops[n].st == fuse.OK {
				w.ops[n].st = fuse.EIO
				e, a := w.outcomes()
				w.ops[n].st = fuse.OK
				for k := range e {
					ends[k] = true
				}
				for k := range a {
					all[k] = true
				}
			}
		}
	}
	return ends, all
}

// survivors are the contents that a crash may leave: of every order of every subset of the operations, those with all that was owed. A
// store or truncation that failed may have had its effect as well.
func (w *world) survivors() map[string]bool {
	out := map[string]bool{}
	queues := make([][]*op, len(w.sc.Actors))
	for _, o := range w.ops {
		if o.ran {
			queues[o.actor] = append(queues[o.actor], o)
		}
	}
	var walk func(state []byte, owed int)
	walk = func(state []byte, owed int) {
		if owed == len(w.owed) {
			out[string(state)] = true
		}
		for a := range queues {
			if len(queues[a]) == 0 {
				continue
			}
			o := queues[a][0]
			queues[a] = queues[a][1:]
			n := owed
			if slices.Contains(w.owed, o) {
				n++
			}
			walk(o.apply(state), n)
			walk(state, owed)
			queues[a] = append([]*op{o}, queues[a]...)
		}
	}
	walk(w.sc.start(), 0)
	return out
}

// missing names the class of a wrong content: whose bytes are not there.
func (w *world) missing(content []byte) (class, text string) {
	for _, o := range w.ops {
		if !o.ran || o.st != fuse.OK || o.kind != opWrite && o.kind != opStore {
			continue
		}
		end := o.off + len(o.data)
		have := 0
		for k := o.off; k < min(end, len(content)); k++ {
			if content[k] == o.data[k-o.off] {
				have++
			}
		}
		if have == len(o.data) {
			continue
		}
		class = "lost-write"
		if o.kind == opStore {
			class = "lost-store"
		}
		if have > 0 {
			class = "torn-write"
		}
		return class, fmt.Sprintf("%d of %d bytes of %s are there", have, len(o.data), o)
	}
	if start := w.sc.start(); len(content) >= len(start) && bytes.Count(content, []byte{start0}) < bytes.Count(start, []byte{start0})-64 {
		return "lost-write", "what the file held before is gone"
	}
	return "data-mismatch", "no order of the operations gives that"
}

// show prints content as runs: "o*8 W*8 0*4".
func show(b []byte) string {
	if len(b) == 0 {
		return "empty"
	}
	var out bytes.Buffer
	for i := 0; i < len(b); {
		j := i
		for j < len(b) && b[j] == b[i] {
			j++
		}
		c := string(rune(b[i]))
		if b[i] == 0 {
			c = "\\0"
		}
		fmt.Fprintf(&out, "%s*%d ", c, j-i)
		i = j
	}
	return string(bytes.TrimSpace(out.Bytes()))
}
