package inline_test

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"syscall"
	"testing"

	"inlinefs/blockdev"
	"inlinefs/extent"
	"inlinefs/inline"
	"inlinefs/inode"
	"inlinefs/internal/fserr"
	"inlinefs/internal/testfs"
	"inlinefs/internal/testimage"
	"inlinefs/journal"
)

// scene is an inline file on an image, a writer and a fault, whose steps the tests put in an order of their own.
type scene struct {
	*testfs.FS
	i             *inode.Inode
	old           []byte
	writer, fault *journal.Task
}

// newScene opens the image with a file of 100 inline bytes.
func newScene(t *testing.T, img, strategy string, damaged bool) *scene {
	t.Helper()
	orderJudged(t, strategy)
	s := &scene{FS: testfs.Open(t, img, testfs.Options{Strategy: strategy, Damaged: damaged, ErrorsWanted: !damaged}), old: pattern(1, 100)}
	s.i = s.NewFile()
	t.Cleanup(func() { // before the image is closed
		s.Put(s.i)
		must(t, errors.Join(s.writer.End(), s.fault.End()))
	})
	if _, err := write(s.FS, s.i, s.old, 0); err != nil || !s.i.HasInline() {
		t.Fatalf("write: %v, inline %v", err, s.i.HasInline())
	}
	must(t, s.Sync())
	s.writer, s.fault = s.Journal.NewTask("write", 1), s.Journal.NewTask("fault", 2)
	return s
}

// whileDestroyed runs fn in the failing conversion of the seed image, after the inline data was destroyed and before it is restored.
func (s *scene) whileDestroyed(t *testing.T, fn func()) {
	t.Helper()
	s.Bufs.Drop()
	ran := false
	bitmap := func(block uint64) bool { return block == s.Group(0).Desc.BlockBitmap() }
	s.Once(blockdev.OpRead, bitmap, func() error {
		ran = true
		if s.i.HasInline() || s.i.MayInline.Load() {
			t.Error("the inline data is still there in the middle of the conversion")
		}
		fn()
		return nil
	})
	if err := s.convert(); err == nil {
		t.Fatal("the conversion did not fail")
	}
	if !ran {
		t.Fatal("the conversion did not read the bitmap")
	}
}

// convert is the fault's conversion. Another task is another goroutine: one that holds two handles would break the lock order.
func (s *scene) convert() error {
	end := make(chan error)
	go func() { end <- s.Engine.ConvertRestoring(s.fault, s.i) }()
	return <-end
}

// begin and end are the two steps of write(2).
func (s *scene) begin(t *testing.T, p []byte) inline.Token {
	t.Helper()
	tok, err := s.Engine.WriteBegin(s.writer, s.i, 0, len(p))
	must(t, err)
	return tok
}

func (s *scene) end(tok inline.Token, p []byte) error {
	_, err := s.Engine.WriteEnd(s.writer, s.i, tok, p, 0)
	return err
}

// counted wants just these violations.
func (s *scene) counted(t *testing.T, want ...journal.Class) {
	t.Helper()
	got := s.Journal.V.Counts()
	if len(got) != len(want) {
		t.Errorf("violations %v, want %v", got, want)
	}
	for _, c := range want {
		if got[string(c)] != 1 {
			t.Errorf("violations %v, want one of %s", got, c)
		}
	}
	if n := s.Journal.OpenHandles(); n != 0 {
		t.Errorf("%d handles are open", n)
	}
}

// holds wants the file inline (or not) with just these bytes.
func (s *scene) holds(t *testing.T, isInline bool, want []byte) {
	t.Helper()
	got, err := read(s.i, len(want))
	if err != nil || !bytes.Equal(got, want) || s.i.Size() != uint64(len(want)) {
		t.Errorf("the file holds %q (%v), size %d, want %q", got, err, s.i.Size(), want)
	}
	if s.i.HasInline() != isInline || s.i.MayInline.Load() != isInline {
		t.Errorf("inline %v, may be inline %v, want %v", s.i.HasInline(), s.i.MayInline.Load(), isInline)
	}
}

// TestNilHandle: begun while the data was destroyed, ended after it was restored: the crash of the report.
func TestNilHandle(t *testing.T) {
	s := newScene(t, testimage.Seed(t), "mkwrite", true)
	var tok inline.Token
	s.whileDestroyed(t, func() { tok = s.begin(t, []byte("new")) })
	if tok.Mode != inline.BlockMode {
		t.Fatalf("begun in %v mode, want block", tok.Mode)
	}
	err := s.end(tok, []byte("new"))
	var v *journal.ViolationError
	if !errors.As(err, &v) || v.Class != journal.NilHandle || !errors.Is(err, fserr.IO) {
		t.Errorf("the write ends with %v, want a nil handle", err)
	}
	s.counted(t, journal.NilHandle)
	s.holds(t, true, s.old)
	first := s.Journal.V.First()
	if first.Ino != uint64(s.i.Ino) || first.Task != s.writer.ID || first.Strategy != "mkwrite" || !strings.Contains(first.Mirror, "BUG_ON(ref_cnt == 0)") {
		t.Errorf("record %+v", first)
	}
	if n := s.Live.Restores.Load(); n != 1 {
		t.Errorf("%d restores counted, want 1", n)
	}
}

// TestModeMismatch: begun inline, ended while the data is destroyed.
func TestModeMismatch(t *testing.T) {
	s := newScene(t, testimage.Seed(t), "mkwrite", true)
	tok := s.begin(t, []byte("new"))
	if tok.Mode != inline.InlineMode {
		t.Fatalf("begun in %v mode, want inline", tok.Mode)
	}
	var err error
	s.whileDestroyed(t, func() { err = s.end(tok, []byte("new")) })
	if !errors.Is(err, fserr.IO) {
		t.Errorf("the write ends with %v, want %v", err, fserr.IO)
	}
	s.counted(t, journal.ModeMismatch)
	s.holds(t, true, s.old)
}

// TestConvertedBetween: begun inline, ended after a conversion that worked.
func TestConvertedBetween(t *testing.T) {
	s := newScene(t, testimage.Make(t, options(256)), "mkwrite", false)
	tok := s.begin(t, []byte("new"))
	must(t, s.convert())
	if err := s.end(tok, []byte("new")); !errors.Is(err, fserr.IO) {
		t.Errorf("the write ends with %v, want %v", err, fserr.IO)
	}
	s.counted(t, journal.ModeMismatch)
	s.holds(t, false, s.old)
}

// TestFlipUnseen: the whole failing conversion runs between begin and end; nothing is lost, and the flip is counted.
func TestFlipUnseen(t *testing.T) {
	s := newScene(t, testimage.Seed(t), "mkwrite", true)
	tok := s.begin(t, []byte("new"))
	s.whileDestroyed(t, func() {})
	must(t, s.end(tok, []byte("new")))
	s.counted(t)
	if n := s.Live.Flips.Load(); n != 1 {
		t.Errorf("%d flips counted, want 1", n)
	}
	s.holds(t, true, append([]byte("new"), s.old[3:]...))
}

// TestInlineWriteback: begun and ended in block mode in the middle of a conversion that fails later: the map is not the writer's.
func TestInlineWriteback(t *testing.T) {
	for _, fails := range []bool{false, true} {
		s := newScene(t, testimage.Make(t, options(256)), "mkwrite", false)
		free := s.FreeBlocks()
		var err error
		data := func(block uint64) bool { return s.ValidBlocks(block, 1) }
		s.Once(blockdev.OpWrite, data, func() error { // the converter writes its block
			err = s.end(s.begin(t, []byte("new")), []byte("new"))
			if fails {
				return syscall.EIO
			}
			return nil
		})
		if e := s.convert(); (e != nil) != fails {
			t.Errorf("conversion: %v, want an error: %v", e, fails)
		}
		var v *journal.ViolationError
		if !errors.As(err, &v) || v.Class != journal.InlineWriteback {
			t.Errorf("the write ends with %v, want %s", err, journal.InlineWriteback)
		}
		s.counted(t, journal.InlineWriteback)
		s.holds(t, fails, s.old)
		if !fails {
			free--
		}
		if got := s.FreeBlocks(); got != free {
			t.Errorf("%d blocks are free, want %d", got, free)
		}
	}
}

// TestHandleInFault: a fault under an open handle is seen before anything is done.
func TestHandleInFault(t *testing.T) {
	s := newScene(t, testimage.Make(t, options(256)), "mkwrite", false)
	err := s.With(s.fault, 1, func(*journal.Handle) error { return s.Engine.Fault(s.fault, s.i, noFill) })
	if !errors.Is(err, fserr.IO) {
		t.Errorf("fault: %v, want %v", err, fserr.IO)
	}
	s.counted(t, journal.HandleInFault)
	s.holds(t, true, s.old)
}

// TestRestoreIsExact: on a full file system the failed conversion leaves every byte of the inode, attributes included, as it was.
func TestRestoreIsExact(t *testing.T) {
	for _, size := range []int{256, 512, 1024} {
		for _, restoring := range []bool{false, true} {
			f := testfs.Make(t, options(size))
			i := f.NewFile()
			must(t, setXattr(f, i, "first", pattern(4, 9)))
			_, err := write(f, i, pattern(1, int(inline.Max(i))), 0)
			must(t, err)
			filler := fill(t, f)
			before := raw(i)
			if restoring {
				err = f.Engine.ConvertRestoring(f.Task, i)
			} else {
				i.Rw.Lock()
				err = f.Engine.Convert(f.Task, i)
				i.Rw.Unlock()
			}
			if !errors.Is(err, fserr.NoSpace) {
				t.Errorf("conversion on a full file system: %v, want %v", err, fserr.NoSpace)
			}
			if got := raw(i); !bytes.Equal(got, before) {
				t.Errorf("inode size %d, restoring %v: the inode was\n%x, is\n%x", size, restoring, before, got)
			}
			if restores := f.Live.Restores.Load(); (restores == 1) != restoring {
				t.Errorf("%d restores, restoring %v", restores, restoring)
			}
			if failed := f.Live.ConversionsFailed.Load(); failed != 1 {
				t.Errorf("%d failed conversions counted, want 1", failed)
			}
			if n, err := write(f, i, pattern(2, 2000), 0); n != 0 || !errors.Is(err, fserr.NoSpace) {
				t.Errorf("a write that outgrows the inode: %d, %v", n, err)
			}
			if got := raw(i); !bytes.Equal(got, before) {
				t.Error("a write without space changed the inode")
			}
			f.Put(i)
			f.Put(filler)
			f.Close()
		}
	}
}

func raw(i *inode.Inode) []byte {
	i.Mu.Lock()
	defer i.Mu.Unlock()
	return append([]byte(nil), i.Raw...)
}

// fill takes every block.
func fill(t *testing.T, f *testfs.FS) *inode.Inode {
	t.Helper()
	i := f.NewFile()
	i.MayInline.Store(false)
	i.Rw.Lock()
	defer i.Rw.Unlock()
	buf := make([]byte, 1<<18)
	for at := uint64(0); ; {
		n, _, err := extent.Write(f.Task, i, buf, at)
		at += uint64(n)
		if errors.Is(err, fserr.NoSpace) {
			if f.FreeBlocks() == 0 {
				return i
			}
			if len(buf) == f.BlockSize {
				t.Fatalf("%d blocks cannot be taken", f.FreeBlocks())
			}
			buf = buf[:f.BlockSize]
			continue
		}
		must(t, err)
	}
}

// TestMmapStrategy: what breaks mkwrite does nothing here: a fault converts nothing, an announced mmap waits for the inode lock.
func TestMmapStrategy(t *testing.T) {
	s := newScene(t, testimage.Seed(t), "mmap", true)
	s.i.Rw.Lock()
	tok := s.begin(t, []byte("new"))
	faulted := make(chan error)
	go func() { faulted <- s.Engine.Fault(s.fault, s.i, noFill) }() // another task is another goroutine
	must(t, <-faulted)
	announced := make(chan error, 1)
	go func() {
		task := s.Journal.NewTask("mmap", 3)
		announced <- errors.Join(s.Engine.Announce(task, s.i), task.End())
	}()
	must(t, s.end(tok, []byte("new")))
	s.i.Rw.Unlock()
	if err := <-announced; err == nil {
		t.Error("the announced mapping was converted without space")
	}
	s.counted(t)
	if n := s.Live.Restores.Load() + s.Live.Flips.Load(); n != 0 {
		t.Errorf("%d restores and flips, want none", n)
	}
	s.holds(t, true, append([]byte("new"), s.old[3:]...))
}

// moments says when a strategy converts, and what becomes of bytes that a mapping stored into an inline file.
var moments = map[string]struct{ onMmap, onFault, loses bool }{
	"mkwrite":            {onFault: true},
	"mkwrite_ilock":      {onFault: true},
	"mmap":               {onMmap: true},
	"premmap":            {onMmap: true},
	"retry":              {onFault: true},
	"writepages_copy":    {},
	"writepages_destroy": {loses: true},
	"flip":               {onFault: true},
	"flip_folio":         {onFault: true},
}

// TestStrategies: when each one converts, and that a write-back stores its bytes in either state.
func TestStrategies(t *testing.T) {
	img := testimage.Make(t, options(256))
	for _, name := range inline.Names() {
		t.Run(name, func(t *testing.T) {
			m, known := moments[name]
			if !known {
				t.Fatalf("no expectation for strategy %s", name)
			}
			s := newScene(t, testimage.Copy(t, img), name, false)
			if got := s.Engine.Strategy.Name(); got != name {
				t.Errorf("strategy %q by name %q", got, name)
			}
			store := func(p []byte, off int) {
				t.Helper()
				must(t, s.Engine.WriteMapped(s.fault, s.i, p, uint64(off)))
				copy(s.old[off:], p)
			}
			if m.loses {
				store([]byte("abc"), 70)
				s.holds(t, false, make([]byte, len(s.old)))
				s.counted(t)
				return
			}
			store([]byte("abc"), 70)
			s.holds(t, true, s.old)
			must(t, s.Engine.Announce(s.fault, s.i))
			s.holds(t, !m.onMmap, s.old)
			must(t, s.Engine.Fault(s.fault, s.i, noFill))
			s.holds(t, !m.onMmap && !m.onFault, s.old)
			store([]byte("def"), 50)
			s.holds(t, !m.onMmap && !m.onFault, s.old)
			s.counted(t)
		})
	}
	if _, err := inline.ByName("nonesuch"); err == nil || !strings.Contains(err.Error(), "mkwrite") {
		t.Errorf("an unknown strategy: %v, want an error with the known ones", err)
	}
	if d, err := inline.ByName(""); err != nil || d.Name() != inline.DefaultName {
		t.Errorf("the default strategy: %v, %v", d, err)
	}
}

// TestRetryForbidden: a fault that may not drop mmap_lock cannot be served by retry, and changes nothing.
func TestRetryForbidden(t *testing.T) {
	s := newScene(t, testimage.Make(t, options(256)), "retry", false)
	s.fault.NoRetry = true
	if err := s.Engine.Fault(s.fault, s.i, noFill); !errors.Is(err, fserr.IO) {
		t.Errorf("fault: %v, want %v", err, fserr.IO)
	}
	s.holds(t, true, s.old)
	s.counted(t)
}

// TestFlipFails: on a full file system the conversions without a restore fail and leave every byte of the inode; nothing is held after.
func TestFlipFails(t *testing.T) {
	for _, name := range []string{"flip", "flip_folio"} {
		s := newScene(t, testimage.Make(t, options(256)), name, false)
		filler := fill(t, s.FS)
		before := raw(s.i)
		if err := s.Engine.Fault(s.fault, s.i, noFill); !errors.Is(err, fserr.NoSpace) {
			t.Errorf("%s: conversion on a full file system: %v, want %v", name, err, fserr.NoSpace)
		}
		if got := raw(s.i); !bytes.Equal(got, before) {
			t.Errorf("%s: the inode changed", name)
		}
		if busy := s.Group(0).Busy; len(busy) != 0 {
			t.Errorf("%s: blocks are still held: %v", name, busy)
		}
		s.Put(filler)
	}
}

// TestStorm runs writes against failing faults and announcements on the seed image. With mkwrite something may be violated, with the others
// nothing is, and each failed write stored nothing: in the end the file holds the last write that worked.
func TestStorm(t *testing.T) {
	for _, name := range []string{"mmap", "mkwrite", "mkwrite_ilock", "premmap", "retry", "flip", "flip_folio"} {
		t.Run(name, func(t *testing.T) {
			s := newScene(t, testimage.Seed(t), name, true)
			seed := rand.Uint64()
			t.Logf("seed %d", seed)
			stop := make(chan struct{})
			var wg sync.WaitGroup
			for w := range 2 {
				wg.Go(func() { disturb(s, uint32(w), stop) })
			}
			rng, last := rand.New(rand.NewPCG(seed, 1)), s.old
			for k := range 300 {
				p := pattern(rng.IntN(256), 100)
				_, err := write(s.FS, s.i, p, 0)
				var v *journal.ViolationError
				switch {
				case err == nil:
					last = p
				case name != "mkwrite" || !errors.As(err, &v) && !errors.Is(err, fserr.NoSpace):
					t.Errorf("write %d: %v", k, err)
				}
			}
			close(stop)
			wg.Wait()
			s.holds(t, true, last)
			if n := s.Journal.V.Counts(); name != "mkwrite" && len(n) != 0 {
				t.Errorf("violations %v, want none", n)
			}
			if n := s.Journal.OpenHandles(); n != 0 {
				t.Errorf("%d handles are open", n)
			}
		})
	}
}

// disturb faults and announces until stop is closed; every conversion fails for want of space.
func disturb(s *scene, pid uint32, stop chan struct{}) {
	for {
		select {
		case <-stop:
			return
		default:
		}
		task := s.Journal.NewTask("fault", pid)
		e1, e2 := s.Engine.Fault(task, s.i, noFill), s.Engine.Announce(task, s.i)
		if err := task.End(); err != nil {
			s.T.Error(err)
		}
		if e1 == nil && e2 == nil && s.Engine.Strategy.Name() == "mmap" {
			s.T.Error("a conversion worked on the seed image")
			return
		}
		if _, err := read(s.i, 10); err != nil && !errors.Is(err, io.EOF) {
			s.T.Error(err)
		}
	}
}

// noFill is a fault whose page nobody looks at.
func noFill() error { return nil }
