package inline

import (
	"fmt"
	"slices"
	"strings"

	"inlinefs/inode"
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
	// PageMkwrite: a page is touched for the first time; the client holds mmap_lock for reading. An error becomes SIGBUS.
	PageMkwrite(e *Engine, t *journal.Task, i *inode.Inode) error
	// FaultRetry: the fault has dropped mmap_lock (VM_FAULT_RETRY).
	FaultRetry(e *Engine, t *journal.Task, i *inode.Inode) error
	// Writepage: dirty bytes of a mapping come back while the file is still inline; the caller holds i.Rw exclusively. p lies within
	// i_size.
	Writepage(e *Engine, t *journal.Task, i *inode.Inode, p []byte, off uint64) error
}

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
	return e.Strategy.MmapLocked(e, t, i)
}

// Fault runs the moments of a first touch of a page. A fault under an open handle would deadlock in the kernel: a violation.
func (e *Engine) Fault(t *journal.Task, i *inode.Inode) error {
	e.FS.Live.Faults.Add(1)
	if i.Observed() {
		i.Event(t, "inline.Fault", "ext4_page_mkwrite", fmt.Sprintf("has_inline=%v", i.HasInline()))
	}
	if h := t.Current(); h != nil {
		return e.FS.Journal.V.Raise(journal.HandleInFault, t, uint64(i.Ino), nil, "fault of task %d with a handle open", t.ID)
	}
	if err := e.Strategy.PageMkwrite(e, t, i); err != nil {
		return err
	}
	return e.Strategy.FaultRetry(e, t, i)
}

// WriteMapped stores what a mapping wrote back: into the inode through the strategy while the file is inline, into blocks otherwise.
// p lies within i_size; the caller holds i.Rw exclusively. It may take the lock, since no write(2) in the daemon waits for a fault or
// a write-back of its own pages: the kernel faults the user's buffer before it sends WRITE.
func (e *Engine) WriteMapped(t *journal.Task, i *inode.Inode, p []byte, off uint64) error {
	if i.HasInline() {
		return e.Strategy.Writepage(e, t, i, p, off)
	}
	_, err := e.endBlock(t, i, p, off)
	return err
}

// copyToInode is the write-back that loses nothing and needs no block: the bytes go to where the file's bytes are.
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
