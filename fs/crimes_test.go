package fs

import (
	"errors"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"inlinefs/inline"
	"inlinefs/inode"
	"inlinefs/internal/fserr"
	"inlinefs/internal/testimage"
	"inlinefs/journal"
	"inlinefs/super"
)

// The invariants of handles that need an inode to be broken (5, 2 and 14 of the list in the reference; the others are in package journal),
// on a journalled mount: the NULL handle is not a matter of images without a journal.

// scene is an inline file on a journalled mount, a writer, and a fault whose conversion finds no space.
type scene struct {
	*mounted
	i             *inode.Inode
	writer, fault *journal.Task
	during        func() // runs in the conversion, after the inline data was destroyed
}

const sceneContent = "a hundred bytes, more or less, that stand in the inode and are to be there afterwards as well, unchanged"

func newScene(t *testing.T) *scene {
	t.Helper()
	testimage.FuseUsable(t)
	s := &scene{}
	inject := func(step string, _ uint64) error {
		if fn := s.during; step == "alloc" && fn != nil {
			s.during = nil
			apart(fn)
			return fserr.NoSpace
		}
		return nil
	}
	s.mounted = mountConfig(t, config{img: testimage.Make(t, journalled()), races: true, fs: Options{Mmap: MmapObserve, Strategy: "mkwrite"},
		super: super.Options{Inject: inject}})
	if !s.f.fs.Journal.Journalled() {
		t.Fatal("the image has no journal")
	}
	write(t, s.path("f"), sceneContent)
	i, err := s.f.get(uint64(stat(t, s.path("f")).Ino))
	must(t, err)
	s.i = i
	s.writer, s.fault = s.f.fs.Journal.NewTask("write", 11), s.f.fs.Journal.NewTask("fault", 12)
	return s
}

// apart runs fn on another goroutine and waits: each task has its own, or one would hold two handles, which breaks the lock order.
func apart(fn func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		fn()
	}()
	<-done
}

// whileDestroyed runs fn inside a conversion that fails.
func (s *scene) whileDestroyed(fn func()) {
	s.t.Helper()
	s.during = fn
	var err error
	apart(func() { err = s.f.eng.ConvertRestoring(s.fault, s.i) })
	if !errors.Is(err, fserr.NoSpace) || s.during != nil {
		s.t.Fatalf("the conversion ends with %v, want %v", err, fserr.NoSpace)
	}
}

func (s *scene) begin() inline.Token {
	s.t.Helper()
	tok, err := s.f.eng.WriteBegin(s.writer, s.i, 0, 3)
	must(s.t, err)
	return tok
}

func (s *scene) end(tok inline.Token) error {
	_, err := s.f.eng.WriteEnd(s.writer, s.i, tok, []byte("new"), 0)
	return err
}

// punished wants one violation with its record, the file as it was, and a mount that goes on.
func (s *scene) punished(err error, class journal.Class, task *journal.Task) {
	t := s.t
	t.Helper()
	var v *journal.ViolationError
	if !errors.As(err, &v) || v.Class != class || !errors.Is(err, fserr.IO) {
		t.Errorf("the caller gets %v, want a violation of class %s", err, class)
	}
	if n := s.f.fs.Journal.V.Counts(); n[string(class)] != 1 || len(n) != 1 {
		t.Errorf("violations %v, want one of %s", n, class)
	}
	first := s.f.fs.Journal.V.First()
	if first == nil {
		t.Fatal("no record of the violation")
	}
	if first.Class != string(class) || first.Ino != uint64(s.i.Ino) || first.Task != task.ID || first.Mirror == "" || len(first.Events) == 0 {
		t.Errorf("record %+v, want class %s, inode %d, task %d, the kernel's check and the inode's events", first, class, s.i.Ino, task.ID)
	}
	if wantOpener := class == journal.ModeMismatch || class == journal.HandleInFault; wantOpener != (len(first.Opener) > 0) {
		t.Errorf("the opener's stack is %q, want one: %v", first.Opener, wantOpener)
	}
	if !strings.Contains(strings.Join(first.Breaker, " "), "Test") {
		t.Errorf("the breaker's stack %q does not lead to this test", first.Breaker)
	}
	if n := s.f.fs.Journal.OpenHandles(); n != 0 {
		t.Errorf("%d handles are open", n)
	}
	must(t, errors.Join(s.writer.End(), s.fault.End()))
	if !s.i.HasInline() {
		t.Error("the file is not inline any more")
	}
	s.f.put(s.i)
	if got := read(t, s.path("f")); got != sceneContent {
		t.Errorf("the file holds %q", got)
	}
	// Alive: a new file is made durable by a commit, the old one grows out of its inode.
	must(t, withFile(s.path("alive"), unix.O_CREAT|unix.O_WRONLY, func(fd int) error {
		_, err := unix.Write(fd, []byte("alive"))
		return errors.Join(err, unix.Fsync(fd))
	}))
	must(t, os.WriteFile(s.path("f"), []byte(pattern(5000, 1)), 0o644))
	if s.f.fs.Journal.Aborted() != nil {
		t.Errorf("the journal is aborted: %v", s.f.fs.Journal.Aborted())
	}
	s.finish() // with e2fsck and check
}

// TestCrimeNilHandle: write_begin in block mode while the inline data was destroyed, write_end after it was restored.
func TestCrimeNilHandle(t *testing.T) {
	s := newScene(t)
	var tok inline.Token
	s.whileDestroyed(func() { tok = s.begin() })
	s.punished(s.end(tok), journal.NilHandle, s.writer)
}

// TestCrimeModeMismatch: write_begin inline, write_end while the inline data is destroyed.
func TestCrimeModeMismatch(t *testing.T) {
	s := newScene(t)
	tok := s.begin()
	var err error
	s.whileDestroyed(func() { err = s.end(tok) })
	s.punished(err, journal.ModeMismatch, s.writer)
}

// TestCrimeInlineWriteback: a whole write in block mode while a conversion has destroyed the inline data and mapped nothing yet.
func TestCrimeInlineWriteback(t *testing.T) {
	s := newScene(t)
	var err error
	s.whileDestroyed(func() { err = s.end(s.begin()) })
	s.punished(err, journal.InlineWriteback, s.writer)
}

// TestCrimeHandleInFault: a page fault of a task that has a handle open.
func TestCrimeHandleInFault(t *testing.T) {
	s := newScene(t)
	var fault error
	err := s.f.with(s.fault, journal.Misc, 2, func(*journal.Handle) error {
		fault = s.f.eng.Fault(s.fault, s.i, func() error { return nil })
		return nil
	})
	must(t, err)
	s.punished(fault, journal.HandleInFault, s.fault)
}
