package inline

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"inlinefs/inode"
	"inlinefs/internal/fserr"
	"inlinefs/journal"
)

// Strategy decides when a file that may be stored to through a mapping leaves its inode. Every strategy implements all five moments;
// comparing two files shows only when the same conversion runs. Errors are those of the conversion.
type Strategy interface {
	// Name is the NAME of the build tag NAME_conversion.
	Name() string
	// BeforeMmap: a shared-writable mmap(2) was announced; no lock is held (the pre_mmap hook that the list asks for).
	BeforeMmap(e *Engine, t *journal.Task, i *inode.Inode) error
	// MmapLocked: the same mmap(2) where ->mmap runs, with the client's mmap_lock held for writing.
	MmapLocked(e *Engine, t *journal.Task, i *inode.Inode) error
	// PageMkwrite: a page is touched for the first time; the client holds mmap_lock and the inode's invalidate_lock for reading. An error
	// becomes SIGBUS; ErrRetry asks for FaultRetry.
	PageMkwrite(e *Engine, t *journal.Task, i *inode.Inode) error
	// FaultRetry: the fault has dropped its locks because PageMkwrite asked for it (VM_FAULT_RETRY); it is tried once more afterwards.
	FaultRetry(e *Engine, t *journal.Task, i *inode.Inode) error
	// Writepage: bytes stored through a mapping come back while the file is still inline. No lock is held: the kernel's write-back may not
	// take i_rwsem (reclaim). p lay within i_size a moment ago.
	Writepage(e *Engine, t *journal.Task, i *inode.Inode, p []byte, off uint64) error
}

// ErrRetry is PageMkwrite's VM_FAULT_RETRY.
var ErrRetry = errors.New("fault to be tried again without mmap_lock")

var strategies = map[string]Strategy{}

func register(s Strategy) Strategy {
	strategies[s.Name()] = s
	return s
}

// Names lists the strategies that are compiled in.
func Names() []string {
	var out []string
	for n := range strategies {
		out = append(out, n)
	}
	slices.Sort(out)
	return out
}

// ByName finds a strategy; the empty name is the build's default.
func ByName(name string) (Strategy, error) {
	if name == "" {
		name = DefaultName
	}
	if s, ok := strategies[name]; ok {
		return s, nil
	}
	return nil, fmt.Errorf("conversion strategy %q is not known, want one of %s", name, strings.Join(Names(), ", "))
}

// Announce runs the two moments of an announced shared-writable mmap(2). An error makes mmap(2) fail.
func (e *Engine) Announce(t *journal.Task, i *inode.Inode) error {
	e.FS.Live.Announced.Add(1)
	i.Event(t, "inline.Announce", "mmap(2)", "shared writable mapping announced")
	if err := e.Strategy.BeforeMmap(e, t, i); err != nil {
		return err
	}
	t.Mm.LockMmap()
	defer t.Mm.UnlockMmap()
	return e.Strategy.MmapLocked(e, t, i)
}

// Fault runs the moments of a first touch of a page, and then fill, which reads the page, under the locks of a fault. A fault under an
// open handle would deadlock in the kernel: a violation.
func (e *Engine) Fault(t *journal.Task, i *inode.Inode, fill func() error) error {
	e.FS.Live.Faults.Add(1)
	i.Event(t, "inline.Fault", "ext4_page_mkwrite", "first touch of a page")
	if h := t.Current(); h != nil {
		return e.FS.Journal.V.Raise(journal.HandleInFault, t, uint64(i.Ino), nil, "fault of task %d with a handle open", t.ID)
	}
	for tried := false; ; tried = true {
		err := e.fault(t, i, fill)
		if !errors.Is(err, ErrRetry) {
			return err
		}
		if t.NoRetry || tried {
			return fmt.Errorf("%s: a fault that may not be tried again wants to be (SIGBUS): %w", i.Name(), fserr.IO)
		}
		i.Event(t, "inline.FaultRetry", "VM_FAULT_RETRY", "mmap_lock dropped")
		if err := e.Strategy.FaultRetry(e, t, i); err != nil {
			return err
		}
	}
}

func (e *Engine) fault(t *journal.Task, i *inode.Inode, fill func() error) error {
	t.Mm.RLockMmap()
	defer t.Mm.RUnlockMmap()
	i.RLockInvalidate(t)
	defer i.RUnlockInvalidate(t)
	if err := e.Strategy.PageMkwrite(e, t, i); err != nil {
		return err
	}
	return fill()
}

// WriteMapped stores what a mapping wrote back: into the inode through the strategy while the file is inline, into blocks otherwise. No
// lock is held.
func (e *Engine) WriteMapped(t *journal.Task, i *inode.Inode, p []byte, off uint64) error {
	if i.HasInline() {
		return e.Strategy.Writepage(e, t, i, p, off)
	}
	return e.storeMapped(t, i, p, off)
}

// storeMapped is the write-back that loses nothing: the bytes go to where the file's bytes are, cut at i_size. It takes the inode lock,
// which the kernel's write-back may not; here no write(2) waits for write-back of its own pages, since the kernel faults the user's
// buffer before it sends WRITE.
func (e *Engine) storeMapped(t *journal.Task, i *inode.Inode, p []byte, off uint64) error {
	i.LockRw(t)
	defer i.UnlockRw(t)
	size := i.Size()
	if off >= size {
		return nil // truncated meanwhile
	}
	p = p[:min(uint64(len(p)), size-off)]
	if i.HasInline() {
		return e.copyToInode(t, i, p, off)
	}
	_, err := e.endBlock(t, i, p, off)
	return err
}

// copyToInode stores p into an inline file under a handle; when the file turns out to have moved meanwhile, into its blocks.
func (e *Engine) copyToInode(t *journal.Task, i *inode.Inode, p []byte, off uint64) error {
	h, err := e.FS.Journal.Start(t, journal.InodeOp, writeCredits)
	if err != nil {
		return err
	}
	h.SetInode(i.Ino)
	flipped, err := e.storeInline(i, p, off)
	if err == nil && !flipped {
		err = i.MarkDirty(h)
	}
	if s := h.Stop(); err == nil {
		err = s
	}
	if flipped && err == nil {
		_, err = e.endBlock(t, i, p, off)
	}
	return err
}
