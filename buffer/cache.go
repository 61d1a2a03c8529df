package buffer

import (
	"fmt"
	"sync"
	"sync/atomic"

	"inlinefs/blockdev"
	"inlinefs/internal/lock"
)

const shards = 16

// Cache maps block numbers to Heads. It holds at most about limit bytes of clean blocks.
type Cache struct {
	dev       blockdev.Device // immutable
	blockSize int             // immutable, bytes
	perShard  int             // immutable, blocks that one shard keeps
	shard     [shards]shard   // each with its own lock
	nDirty    atomic.Int64
	maxDirty  int64         // immutable, blocks; above it the flusher is woken
	wake      chan struct{} // immutable
	writeMu   lock.Mutex    // one write-back at a time
	werr      atomic.Pointer[error]
}

type shard struct {
	mu    sync.Mutex
	m     map[uint64]*Head   // guarded by mu
	lru   Head               // guarded by mu; ring: next is the most recent
	dirty map[*Head]struct{} // guarded by mu
}

// New returns a cache of blocks of blockSize bytes that keeps about limit bytes.
func New(dev blockdev.Device, blockSize int, limit int64) *Cache {
	c := &Cache{dev: dev, blockSize: blockSize, wake: make(chan struct{}, 1)}
	lock.NameMutex(&c.writeMu, lock.WriteBack, 0)
	c.perShard = max(int(limit/int64(blockSize)/shards), 16)
	c.maxDirty = int64(c.perShard*shards) / 4
	for i := range c.shard {
		s := &c.shard[i]
		s.m, s.dirty = map[uint64]*Head{}, map[*Head]struct{}{}
		s.lru.prev, s.lru.next = &s.lru, &s.lru
	}
	return c
}

// BlockSize is in bytes.
func (c *Cache) BlockSize() int { return c.blockSize }

func (c *Cache) of(blk uint64) *shard { return &c.shard[blk%shards] }

// Get returns the Head of blk with a reference, without reading (getblk).
func (c *Cache) Get(blk uint64) *Head {
	s := c.of(blk)
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.m[blk]
	if h == nil {
		s.shrink(c.perShard - 1)
		h = &Head{cache: c, blk: blk, data: make([]byte, c.blockSize)}
		lock.NameMutex(&h.mu, lock.BufferLock, blk)
		s.m[blk] = h
	} else {
		h.unlink()
	}
	h.link(&s.lru)
	h.ref.Add(1)
	return h
}

// Peek returns the Head of blk with a reference if it is cached, else nil.
func (c *Cache) Peek(blk uint64) *Head {
	s := c.of(blk)
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.m[blk]
	if h != nil {
		h.ref.Add(1)
	}
	return h
}

func (h *Head) link(lru *Head) {
	h.prev, h.next = lru, lru.next
	lru.next.prev = h
	lru.next = h
}

func (h *Head) unlink() {
	h.prev.next, h.next.prev = h.next, h.prev
	h.prev, h.next = nil, nil
}

// shrink evicts clean, unused blocks until the shard has at most want. The caller holds s.mu.
func (s *shard) shrink(want int) {
	for h := s.lru.prev; h != &s.lru && len(s.m) > want; {
		p := h.prev
		if h.ref.Load() == 0 && !h.has(stDirty) {
			h.unlink()
			delete(s.m, h.blk)
		}
		h = p
	}
}

// Read returns the Head of blk with a reference and up to date (sb_bread). The error names the block.
func (c *Cache) Read(blk uint64) (*Head, error) {
	h := c.Get(blk)
	if h.Uptodate() {
		return h, nil
	}
	h.Lock()
	defer h.Unlock()
	if h.Uptodate() {
		return h, nil
	}
	if _, err := c.dev.ReadAt(h.data, int64(blk)*int64(c.blockSize)); err != nil {
		h.Release()
		return nil, fmt.Errorf("read of block %d: %w", blk, err)
	}
	h.SetUptodate()
	return h, nil
}

// Drop forgets every clean, unused block: drop_caches.
func (c *Cache) Drop() {
	for i := range c.shard {
		s := &c.shard[i]
		s.mu.Lock()
		s.shrink(0)
		s.mu.Unlock()
	}
}

// Len is the number of cached blocks.
func (c *Cache) Len() (n int) {
	for i := range c.shard {
		s := &c.shard[i]
		s.mu.Lock()
		n += len(s.m)
		s.mu.Unlock()
	}
	return n
}
