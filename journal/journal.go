package journal

import (
	"fmt"
	"log/slog"
	"sync/atomic"

	"inlinefs/buffer"
	"inlinefs/internal/fserr"
	"inlinefs/internal/lock"
)

// defaultMaxCredits bounds one handle in no-journal mode, in blocks.
const defaultMaxCredits = 1 << 14

// backend is what is below a Handle: nothing (no-journal mode) or jbd2.
type backend interface {
	start(h *Handle) error
	stop(h *Handle) error
	// access files b with the handle's transaction before its change; create says that it is new.
	access(h *Handle, b *buffer.Head, create bool) error
	dirty(h *Handle, b *buffer.Head) error
	forget(h *Handle, blk uint64) error
	// extend grants n more credits in the same transaction; false when it cannot.
	extend(h *Handle, n int) (bool, error)
	// restart moves the handle to the next transaction with n credits.
	restart(h *Handle, n int) error
	// commit makes everything so far durable when wait is set, else starts doing so.
	commit(wait bool) error
	// tid is the transaction of h, waitTid waits for one to be on the device; it says whether it had to.
	tid(h *Handle) uint32
	waitTid(tid uint32) (bool, error)
	// onCommit calls f when the handle's transaction is on the device.
	onCommit(h *Handle, f func())
	close() error
	name() string
}

// Options of a journal.
type Options struct {
	Log        *slog.Logger
	Violations *Violations
	// Bufs holds the metadata blocks.
	Bufs *buffer.Cache
	// OnAbort hears of the error that ended the journal, once.
	OnAbort func(error)
	// MaxCredits bounds one handle; 0 is the default of 16384 blocks.
	MaxCredits int
}

// Journal hands out handles for one file system.
type Journal struct {
	V          *Violations   // immutable
	log        *slog.Logger  // immutable
	bufs       *buffer.Cache // immutable
	be         backend       // immutable
	maxCredits int           // immutable
	onAbort    func(error)   // immutable
	open       atomic.Int64
	tasks      atomic.Uint64 // numbers handed out to tasks
	unmounting atomic.Bool
	readOnly   atomic.Bool
	aborted    atomic.Pointer[error]
	// barrier is held shared by every handle and exclusively by a commit, in the exploring build only: there a commit may not sleep until
	// handles have stopped. It is what jbd2 shows lockdep of a transaction (jbd2_handle).
	barrier lock.RWMutex // own lock
}

func newJournal(o Options) *Journal {
	j := &Journal{V: o.Violations, log: o.Log, bufs: o.Bufs, maxCredits: o.MaxCredits, onAbort: o.OnAbort}
	lock.NameRW(&j.barrier, lock.Barrier, 0)
	if j.maxCredits == 0 {
		j.maxCredits = defaultMaxCredits
	}
	return j
}

// NewNoJournal is the mode without a log: a dirty block goes to the write-back queue at once.
func NewNoJournal(o Options) *Journal {
	j := newJournal(o)
	j.be = noJournal{bufs: o.Bufs}
	return j
}

// usable says why no change may be made now, nil if it may.
func (j *Journal) usable() error {
	if p := j.aborted.Load(); p != nil {
		return fmt.Errorf("journal is aborted (%w): %w", *p, fserr.ReadOnly)
	}
	if j.readOnly.Load() {
		return fserr.ReadOnly
	}
	return nil
}

// SetReadOnly makes further handles fail with fserr.ReadOnly.
func (j *Journal) SetReadOnly() { j.readOnly.Store(true) }

// Abort ends the journal for good because of err; later handles fail with fserr.ReadOnly (jbd2_journal_abort).
func (j *Journal) Abort(err error) {
	if j.aborted.CompareAndSwap(nil, &err) && j.onAbort != nil {
		j.onAbort(err)
	}
}

// Aborted is the error that ended the journal, nil while it lives.
func (j *Journal) Aborted() error {
	if p := j.aborted.Load(); p != nil {
		return *p
	}
	return nil
}

// Name is "none" or "jbd2".
func (j *Journal) Name() string { return j.be.name() }

// Journalled says whether there is a log.
func (j *Journal) Journalled() bool { return j.be.name() != "none" }

// OpenHandles is the number of open handles of all tasks.
func (j *Journal) OpenHandles() int64 { return j.open.Load() }

// Tid is the number of the handle's transaction, for WaitTid; 0 without a log.
func (h *Handle) Tid() uint32 { return h.j.be.tid(h) }

// WaitTid returns when transaction tid is on the device (jbd2_complete_transaction). waited says that it was not before: then the
// device was flushed meanwhile.
func (j *Journal) WaitTid(tid uint32) (waited bool, err error) {
	mightWait()
	defer j.alone()()
	return j.be.waitTid(tid)
}

// mightWait has the lock order checked: the commit that is waited for waits for every handle (jbd2_might_wait_for_commit).
func mightWait() {
	lock.Enter(lock.Trans, 0)
	lock.Leave(lock.Trans, 0)
}

// Commit makes every change so far durable in the log; it does nothing without one.
func (j *Journal) Commit() error {
	mightWait()
	defer j.alone()()
	return j.be.commit(true)
}

// enter is the place of a handle in the lock order; leave gives it back.
func (j *Journal) enter() {
	if lock.Scheduled() && j.Journalled() {
		j.barrier.RLock()
	}
	lock.Enter(lock.Trans, 0)
}

func (j *Journal) leave() {
	lock.Leave(lock.Trans, 0)
	if lock.Scheduled() && j.Journalled() {
		j.barrier.RUnlock()
	}
}

// alone keeps handles out in the exploring build; call what it returns at the end.
func (j *Journal) alone() func() {
	if !lock.Scheduled() || !j.Journalled() {
		return func() {}
	}
	j.barrier.Lock()
	return j.barrier.Unlock
}

// OnCommit calls f when the handle's transaction is on the device; at once without a log. f must not start handles, and is not called
// if the journal is aborted.
func (h *Handle) OnCommit(f func()) { h.j.be.onCommit(h, f) }

// Close commits and checkpoints everything; the caller has no handle open. Later starts are violations, a second Close does nothing.
func (j *Journal) Close() error {
	if j.unmounting.Swap(true) {
		return nil
	}
	mightWait()
	return j.be.close()
}

// noJournal is the mode without a log.
type noJournal struct{ bufs *buffer.Cache }

func (noJournal) start(*Handle) error                      { return nil }
func (noJournal) stop(*Handle) error                       { return nil }
func (noJournal) access(*Handle, *buffer.Head, bool) error { return nil }
func (noJournal) restart(h *Handle, n int) error           { h.credits, h.total = n, h.total+n; return nil }
func (noJournal) commit(bool) error                        { return nil }
func (noJournal) tid(*Handle) uint32                       { return 0 }
func (noJournal) waitTid(uint32) (bool, error)             { return false, nil }
func (noJournal) onCommit(_ *Handle, f func())             { f() }
func (noJournal) close() error                             { return nil }
func (noJournal) name() string                             { return "none" }

func (noJournal) extend(h *Handle, n int) (bool, error) {
	h.credits += n
	h.total += n
	return true, nil
}

func (noJournal) dirty(h *Handle, b *buffer.Head) error {
	b.MarkDirty()
	return nil
}

// forget drops the block's pending write: its next owner may write data there.
func (n noJournal) forget(_ *Handle, blk uint64) error {
	n.bufs.Forget(blk)
	return nil
}
