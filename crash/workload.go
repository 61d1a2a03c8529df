package crash

import (
	"errors"
	"fmt"
	"math/rand"
	"runtime"
	"strings"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"inlinefs/blockdev"
)

// Run is a recorded workload.
type Run struct {
	Variant Variant
	Seed    int64
	Base    []byte // the image before it
	Log     []blockdev.LogEntry

	model *model
	begun []int // by log entry: the last operation begun before it
	ended []int // by log entry: the last operation ended before it
}

// worker is a workload under way.
type worker struct {
	v      Variant
	rng    *rand.Rand
	rec    *blockdev.Recorder
	s      *session
	m      *model
	open   []*file // without a name, held by a lookup
	serial int
	filler *file // takes all the space when it has blocks
	maxLen int
	// eager has transactions committed as fast as can be during every operation, not only during some.
	eager bool
}

// Record runs a workload of ops operations, chosen by seed, on a copy of base. An operation that ends otherwise than the model says is
// an error.
func Record(v Variant, base []byte, seed int64, ops int) (*Run, error) {
	return record(v, base, seed, func(w *worker) (err error) {
		for n := 0; n < ops && err == nil; n++ {
			err = w.step()
		}
		return err
	})
}

// record runs the operations of a script.
func record(v Variant, base []byte, seed int64, script func(w *worker) error) (*Run, error) {
	w := &worker{v: v, rng: rand.New(rand.NewSource(seed)), m: newModel(), rec: blockdev.NewRecorder(blockdev.NewMem(append([]byte(nil), base...)))}
	w.maxLen = 3 * v.BlockSize
	if err := w.run(script); err != nil {
		return nil, fmt.Errorf("%s seed %d: operation %d (%s): %w", v.Name, seed, w.m.op, w.m.log[w.m.op], err)
	}
	r := &Run{Variant: v, Seed: seed, Base: base, Log: w.rec.Entries(), model: w.m}
	return r, r.index()
}

// index notes for each place in the log which operations had begun and ended.
func (r *Run) index() error {
	b, e := 0, 0
	for n := 0; n <= len(r.Log); n++ {
		r.begun, r.ended = append(r.begun, b), append(r.ended, e)
		if n == len(r.Log) || r.Log[n].Flags&blockdev.LogMark == 0 {
			continue
		}
		var op int
		var what string
		if _, err := fmt.Sscanf(string(r.Log[n].Data), "%s %d", &what, &op); err != nil {
			return fmt.Errorf("log entry %d: mark %q: %w", n, r.Log[n].Data, err)
		}
		if what == "begin" {
			b = op
		} else {
			e = op
		}
	}
	return nil
}

func (w *worker) run(script func(w *worker) error) (err error) {
	if w.s, err = mount(w.rec, w.v, false); err != nil {
		return err
	}
	return errors.Join(script(w), w.s.stop())
}

// op runs one operation between its marks.
func (w *worker) op(what string, fn func() error) error {
	w.m.begin(what)
	w.rec.Mark(fmt.Sprintf("begin %d %s", w.m.op, what))
	if err := w.committing(fn); err != nil {
		return err
	}
	w.m.end()
	w.rec.Mark(fmt.Sprintf("end %d", w.m.op))
	return nil
}

// committing runs fn, at times while transactions are committed as fast as can be: an operation of several handles then is cut between
// them. What the model promises does not depend on it.
func (w *worker) committing(fn func() error) error {
	if !w.eager && w.rng.Intn(5) > 0 || !w.v.Journal {
		return fn()
	}
	s, quit, done := w.s, make(chan struct{}), make(chan error)
	go func() {
		for {
			select {
			case <-quit:
				done <- nil
				return
			default:
				if err := s.super.Journal.Commit(); err != nil {
					<-quit
					done <- fmt.Errorf("commit: %w", err)
					return
				}
			}
			runtime.Gosched()
		}
	}()
	err := fn()
	close(quit)
	return errors.Join(err, <-done)
}

// choices are the operations with their weights.
var choices = []struct {
	weight int
	step   func(w *worker) error
}{
	{14, (*worker).create}, {14, (*worker).overwrite}, {14, (*worker).grow}, {6, (*worker).writeFar}, {9, (*worker).truncate},
	{6, (*worker).fallocate}, {7, (*worker).rename}, {7, (*worker).unlink}, {4, (*worker).mkdir}, {2, (*worker).rmdir},
	{3, (*worker).link}, {3, (*worker).symlink}, {5, (*worker).setxattr}, {2, (*worker).removexattr}, {18, (*worker).fsync},
	{4, (*worker).fsyncDir}, {2, (*worker).forget}, {1, (*worker).remount}, {3, (*worker).mapped}, {1, (*worker).full}, {2, (*worker).openWrite},
	{1, (*worker).storm},
}

func (w *worker) step() error {
	total := 0
	for _, c := range choices {
		total += c.weight
	}
	n := w.rng.Intn(total)
	for _, c := range choices {
		if n -= c.weight; n < 0 {
			return c.step(w)
		}
	}
	return nil
}

// noSpace says whether the answer is one that a full file system gives.
func noSpace(st fuse.Status) bool { return st == fuse.Status(syscall.ENOSPC) }

// name makes a name that no file has; some are long, so that directories outgrow their inodes.
func (w *worker) name() string {
	w.serial++
	n := fmt.Sprintf("n%d", w.serial)
	if w.rng.Intn(3) == 0 {
		n += strings.Repeat("x", w.rng.Intn(40))
	}
	return n
}

func (w *worker) join(dir, name string) string { return dir + "/" + name }

// dir picks a directory.
func (w *worker) dir() string {
	d := w.m.paths(directory)
	return d[w.rng.Intn(len(d))]
}

// pick picks a named file of the kind, "" when there is none.
func (w *worker) pick(k kind) string {
	p := w.m.paths(k)
	if k == directory {
		p = p[1:]
	}
	if len(p) == 0 {
		return ""
	}
	return p[w.rng.Intn(len(p))]
}

// bytes makes n bytes, none of them zero, that show who wrote them.
func (w *worker) bytes(n int) []byte {
	b := make([]byte, n)
	for k := range b {
		b[k] = byte(1 + w.rng.Intn(255))
	}
	return b
}

// length is mostly that of an inline file.
func (w *worker) length() int {
	switch w.rng.Intn(12) {
	case 0, 1:
		return 1 + w.rng.Intn(w.maxLen)
	case 2:
		return 1 + w.rng.Intn(10*w.v.BlockSize)
	case 3, 4:
		return 130 + w.rng.Intn(60)
	}
	return 1 + w.rng.Intn(130)
}

func (w *worker) create() error {
	if limit := 50; len(w.m.names) > limit && !w.v.Storm || len(w.m.names) > 3*limit {
		return w.unlink()
	}
	d, n := w.dir(), w.name()
	return w.op("create "+w.join(d, n), func() error {
		node, st := w.s.create(w.m.names[d].node, n)
		if noSpace(st) {
			return nil
		}
		w.named(d, n, node, regular, st)
		return failed("create", st)
	})
}

// named notes a new name of a new file.
func (w *worker) named(d, n string, node uint64, k kind, st fuse.Status) *file {
	if st != fuse.OK {
		return nil
	}
	f := w.m.add(k)
	f.node, f.lookups, f.links = node, 1, 1
	w.m.edit(func(names map[string]*file) { names[w.join(d, n)] = f })
	w.m.names[d].touched = w.m.op
	return f
}

// store writes p and notes what was stored.
func (w *worker) store(f *file, p []byte, off int) error {
	n, st := w.s.write(f.node, p, int64(off))
	if st != fuse.OK && !noSpace(st) {
		return failed("write", st)
	}
	if n == 0 {
		return nil
	}
	f.change(w.m.op, func(v *version) {
		b := make([]byte, max(len(v.data), off+n))
		copy(b, v.data)
		copy(b[off:], p[:n])
		v.data = b
	})
	return nil
}

func (w *worker) overwrite() error {
	p := w.pick(regular)
	if p == "" {
		return nil
	}
	f := w.m.names[p]
	size := len(f.last().data)
	if size == 0 {
		return w.grow()
	}
	off := w.rng.Intn(size)
	n := min(1+w.rng.Intn(w.v.BlockSize), size-off)
	return w.op(fmt.Sprintf("overwrite %s %d+%d", p, off, n), func() error { return w.store(f, w.bytes(n), off) })
}

// grow appends, or writes from the start, so that inline files become ordinary ones.
func (w *worker) grow() error {
	p := w.pick(regular)
	if p == "" {
		return w.create()
	}
	f := w.m.names[p]
	off, n := len(f.last().data), w.length()
	if w.rng.Intn(3) == 0 {
		off = w.rng.Intn(off + 1)
	}
	if off+n > 24*w.v.BlockSize {
		return nil
	}
	return w.op(fmt.Sprintf("write %s %d+%d", p, off, n), func() error { return w.store(f, w.bytes(n), off) })
}

// writeFar leaves a hole.
func (w *worker) writeFar() error {
	p := w.pick(regular)
	if p == "" {
		return nil
	}
	f := w.m.names[p]
	size := len(f.last().data)
	off, n := size+w.rng.Intn(2*w.v.BlockSize), w.length()
	if w.rng.Intn(2) == 0 {
		off = size + w.rng.Intn(200)
	}
	if off+n > 24*w.v.BlockSize {
		return nil
	}
	return w.op(fmt.Sprintf("write past the end %s %d+%d", p, off, n), func() error { return w.store(f, w.bytes(n), off) })
}

func (w *worker) truncate() error {
	p := w.pick(regular)
	if p == "" {
		return nil
	}
	f := w.m.names[p]
	old := len(f.last().data)
	size := 0
	switch w.rng.Intn(6) {
	case 0:
	case 1:
		size = old + w.rng.Intn(2*w.v.BlockSize)
	case 2:
		size = w.length()
	default:
		size = w.rng.Intn(old + 1)
	}
	return w.op(fmt.Sprintf("truncate %s from %d to %d", p, old, size), func() error { return w.resize(f, size) })
}

func (w *worker) resize(f *file, size int) error {
	st := w.s.truncate(f.node, uint64(size))
	if noSpace(st) {
		return nil
	}
	if st == fuse.OK {
		f.change(w.m.op, func(v *version) {
			old := len(v.data)
			b := make([]byte, size)
			copy(b, v.data)
			v.data = b
			if size < old {
				// The rest of the last block is zeroed in place.
				v.zero = span{size, min(old, (size+w.v.BlockSize-1)/w.v.BlockSize*w.v.BlockSize)}
			}
		})
	}
	return failed("truncate", st)
}

func (w *worker) fallocate() error {
	p := w.pick(regular)
	if p == "" {
		return nil
	}
	f := w.m.names[p]
	size := len(f.last().data)
	off, n := w.rng.Intn(size+w.v.BlockSize), 1+w.rng.Intn(3*w.v.BlockSize)
	modes := []struct {
		name string
		mode uint32
	}{
		{"fallocate", 0}, {"fallocate", unix.FALLOC_FL_KEEP_SIZE}, {"punch", unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE},
		{"zero", unix.FALLOC_FL_ZERO_RANGE}, {"zero", unix.FALLOC_FL_ZERO_RANGE | unix.FALLOC_FL_KEEP_SIZE},
	}
	m := modes[w.rng.Intn(len(modes))]
	return w.op(fmt.Sprintf("%s %s mode %d %d+%d", m.name, p, m.mode, off, n), func() error {
		st := w.s.fallocate(f.node, m.mode, uint64(off), uint64(n))
		if noSpace(st) && m.mode&(unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_ZERO_RANGE) == 0 {
			return nil
		}
		if st != fuse.OK && !noSpace(st) {
			return failed("fallocate", st)
		}
		f.change(w.m.op, func(v *version) {
			b := make([]byte, len(v.data))
			if st == fuse.OK && m.mode&unix.FALLOC_FL_KEEP_SIZE == 0 {
				b = make([]byte, max(len(v.data), off+n))
			}
			copy(b, v.data)
			if m.name != "fallocate" {
				v.zero = span{off, min(off+n, len(b))}
				if st == fuse.OK && off < len(b) {
					clear(b[off:min(off+n, len(b))])
				}
			}
			v.data = b
		})
		return nil
	})
}
