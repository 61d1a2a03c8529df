package buffer

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"
)

// runMax is the longest single write of contiguous blocks, in bytes.
const runMax = 1 << 20

func (c *Cache) addDirty(h *Head) {
	s := c.of(h.blk)
	s.mu.Lock()
	// The bit may have been cleared again by a write-back between the caller's set and this lock.
	if h.has(stDirty) {
		if _, ok := s.dirty[h]; !ok {
			s.dirty[h] = struct{}{}
			c.nDirty.Add(1)
		}
	}
	s.mu.Unlock()
	if c.nDirty.Load() > c.maxDirty {
		select {
		case c.wake <- struct{}{}:
		default:
		}
	}
}

func (c *Cache) dropDirty(h *Head) {
	s := c.of(h.blk)
	s.mu.Lock()
	if _, ok := s.dirty[h]; ok && !h.has(stDirty) {
		delete(s.dirty, h)
		c.nDirty.Add(-1)
	}
	s.mu.Unlock()
}

// collect takes a reference on every dirty block, in block order.
func (c *Cache) collect() []*Head {
	var out []*Head
	for i := range c.shard {
		s := &c.shard[i]
		s.mu.Lock()
		for h := range s.dirty {
			h.ref.Add(1)
			out = append(out, h)
		}
		s.mu.Unlock()
	}
	slices.SortFunc(out, func(a, b *Head) int { return cmp.Compare(a.blk, b.blk) })
	return out
}

// WriteDirty writes every dirty block in place, contiguous runs in one write each. It does not flush the device. Blocks that could
// not be written stay dirty; the error joins what went wrong.
func (c *Cache) WriteDirty() error {
	c.writeMu.Lock()
	defer c.writeMu.Unlock()
	return c.writeHeads(c.collect())
}

// WriteBlocks writes those of heads that are dirty.
func (c *Cache) WriteBlocks(heads []*Head) error {
	c.writeMu.Lock()
	defer c.writeMu.Unlock()
	hs := make([]*Head, 0, len(heads))
	for _, h := range heads {
		if h.Dirty() {
			h.Hold()
			hs = append(hs, h)
		}
	}
	slices.SortFunc(hs, func(a, b *Head) int { return cmp.Compare(a.blk, b.blk) })
	return c.writeHeads(hs)
}

func (c *Cache) writeHeads(heads []*Head) error {
	var errs []error
	perRun := max(runMax/c.blockSize, 1)
	var scratch []byte
	for len(heads) > 0 {
		n := 1
		for n < len(heads) && n < perRun && heads[n].blk == heads[n-1].blk+1 {
			n++
		}
		if n > 1 && len(scratch) < n*c.blockSize {
			scratch = make([]byte, n*c.blockSize)
		}
		if err := c.writeRun(heads[:n], scratch); err != nil {
			errs = append(errs, err)
		}
		for _, h := range heads[:n] {
			h.Release()
		}
		heads = heads[n:]
	}
	err := errors.Join(errs...)
	if err != nil {
		c.werr.Store(&err)
	}
	return err
}

// writeRun writes contiguous blocks. A block that stopped being dirty meanwhile is written all the same when it is in the middle of
// a run of dirty ones only if nobody took it over; the run is cut there instead.
func (c *Cache) writeRun(run []*Head, scratch []byte) error {
	for len(run) > 0 {
		if !run[0].Dirty() {
			run = run[1:]
			continue
		}
		n := 0
		if len(run) == 1 {
			scratch = run[0].data
		}
		for n < len(run) {
			h := run[n]
			h.Lock()
			if !h.ClearDirty() {
				h.Unlock()
				break
			}
			if len(run) == 1 {
				// Written under its lock: no copy.
				_, err := c.dev.WriteAt(h.data, int64(h.blk)*int64(c.blockSize))
				if err != nil {
					h.MarkDirty()
				}
				h.Unlock()
				return wrapWrite(err, h.blk, 1)
			}
			copy(scratch[n*c.blockSize:], h.data)
			h.set(stWriting)
			h.Unlock()
			n++
		}
		if n == 0 {
			continue
		}
		_, err := c.dev.WriteAt(scratch[:n*c.blockSize], int64(run[0].blk)*int64(c.blockSize))
		for _, h := range run[:n] {
			h.unset(stWriting)
		}
		if err != nil {
			for _, h := range run[:n] {
				h.MarkDirty()
			}
			return wrapWrite(err, run[0].blk, n)
		}
		run = run[n:]
		if len(run) == 1 {
			return c.writeRun(run, nil)
		}
	}
	return nil
}

func wrapWrite(err error, blk uint64, n int) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("write of %d blocks at block %d: %w", n, blk, err)
}

// Forget drops the pending write of a freed block and returns when no write-back of it is under way: the block's next owner may
// write data there (unmap_underlying_metadata, bforget).
func (c *Cache) Forget(blk uint64) {
	h := c.Peek(blk)
	if h == nil {
		return
	}
	h.Lock()
	h.ClearDirty()
	h.unset(stUptodate | stVerified)
	busy := h.has(stWriting)
	h.Unlock()
	if busy {
		// Wait for the write-back; one that failed has queued the block again.
		c.writeMu.Lock()
		h.ClearDirty()
		h.unset(stUptodate | stVerified)
		c.writeMu.Unlock()
	}
	h.Release()
}

// Sync writes every dirty block and flushes the device.
func (c *Cache) Sync() error {
	if err := c.WriteDirty(); err != nil {
		return err
	}
	return c.dev.Flush()
}

// WriteError returns the last write-back error once.
func (c *Cache) WriteError() error {
	if p := c.werr.Swap(nil); p != nil {
		return *p
	}
	return nil
}

// DirtyBlocks is the number of blocks that wait for write-back.
func (c *Cache) DirtyBlocks() int64 { return c.nDirty.Load() }

// Flusher writes dirty blocks every interval, and when there are many, until stop is closed. onError hears of failures.
func (c *Cache) Flusher(interval time.Duration, stop <-chan struct{}, onError func(error)) {
	t := time.NewTicker(interval)
	defer t.Stop()
	for {
		select {
		case <-stop:
			return
		case <-t.C:
		case <-c.wake:
		}
		if err := c.WriteDirty(); err != nil {
			onError(err)
		}
	}
}
