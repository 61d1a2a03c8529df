//go:build explore

package explore

import (
	"bytes"
	"compress/gzip"
	_ "embed" // the base images
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"

	"inlinefs/blockdev"
	"inlinefs/check"
	"inlinefs/fs"
	"inlinefs/internal/event"
	"inlinefs/internal/fserr"
	"inlinefs/internal/lock"
	"inlinefs/internal/sched"
	"inlinefs/mm"
	"inlinefs/ondisk"
	"inlinefs/super"
)

//go:embed testdata/plain.img.gz
var plainImage []byte

//go:embed testdata/journal.img.gz
var journalImage []byte

func unpack(gz []byte) ([]byte, error) {
	r, err := gzip.NewReader(bytes.NewReader(gz))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}

// base is the image that every execution of a scenario begins with.
type base struct {
	img  []byte
	node uint64 // of the file
	size uint64 // of the file
}

var quiet = slog.New(slog.DiscardHandler)

// mount opens img with the given strategy as a mount does, but for the threads.
func mount(dev blockdev.Device, strategy string, s super.Options, spaces func(uint32) *mm.AddressSpace) (*fs.FileSystem, error) {
	s.Log, s.CacheSize, s.Errors = quiet, 1<<20, 1
	var f *fs.FileSystem
	s.Strategy = strategy
	s.Events = func(ino uint64) []event.Event { return f.EventsOf(ino) }
	sb, err := super.Open(dev, s)
	if err != nil {
		return nil, err
	}
	f, err = fs.New(sb, fs.Options{Log: quiet, Mmap: fs.MmapObserve, Strategy: strategy, Spaces: spaces})
	if err != nil || !sb.Journal.Journalled() {
		return f, err
	}
	// As Begin does on a mount: a crash from here on is for the journal to mend.
	return f, sb.UpdateSuper(func(s ondisk.Super) { s.SetFeatureIncompat(s.FeatureIncompat() | ondisk.IncompatRecover) })
}

func noSpaces(uint32) *mm.AddressSpace { return nil }

// newBase makes the image of a scenario: one file, with an inline content unless it is to be fresh.
func newBase(img []byte, content []byte) (*base, error) {
	b := &base{img: slices.Clone(img), size: uint64(len(content))}
	f, err := mount(blockdev.NewMem(b.img), "premmap", super.Options{}, noSpaces)
	if err != nil {
		return nil, err
	}
	var out fuse.CreateOut
	in := fuse.CreateIn{InHeader: fuse.InHeader{NodeId: fuse.FUSE_ROOT_ID}, Mode: 0o644, Flags: syscall.O_RDWR}
	if st := f.Create(nil, &in, "f", &out); st != fuse.OK {
		return nil, fmt.Errorf("file of the base image: %v", st)
	}
	b.node = out.NodeId
	if len(content) > 0 {
		in := fuse.WriteIn{InHeader: fuse.InHeader{NodeId: b.node}, Fh: observed, Size: uint32(len(content)), WriteFlags: fuse.WRITE_LOCKOWNER}
		if _, st := f.Write(nil, &in, content); st != fuse.OK {
			return nil, fmt.Errorf("content of the base image: %v", st)
		}
	}
	f.Forget(b.node, 1)
	return b, f.Stop()
}

// world is one execution of a scenario.
type world struct {
	sc     *Scenario
	base   *base
	dev    *blockdev.Overlay
	fs     *fs.FileSystem
	c      *client
	spaces map[uint32]*mm.AddressSpace
	ops    []*op             // of all actors
	broken bool              // a write to the device was made to fail: the image is what a crash leaves
	failed bool              // a failure was injected
	cut    *blockdev.Overlay // the device as the crash left it
	owed   []*op             // what had to be durable by then
	// survived is the file's content after the crash and the recovery.
	survived []byte
	buf      [pageSize]byte
	judged   map[string][]sched.Failure // shared by the executions of a search: verdicts by final image
	ev       []event.Event
	first    *event.Violation
}

// fork is a fresh world over b.
func (sc *Scenario) fork(b *base, strategy string, judged map[string][]sched.Failure) (*world, error) {
	w := &world{sc: sc, base: b, dev: blockdev.NewOverlay(blockdev.NewMemReadOnly(b.img)), spaces: map[uint32]*mm.AddressSpace{}, judged: judged}
	for _, a := range sc.Actors {
		if w.spaces[a.Pid] == nil {
			w.spaces[a.Pid] = mm.NewAddressSpace(a.Pid)
			w.spaces[a.Pid].NoRetry = a.NoRetry
		}
	}
	var err error
	w.fs, err = mount(stepped{w.dev, w}, strategy, super.Options{Inject: w.inject}, func(pid uint32) *mm.AddressSpace { return w.spaces[pid] })
	if err != nil {
		return nil, err
	}
	w.c = newClient(w, b.node, b.size)
	w.fs.SetNotifier(w.c)
	// The kernel knows the file: a reference for its lookup, and an observed handle.
	if st := w.fs.Lookup(nil, &fuse.InHeader{NodeId: fuse.FUSE_ROOT_ID}, "f", &fuse.EntryOut{}); st != fuse.OK {
		return nil, fmt.Errorf("lookup: %v", st)
	}
	if st := w.fs.Open(nil, &fuse.OpenIn{InHeader: w.c.header(1), Flags: syscall.O_RDWR}, &fuse.OpenOut{}); st != fuse.OK {
		return nil, fmt.Errorf("open: %v", st)
	}
	for n := range sc.Before {
		o := sc.Before[n]
		if st := o.run(w, 1); st != fuse.OK {
			return nil, fmt.Errorf("%s before the race: %v", &o, st)
		}
	}
	return w, nil
}

// stepped makes every write to the device a step that a crash may come before or after, in the scenarios that have one. That is a switch point
// between the step by which package extent announces file data and the write itself, so that reads are steps then as well.
type stepped struct {
	*blockdev.Overlay
	w *world
}

// ReadAt reads after the step.
func (d stepped) ReadAt(p []byte, off int64) (int, error) {
	if d.w.sc.crashes() {
		lock.ReadPoint("device", 0)
	}
	return d.Overlay.ReadAt(p, off)
}

// WriteAt writes after the step, or fails if the search wants that.
func (d stepped) WriteAt(p []byte, off int64) (int, error) {
	if d.w.sc.crashes() {
		lock.Point("device", 0)
	}
	if d.w.inject("device write", 0) != nil {
		d.w.broken = true
		return 0, fmt.Errorf("write at %d: %w", off, fserr.IO)
	}
	return d.Overlay.WriteAt(p, off)
}

// crash remembers the device as it is, and which operations an fsync has made durable.
func (w *world) crash() {
	lock.Point("device", 0)
	w.cut = w.dev.Fork()
	for n, o := range w.ops {
		for _, later := range w.ops[n+1:] {
			if later.actor == o.actor && later.kind == opFsync && later.done && later.st == fuse.OK && o.ran && o.kind == opWrite && o.st == fuse.OK {
				w.owed = append(w.owed, o)
				break
			}
		}
	}
}

// inject asks the search whether a step fails; it is silent outside of an exploration.
func (w *world) inject(step string, _ uint64) error {
	if sched.Running() < 0 || !slices.Contains(w.sc.Faults, step) || sched.Choose(step+" fails", 2) == 0 {
		return nil
	}
	w.failed = true
	return fmt.Errorf("injected failure of %s: %w", step, fserr.NoSpace)
}

// read is a READ of the first n bytes.
func (w *world) read(h fuse.InHeader, flags uint32, n int) ([]byte, fuse.Status) {
	in := fuse.ReadIn{InHeader: h, Fh: observed, ReadFlags: flags, Size: uint32(n)}
	buf := make([]byte, n)
	r, st := w.fs.Read(nil, &in, buf)
	if st != fuse.OK {
		return nil, st
	}
	b, st := r.Bytes(buf)
	r.Done()
	return b, st
}

// finish judges an execution: what the mount has counted, the file's content, and the image.
func (w *world) finish() []sched.Failure {
	var out []sched.Failure
	w.c.launder(true)
	r := w.fs.Report()
	for _, class := range slices.Sorted(maps.Keys(r.Violations)) {
		if class == "lock-cycle" {
			continue // the scheduler finds the cycle, with both chains
		}
		detail := fmt.Sprintf("%d", r.Violations[class])
		if r.First != nil && r.First.Class == class {
			detail = r.First.Message
		}
		out = append(out, sched.Failure{Class: class, Detail: detail})
	}
	if w.broken {
		if w.cut == nil {
			w.crash()
		}
		return append(out, w.judgeCrash()...)
	}
	w.first, w.ev = r.First, w.fs.EventsOf(w.base.node)
	content, st := w.read(w.c.header(0), fuse.READ_LOCKOWNER, pageSize)
	out = append(out, w.judge(content, st)...)
	if w.cut != nil {
		out = append(out, w.judgeCrash()...)
	}
	if err := w.fs.Stop(); err != nil {
		out = append(out, sched.Failure{Class: "unexpected-error", Detail: "unmount: " + err.Error()})
	} else if n := w.fs.BusyBlocks(); n > 0 {
		out = append(out, sched.Failure{Class: "hold-leak", Detail: fmt.Sprintf("%d free blocks are still kept from use", n)})
	}
	return append(out, judgeImage(w.dev)...)
}

// judgeCrash mounts what the crash left, as the next mount would: replay, orphans, and then the file and the image.
func (w *world) judgeCrash() (out []sched.Failure) {
	const class = "crash-inconsistent"
	fail := func(format string, a ...any) []sched.Failure {
		return append(out, sched.Failure{Class: class, Detail: "after the crash: " + fmt.Sprintf(format, a...)})
	}
	dev, err := fs.Recover(w.cut, false, quiet)
	if err != nil {
		return fail("recovery: %v", err)
	}
	f, err := mount(dev, "premmap", super.Options{}, noSpaces)
	if err != nil {
		return fail("mount: %v", err)
	}
	in := fuse.ReadIn{InHeader: fuse.InHeader{NodeId: w.base.node}, Fh: observed, ReadFlags: fuse.READ_LOCKOWNER, Size: pageSize}
	buf := make([]byte, pageSize)
	r, st := f.Read(nil, &in, buf)
	if st != fuse.OK {
		return fail("read: %v", st)
	}
	got, _ := r.Bytes(buf)
	w.survived = got
	if !w.survivors()[string(got)] {
		out = fail("the file is %s, which no set of the operations makes of it with what was fsynced", show(got))
	}
	// The counts of the superblock are in no transaction: the mount has counted, and its end writes them, as the kernel's does.
	if err := f.Stop(); err != nil {
		return fail("unmount: %v", err)
	}
	for _, f := range judgeImage(dev) {
		out = fail("%s: %s", f.Class, f.Detail)
	}
	return out
}

// judgeImage is package check's opinion of the image.
func judgeImage(dev blockdev.Device) (out []sched.Failure) {
	rep, err := check.Image(dev, check.Options{MaxFindings: 8})
	if err != nil {
		return []sched.Failure{{Class: "image", Detail: err.Error()}}
	}
	for _, f := range rep.Findings {
		switch f.Class {
		case check.ClassState, check.ClassNeedsRecovery, check.ClassOrphan: // a mount without Begin; what the next mount finishes
		case check.ClassBlockLeak:
			out = append(out, sched.Failure{Class: "leak", Detail: f.Text})
		case check.ClassInlineTail:
			out = append(out, sched.Failure{Class: "stale-data", Detail: f.Text})
		default:
			out = append(out, sched.Failure{Class: "image", Detail: f.String()})
		}
	}
	return out
}
