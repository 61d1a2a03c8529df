package journal

import (
	"fmt"
	"runtime"
	"time"

	"inlinefs/buffer"
	"inlinefs/internal/fserr"
	"inlinefs/internal/lock"
)

// Type says what a handle is for, as EXT4_HT_* does.
type Type uint8

// The handle types.
const (
	Misc Type = iota
	InodeOp
	WritePage
	MapBlocks
	Dir
	Truncate
	Xattr
	Orphan
)

var typeNames = [...]string{"MISC", "INODE", "WRITE_PAGE", "MAP_BLOCKS", "DIR", "TRUNCATE", "XATTR", "ORPHAN"}

// String is the kernel's name without EXT4_HT_.
func (t Type) String() string { return typeNames[t] }

// maxNesting is EXT4_NOJOURNAL_MAX_REF_COUNT.
const maxNesting = 4096

// Handle is permission to change metadata. It belongs to one Task and is used by it alone.
type Handle struct {
	j       *Journal
	task    *Task
	typ     Type
	ref     int
	credits int // what is left
	total   int // what was granted
	sync    bool
	err     error
	stopped bool
	ino     uint64
	opener  []uintptr
	pcs     [12]uintptr
	bufs    []touched
	bufs0   [6]touched
	tx      *transaction
	revokes int
}

type touched struct {
	b     *buffer.Head
	dirty bool
}

// Task is the handle's owner.
func (h *Handle) Task() *Task { return h.task }

// Journal is where the handle belongs.
func (h *Handle) Journal() *Journal { return h.j }

// Credits is how many more blocks the handle may change.
func (h *Handle) Credits() int { return h.credits }

// SetInode names the inode that the handle works on, for reports.
func (h *Handle) SetInode(ino uint32) { h.ino = uint64(ino) }

// SetSync makes Stop wait for the commit (h_sync).
func (h *Handle) SetSync() { h.sync = true }

// Start opens a handle with room for changing credits blocks (ext4_journal_start). In a task that has one open it returns the same
// handle, counted. Errors: fserr.ReadOnly after an abort or on a read-only mount; a violation for impossible requests.
func (j *Journal) Start(t *Task, typ Type, credits int) (*Handle, error) {
	if h := t.current; h != nil {
		if h.j != j {
			return nil, j.V.Raise(ForeignJournal, t, h.ino, h.opener, "task %d has a handle of another journal", t.ID)
		}
		if h.ref >= maxNesting {
			return nil, j.V.Raise(NestingLimit, t, h.ino, h.opener, "task %d nests %d handles", t.ID, h.ref)
		}
		h.ref++
		return h, nil
	}
	if err := j.usable(); err != nil {
		return nil, err
	}
	if credits > j.maxCredits {
		return nil, j.V.Raise(TooManyCredits, t, 0, nil, "task %d (%s) wants %d credits, the journal has room for %d", t.ID, t.Op, credits, j.maxCredits)
	}
	if j.unmounting.Load() {
		return nil, j.V.Raise(Unmounting, t, 0, nil, "task %d (%s) starts a handle after the journal was closed", t.ID, t.Op)
	}
	h := &Handle{j: j, task: t, typ: typ, ref: 1, credits: credits, total: credits}
	h.bufs = h.bufs0[:0]
	n := runtime.Callers(2, h.pcs[:])
	h.opener = h.pcs[:n]
	j.enter()
	if err := j.be.start(h); err != nil {
		j.leave()
		return nil, err
	}
	t.current = h
	j.open.Add(1)
	return h, nil
}

// Stop closes a handle of task t (ext4_journal_stop): nil is the violation that this project is about.
func (j *Journal) Stop(t *Task, h *Handle, ino uint32) error {
	if h == nil {
		return j.V.Raise(NilHandle, t, uint64(ino), nil, "task %d (%s) stops a handle that was never started, inode %d", t.ID, t.Op, ino)
	}
	if h.task != t {
		return j.V.Raise(NotOwner, t, h.ino, h.opener, "task %d stops the handle of task %d", t.ID, h.task.ID)
	}
	return h.Stop()
}

// Stop gives the handle back once; the last time the changes belong to the running transaction for good. It returns what went wrong
// under the handle.
func (h *Handle) Stop() error {
	if h.stopped {
		return h.j.V.Raise(StaleHandle, h.task, h.ino, h.opener, "handle of task %d is stopped again", h.task.ID)
	}
	if h.task.current != h {
		return h.j.V.Raise(NotCurrent, h.task, h.ino, h.opener, "handle of task %d is not its current one", h.task.ID)
	}
	if h.ref--; h.ref > 0 {
		return h.err
	}
	h.stopped = true
	h.task.current = nil
	h.j.leave() // no switch point: the handle leaves its transaction before anybody else runs
	if h.sync {
		mightWait()
	}
	h.j.open.Add(-1)
	err := h.j.be.stop(h)
	for i := range h.bufs {
		h.bufs[i].b.Release()
	}
	h.bufs = nil
	if h.err != nil {
		return h.err
	}
	return err
}

// usableFor checks the things that every use of a handle needs.
func (h *Handle) usableFor(what string, blk uint64) error {
	if h == nil {
		return fmt.Errorf("%s of block %d without a handle: %w", what, blk, fserr.IO)
	}
	if h.stopped {
		return h.j.V.Raise(StaleHandle, h.task, h.ino, h.opener, "%s of block %d under a stopped handle of task %d", what, blk, h.task.ID)
	}
	return h.j.usable()
}

func (h *Handle) find(b *buffer.Head) *touched {
	for i := range h.bufs {
		if h.bufs[i].b == b {
			return &h.bufs[i]
		}
	}
	return nil
}

func (h *Handle) touch(b *buffer.Head) {
	if h.find(b) == nil {
		b.Hold()
		h.bufs = append(h.bufs, touched{b: b})
	}
}

// GetWriteAccess must precede the change of an existing block (jbd2_journal_get_write_access).
func (h *Handle) GetWriteAccess(b *buffer.Head) error {
	if err := h.usableFor("write access", b.Block()); err != nil {
		return err
	}
	if h.find(b) != nil {
		return nil
	}
	if err := h.j.be.access(h, b, false); err != nil {
		return err
	}
	h.touch(b)
	return nil
}

// GetCreateAccess must precede the first fill of a new block, which the caller has locked (jbd2_journal_get_create_access).
func (h *Handle) GetCreateAccess(b *buffer.Head) error {
	if err := h.usableFor("create access", b.Block()); err != nil {
		return err
	}
	if locked, _ := b.Locked(); !locked {
		return h.j.V.Raise(BufferUnlocked, h.task, h.ino, h.opener, "create access to block %d, which is not locked", b.Block())
	}
	if err := h.j.be.access(h, b, true); err != nil {
		return err
	}
	h.touch(b)
	return nil
}

// DirtyMetadata says that the block was changed (ext4_handle_dirty_metadata). The buffer must be unlocked by now: a synchronous
// mount may write at once.
func (h *Handle) DirtyMetadata(b *buffer.Head) error {
	if err := h.usableFor("change", b.Block()); err != nil {
		return err
	}
	if err := h.checkUnlocked(b); err != nil {
		return h.fail(err)
	}
	e := h.find(b)
	if e == nil {
		return h.fail(h.j.V.Raise(NoWriteAccess, h.task, h.ino, h.opener, "block %d changed without write access", b.Block()))
	}
	if !e.dirty {
		if h.credits <= 0 {
			return h.fail(h.j.V.Raise(NoCredits, h.task, h.ino, h.opener, "block %d changed with no credits left of %d (type %s)", b.Block(), h.total, h.typ))
		}
		h.credits--
		e.dirty = true
	}
	b.SetUptodate()
	return h.fail(h.j.be.dirty(h, b))
}

// lockWait is how long a buffer that is dirtied may be seen locked. Others hold the lock of a journalled block for a copy of it, never for
// I/O; who dirties under it never lets go. Where the build knows whose the lock is there is no wait: a schedule must not depend on a clock.
const lockWait = 250 * time.Millisecond

// checkUnlocked makes sure that the caller has let go of the buffer's lock: the kernel may write at once, which takes it
// (sync_dirty_buffer). Without a journal write-back holds it during I/O, so that nothing can be said.
func (h *Handle) checkUnlocked(b *buffer.Head) error {
	if !h.j.Journalled() {
		return nil
	}
	locked, sure := b.Locked()
	for end := time.Now().Add(lockWait); locked && !sure && time.Now().Before(end); locked, sure = b.Locked() {
		time.Sleep(time.Millisecond)
	}
	if !locked {
		return nil
	}
	return h.j.V.Raise(BufferLocked, h.task, h.ino, h.opener, "block %d is dirtied under its buffer lock", b.Block())
}

// fail remembers the first error under the handle (h_err).
func (h *Handle) fail(err error) error {
	if err != nil && h.err == nil {
		h.err = err
	}
	return err
}

// Forget says that block blk, metadata, was freed: it is not written any more, and a copy of it in the log is revoked
// (ext4_forget, jbd2_journal_revoke).
func (h *Handle) Forget(blk uint64) error {
	if err := h.usableFor("forget", blk); err != nil {
		return err
	}
	for i := range h.bufs {
		if e := &h.bufs[i]; e.b.Block() == blk {
			if e.dirty {
				h.credits++
			}
			e.b.Release()
			h.bufs = append(h.bufs[:i], h.bufs[i+1:]...)
			break
		}
	}
	return h.j.be.forget(h, blk)
}

// EnsureCredits makes sure of n credits: by extending the handle, else by restarting it. A restart is a point where a crash may cut
// the operation: the caller keeps the disk consistent there.
func (h *Handle) EnsureCredits(n int) error {
	if err := h.usableFor("extend", 0); err != nil {
		return err
	}
	if h.credits >= n {
		return nil
	}
	if n > h.j.maxCredits {
		return h.j.V.Raise(TooManyCredits, h.task, h.ino, h.opener, "extension to %d credits, the journal has room for %d", n, h.j.maxCredits)
	}
	ok, err := h.j.be.extend(h, n-h.credits)
	if err != nil || ok {
		return err
	}
	for i := range h.bufs {
		h.bufs[i].b.Release()
	}
	h.bufs = h.bufs[:0]
	// The wait for a new transaction is a wait for everybody who has a handle in the old one.
	lock.Leave(lock.Trans, 0)
	lock.Enter(lock.Trans, 0)
	return h.j.be.restart(h, n)
}
