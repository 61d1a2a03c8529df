package journal

import (
	"fmt"
	"sync"
	"time"

	"inlinefs/blockdev"
	"inlinefs/buffer"
	"inlinefs/internal/lock"
	"inlinefs/ondisk/jbd2"
)

// LogOptions describe the log of a journal.
type LogOptions struct {
	Dev blockdev.Device
	// Blocks maps each block of the journal to its block on the device; Blocks[0] is the journal's superblock.
	Blocks []uint64
	// FS64Bit and Csum say which features the log needs: 64-bit tags, checksums version 3.
	FS64Bit, Csum bool
	// Interval is the age at which a transaction is committed; 0 is 5 seconds.
	Interval time.Duration
	// NoThreads leaves commits to those who wait for them, and log space to the first log: for an exploration.
	NoThreads bool
	// CacheLimit is how many bytes of metadata may wait for a checkpoint before one is started; 0 for no limit.
	CacheLimit int64
}

// log is the jbd2 backend. A commit copies the transaction's blocks while no handle is open, so that the next transaction may change
// them at once: copying out is done for all of them, eagerly.
type log struct {
	j        *Journal        // immutable
	dev      blockdev.Device // immutable
	bs       int             // immutable, bytes
	blocks   []uint64        // immutable
	format   jbd2.Format     // immutable
	first    uint32          // immutable; log blocks are [first, end)
	end      uint32          // immutable
	maxTx    int             // immutable, blocks
	interval time.Duration   // immutable
	maxPin   int             // immutable, blocks; 0 for no limit

	mu   sync.Mutex       // j_state_lock and j_list_lock
	cond *sync.Cond       // immutable; with mu: a transaction changed state, or space was freed
	sb   *jbd2.Superblock // guarded by mu

	running    *transaction   // guarded by mu
	committing *transaction   // guarded by mu
	cpq        []*transaction // guarded by mu; committed and not checkpointed, oldest first
	nextTid    uint32         // guarded by mu
	head       uint32         // guarded by mu; where the next transaction goes
	free       uint32         // guarded by mu; log blocks
	pinned     int            // guarded by mu; blocks that the journal holds
	want       bool           // guarded by mu; commit the running transaction now
	busy       bool           // guarded by mu; somebody commits
	copies     []byte         // guarded by busy: who set it owns them; the blocks of a transaction
	run        []byte         // guarded by busy; what goes to the log in one write
	desc       []byte         // guarded by busy; a descriptor block
	placed     uint32         // guarded by busy; log blocks before it have their place on the medium
	expected   int            // guarded by mu; waiters that the next commit may hope for
	avgCommit  time.Duration  // guarded by mu; j_average_commit_time; 0 without threads: then nobody waits for others
	threads    bool           // immutable
	maxBatch   time.Duration  // immutable

	wake   chan struct{} // immutable
	cpWake chan struct{} // immutable
	cpMu   lock.Mutex    // one checkpoint at a time
	done   sync.WaitGroup
	quit   chan struct{} // immutable
}

// transaction is one jbd2 transaction: running, locked (no new handles), committing, finished. Fields are guarded by log.mu.
type transaction struct {
	tid       uint32
	locked    bool
	updates   int // open handles
	granted   int // their credits
	n         int // blocks to be logged
	heads     []*buffer.Head
	revokes   map[uint64]struct{}
	callbacks []func()
	timer     *time.Timer // asks for the commit
	waiters   int         // who asked for the commit while it was running
	gathering *time.Timer // nil until a waiter waits for more of them
	gathered  bool        // that was long enough
	need      uint32      // log blocks that the commit takes
	logStart  uint32
	logLen    uint32
	cp        map[*buffer.Head]struct{} // blocks that must be in place before the log is reused
	done      chan struct{}
	err       error
}

// jhead is the journal's side of a buffer (journal_head). Fields are guarded by log.mu.
type jhead struct {
	tx       *transaction // the running transaction, if it has the block
	dirty    bool         // it will be logged
	forget   bool         // freed in it
	wasDirty bool         // it waited for write-back when tx took it
	inCommit bool         // a copy is being written to the log
	cp       *transaction // the transaction whose log copy is needed until the block is in place
}

// NewJBD2 opens the log for writing; it must be empty (recovered). Errors name what does not fit.
func NewJBD2(o Options, lo LogOptions) (*Journal, error) {
	l := &log{dev: lo.Dev, bs: o.Bufs.BlockSize(), blocks: lo.Blocks, interval: lo.Interval,
		wake: make(chan struct{}, 1), cpWake: make(chan struct{}, 1), quit: make(chan struct{})}
	if l.interval == 0 {
		l.interval = 5 * time.Second
	}
	l.cond = sync.NewCond(&l.mu)
	l.threads, l.maxBatch = !lo.NoThreads, maxBatch
	lock.NameMutex(&l.cpMu, lock.Checkpoint, 0)
	l.run, l.desc = make([]byte, logRun), make([]byte, l.bs)
	l.maxPin = int(lo.CacheLimit / int64(l.bs))
	if err := l.load(lo); err != nil {
		return nil, err
	}
	o.MaxCredits = l.maxTx
	j := newJournal(o)
	l.j, j.be = j, l
	if !lo.NoThreads {
		l.done.Add(2)
		go l.commitThread()
		go l.checkpointThread()
	}
	return j, nil
}

// load reads the journal's superblock and sets the features that this writer uses (set_journal_csum_feature_set).
func (l *log) load(lo LogOptions) error {
	if len(lo.Blocks) == 0 {
		return fmt.Errorf("journal: has no blocks")
	}
	p := make([]byte, l.bs)
	if _, err := l.dev.ReadAt(p, l.at(0)); err != nil {
		return fmt.Errorf("journal superblock: %w", err)
	}
	if err := jbd2.VerifySuperblock(p); err != nil {
		return fmt.Errorf("journal superblock: %w", err)
	}
	sb, err := jbd2.DecodeSuperblock(p)
	if err != nil {
		return fmt.Errorf("journal superblock: %w", err)
	}
	if err := sb.Check(l.bs, uint32(len(lo.Blocks))); err != nil {
		return fmt.Errorf("journal superblock: %w", err)
	}
	switch {
	case sb.Type != jbd2.TypeSuperblockV2:
		return fmt.Errorf("journal superblock: format 1, want 2 to write it (tune2fs makes a new journal)")
	case sb.Start != 0:
		return fmt.Errorf("journal superblock: s_start %d, want 0: not recovered", sb.Start)
	}
	sb.Features.Compat &^= jbd2.CompatChecksum
	sb.Features.Incompat = sb.Features.Incompat&^(jbd2.IncompatCsumV2|jbd2.IncompatCsumV3|jbd2.IncompatAsyncCommit) | jbd2.IncompatRevoke
	sb.ChecksumType = 0
	sb.Errno = 0 // the recovery has noted it in the file system
	if lo.FS64Bit {
		sb.Features.Incompat |= jbd2.Incompat64Bit
	}
	if lo.Csum {
		sb.Features.Incompat |= jbd2.IncompatCsumV3
		sb.ChecksumType = jbd2.ChecksumCRC32C
	}
	if l.format, err = sb.Format(); err != nil {
		return err
	}
	l.sb, l.first, l.end = sb, sb.First, sb.LogEnd()
	l.placed = l.first
	l.head, l.free, l.nextTid = l.first, l.end-l.first-1, sb.Sequence
	l.maxTx = int(l.end-l.first) / 4
	if l.maxTx < 64 {
		return fmt.Errorf("journal: %d blocks for the log, want at least 256", l.end-l.first)
	}
	return nil
}

// at is the byte offset of log block n on the device.
func (l *log) at(n uint32) int64 { return int64(l.blocks[n]) * int64(l.bs) }

func (l *log) name() string { return "jbd2" }

// revokeSlack is log space for revoke records beyond one for each credit: a batch of freed directory blocks.
const revokeSlack = 8

// logBlocks is how many log blocks a transaction takes at most.
func (l *log) logBlocks(n, revokes int) uint32 {
	d := (n + l.format.TagsPerDescriptor() - 1) / l.format.TagsPerDescriptor()
	r := (revokes + l.format.RevokesPerBlock() - 1) / l.format.RevokesPerBlock()
	return uint32(n + d + r + 2)
}

// start joins the running transaction (start_this_handle), waiting for room in it and in the log.
func (l *log) start(h *Handle) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for {
		if err := l.j.usable(); err != nil {
			return err
		}
		t := l.running
		switch {
		case t != nil && t.locked:
			l.cond.Wait()
		case t != nil && t.n+t.granted+h.credits > l.maxTx && (t.n > 0 || t.granted > 0):
			l.request()
			l.cond.Wait()
		case !l.roomFor(t, h.credits):
			// No transaction begins here: one without handles would take up the log with its commit block.
			if t != nil {
				l.request()
			}
			poke(l.cpWake)
			l.cond.Wait()
		default:
			if t == nil {
				t = l.newTransaction()
			}
			t.updates++
			t.granted += h.credits
			h.tx = t
			return nil
		}
	}
}

// newTransaction begins a transaction, to be committed when it is old enough. The caller holds l.mu.
func (l *log) newTransaction() *transaction {
	t := &transaction{tid: l.nextTid, revokes: map[uint64]struct{}{}, cp: map[*buffer.Head]struct{}{}, done: make(chan struct{})}
	l.nextTid++
	l.running = t
	t.timer = time.AfterFunc(l.interval, func() {
		l.mu.Lock()
		if l.running == t {
			l.request()
		}
		l.mu.Unlock()
	})
	return t
}

// roomFor says whether the log has room for t (nil for a new one) with n more credits, besides what is being committed. The caller
// holds l.mu.
func (l *log) roomFor(t *transaction, n int) bool {
	revokes := n
	if t != nil {
		n += t.n + t.granted
		revokes += len(t.revokes) + t.granted
	}
	need := l.logBlocks(n, revokes) + revokeSlack
	if l.committing != nil {
		need += l.committing.need
	}
	return need <= l.free
}

// request asks for the commit of the running transaction. The caller holds l.mu.
func (l *log) request() {
	if l.running != nil {
		l.want = true
		poke(l.wake)
	}
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func (l *log) stop(h *Handle) error {
	l.mu.Lock()
	t := h.tx
	l.leave(h)
	l.mu.Unlock()
	if h.sync && t != nil {
		_, err := l.waitTid(t.tid)
		return err
	}
	return l.j.Aborted()
}

// leave takes the handle out of its transaction. The caller holds l.mu.
func (l *log) leave(h *Handle) {
	t := h.tx
	if t == nil {
		return
	}
	t.updates--
	t.granted -= h.total
	h.tx = nil
	if t.updates == 0 {
		l.cond.Broadcast()
	}
}

// access files b with the handle's transaction (do_get_write_access). While the transaction has it, it is not written in place.
func (l *log) access(h *Handle, b *buffer.Head, create bool) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	jh := l.jh(b)
	switch {
	case jh.tx == h.tx:
		if create {
			jh.forget = false
		}
		return nil
	case jh.tx != nil:
		l.detach(b, jh)
		return l.j.V.Raise(ForeignBuffer, h.task, h.ino, h.opener, "block %d belongs to transaction %d, the handle to %d", b.Block(), jh.tx.tid, h.tx.tid)
	}
	jh.tx = h.tx
	jh.wasDirty = b.ClearDirty()
	h.tx.heads = append(h.tx.heads, b)
	return nil
}

// jh returns the journal's side of b, making it. The caller holds l.mu.
func (l *log) jh(b *buffer.Head) *jhead {
	if jh, ok := b.JH.(*jhead); ok {
		return jh
	}
	jh := &jhead{}
	b.JH = jh
	b.Hold()
	l.pinned++
	return jh
}

// detach drops the journal's side of b when nothing needs it. The caller holds l.mu.
func (l *log) detach(b *buffer.Head, jh *jhead) {
	if jh.tx == nil && jh.cp == nil && !jh.inCommit && b.JH != nil {
		b.JH = nil
		l.pinned--
		b.Release()
	}
}

// dirty says that b will be logged (jbd2_journal_dirty_metadata). A revoke of it in this transaction is cancelled.
func (l *log) dirty(h *Handle, b *buffer.Head) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	jh, ok := b.JH.(*jhead)
	if !ok || jh.tx != h.tx {
		return l.j.V.Raise(NoWriteAccess, h.task, h.ino, h.opener, "block %d is not in transaction %d", b.Block(), h.tx.tid)
	}
	if !jh.dirty {
		jh.dirty, jh.forget = true, false
		h.tx.n++
		delete(h.tx.revokes, b.Block())
	}
	return nil
}

// forget revokes blk: no copy of it in the log is replayed over its next owner's bytes (jbd2_journal_revoke, jbd2_journal_forget).
func (l *log) forget(h *Handle, blk uint64) error {
	bufs := h.j.bufs
	bufs.Forget(blk)
	b := bufs.Peek(blk)
	l.mu.Lock()
	defer l.mu.Unlock()
	h.tx.revokes[blk] = struct{}{}
	if b == nil {
		return nil
	}
	defer b.Release()
	jh, ok := b.JH.(*jhead)
	if !ok {
		return nil
	}
	if jh.tx != h.tx {
		jh.tx = h.tx
		h.tx.heads = append(h.tx.heads, b)
	}
	if jh.dirty {
		jh.dirty = false
		h.tx.n--
	}
	jh.forget, jh.wasDirty = true, false
	return nil
}

func (l *log) extend(h *Handle, n int) (bool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	t := h.tx
	if t == nil || t.locked || t.n+t.granted+n > l.maxTx || !l.roomFor(t, n) {
		return false, nil
	}
	t.granted += n
	h.credits += n
	h.total += n
	return true, nil
}

func (l *log) restart(h *Handle, n int) error {
	l.mu.Lock()
	l.leave(h)
	l.request()
	l.mu.Unlock()
	h.credits, h.total = n, n
	return l.start(h)
}

func (l *log) tid(h *Handle) uint32 {
	if h.tx == nil {
		return 0
	}
	return h.tx.tid
}

func (l *log) onCommit(h *Handle, f func()) {
	l.mu.Lock()
	if h.tx != nil { // nil when a restart failed: the journal is aborted
		h.tx.callbacks = append(h.tx.callbacks, f)
	}
	l.mu.Unlock()
}

// waitTid commits tid, or waits for who does; a transaction that is neither running nor committing is on the device. A hand-over to
// another goroutine and back would cost more than the commit's own work.
func (l *log) waitTid(tid uint32) (bool, error) {
	l.mu.Lock()
	var t *transaction
	if t = l.running; t != nil && t.tid == tid {
		t.waiters++
	}
	for t != nil && t.tid == tid && l.running == t {
		if l.busy || l.gather(t) {
			l.cond.Wait() // those who wait here share the next commit
			continue
		}
		l.commitRunning()
	}
	if t == nil || t.tid != tid {
		t = l.committing
	}
	l.mu.Unlock()
	if t == nil || t.tid != tid {
		return false, l.j.Aborted()
	}
	<-t.done
	return true, t.err
}

const (
	// minBatch and maxBatch bound the average commit for which others are waited for: below, waiting costs more than a commit of one's
	// own; above, nobody waits longer (ext4's max_batch_time).
	minBatch = 100 * time.Microsecond
	maxBatch = 15 * time.Millisecond
)

// gather says whether the commit of t should wait for others who are likely to ask for it at once: as many as the last commit had, and
// those who came while it was on its way. It waits no longer than a commit takes, as jbd2_journal_stop does for a synchronous handle.
// Without it two halves of the threads take turns, and each commit carries half of what it could. The caller holds l.mu.
func (l *log) gather(t *transaction) bool {
	if t.waiters >= l.expected || t.gathered || l.avgCommit < minBatch {
		return false
	}
	if t.gathering == nil {
		t.gathering = time.AfterFunc(min(l.avgCommit, l.maxBatch), func() {
			l.mu.Lock()
			t.gathered = true
			l.cond.Broadcast()
			l.mu.Unlock()
		})
	}
	return true
}

func (l *log) commit(wait bool) error {
	l.mu.Lock()
	var tid uint32
	t := l.running
	if t == nil {
		t = l.committing
	}
	if t != nil {
		tid = t.tid
		if t == l.running && !wait {
			l.request()
		}
	}
	l.mu.Unlock()
	if t == nil || !wait {
		return l.j.Aborted()
	}
	_, err := l.waitTid(tid)
	return err
}
