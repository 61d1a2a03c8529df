// Package buffer keeps one in-memory copy of each metadata block. A Head is found by block number, counted while somebody uses it,
// locked while its bytes change, and written back by the cache's flusher, by Sync, or by the journal, which owns it until commit.
package buffer

import (
	"sync/atomic"

	"inlinefs/internal/lock"
)

const (
	stUptodate = 1 << iota // Data holds the block
	stDirty                // must be written in place
	stVerified             // its checksum and structure were checked since it was read
	stWriting              // a write-back of a copy is under way
)

// Head is one metadata block in memory (buffer_head).
type Head struct {
	cache *Cache // immutable
	blk   uint64 // immutable
	data  []byte // guarded by mu (the slice itself is immutable)
	mu    lock.Mutex
	state atomic.Uint32
	ref   atomic.Int32
	// JH belongs to the journal (journal_head); guarded by the journal's lock. The journal holds a reference while it is set.
	JH any
	// lru links, guarded by the shard's mu.
	prev, next *Head
}

// Block is the block number.
func (h *Head) Block() uint64 { return h.blk }

// Data is the block's bytes; hold the buffer lock to change them, or to read while another may change them.
func (h *Head) Data() []byte { return h.data }

// Lock takes the buffer lock.
func (h *Head) Lock() { h.mu.Lock() }

// Unlock releases the buffer lock.
func (h *Head) Unlock() { h.mu.Unlock() }

// Locked says whether someone holds the buffer lock, and whether that is the caller for sure: the lock-checking and the exploring build
// see the caller's lock only. Only for checks of the handle layer: the answer about others may be old.
func (h *Head) Locked() (locked, sure bool) {
	if mine, known := lock.Mine(&h.mu); known {
		return mine, true
	}
	if h.mu.TryLock() {
		h.mu.Unlock()
		return false, true
	}
	return true, false
}

// Release gives back one reference (brelse).
func (h *Head) Release() { h.ref.Add(-1) }

// Hold takes one more reference (get_bh).
func (h *Head) Hold() { h.ref.Add(1) }

func (h *Head) has(bit uint32) bool { return h.state.Load()&bit != 0 }

func (h *Head) set(bit uint32) bool {
	return h.state.Or(bit)&bit == 0
}

func (h *Head) unset(bit uint32) bool {
	return h.state.And(^bit)&bit != 0
}

// Uptodate says whether Data holds the block.
func (h *Head) Uptodate() bool { return h.has(stUptodate) }

// SetUptodate says that Data was initialised by the caller.
func (h *Head) SetUptodate() { h.set(stUptodate) }

// Verified says whether the block was checked since it was read.
func (h *Head) Verified() bool { return h.has(stVerified) }

// SetVerified remembers that the block was checked.
func (h *Head) SetVerified() { h.set(stVerified) }

// Dirty says whether the block waits to be written in place.
func (h *Head) Dirty() bool { return h.has(stDirty) }

// MarkDirty queues the block for write-back in place. The journal calls it, nobody else.
func (h *Head) MarkDirty() {
	h.set(stUptodate)
	if h.set(stDirty) {
		h.cache.addDirty(h)
	}
}

// ClearDirty takes the block off the write-back queue (freed, or taken over by a transaction). It says whether it was on it.
func (h *Head) ClearDirty() bool {
	if h.unset(stDirty) {
		h.cache.dropDirty(h)
		return true
	}
	return false
}

// Cache is the cache that the block lives in.
func (h *Head) Cache() *Cache { return h.cache }
