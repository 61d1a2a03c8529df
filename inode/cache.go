package inode

import (
	"fmt"
	"sync"

	"inlinefs/internal/event"
	"inlinefs/internal/fserr"
	"inlinefs/ondisk"
	"inlinefs/super"
)

const shards = 32

// Cache holds the inodes that somebody uses: the kernel (by lookup count) or a request.
type Cache struct {
	fs    *super.FS // immutable
	shard [shards]cacheShard
	// Observe makes every inode record its events; set before the first Get.
	Observe bool
	// Evict is called when the last reference to an inode is gone, with its key still taken: it may free the inode on disk.
	// Set before the first Get.
	Evict func(*Inode)
}

type cacheShard struct {
	mu   sync.Mutex
	m    map[uint32]*Inode // guarded by mu
	cond *sync.Cond        // immutable; with mu
}

// NewCache returns an empty cache.
func NewCache(fs *super.FS) *Cache {
	c := &Cache{fs: fs}
	for i := range c.shard {
		s := &c.shard[i]
		s.m = map[uint32]*Inode{}
		s.cond = sync.NewCond(&s.mu)
	}
	return c
}

// Get returns inode ino with a reference, reading it if need be (ext4_iget). Errors: ondisk.CorruptError, fserr.Stale for a free
// inode.
func (c *Cache) Get(ino uint32) (*Inode, error) {
	if ino == 0 || ino > c.fs.Inodes || ino < c.fs.SB.FirstIno() && ino != ondisk.RootIno {
		return nil, ondisk.Corrupt(fmt.Sprintf("inode %d", ino), "not an inode for files (first %d, last %d)", c.fs.SB.FirstIno(), c.fs.Inodes)
	}
	return c.get(ino)
}

// GetSystem is Get for the reserved inodes (the journal's).
func (c *Cache) GetSystem(ino uint32) (*Inode, error) {
	if ino == 0 || ino > c.fs.Inodes {
		return nil, ondisk.Corrupt(fmt.Sprintf("inode %d", ino), "want from 1 to %d", c.fs.Inodes)
	}
	return c.get(ino)
}

func (c *Cache) get(ino uint32) (*Inode, error) {
	i := c.hold(ino)
	i.loadMu.Lock()
	if !i.loaded && i.bad == nil {
		if i.bad = i.load(); i.bad == nil {
			i.loaded = true
		}
	}
	err := i.bad
	i.loadMu.Unlock()
	if err != nil {
		c.Put(i)
		return nil, err
	}
	return i, nil
}

// Adopt returns a new, empty inode for number ino, which the allocator has just taken. raw is its initial content.
func (c *Cache) Adopt(ino uint32, raw ondisk.Inode) (*Inode, error) {
	i := c.hold(ino)
	i.loadMu.Lock()
	defer i.loadMu.Unlock()
	if i.loaded {
		c.Put(i)
		return nil, c.fs.Corrupted(ino, 0, "ext4_new_inode", ondisk.Corrupt(fmt.Sprintf("inode %d", ino), "free in the bitmap, yet in use"))
	}
	i.Raw, i.Generation, i.bad, i.loaded = raw, raw.Generation(), nil, true
	return i, nil
}

func (c *Cache) hold(ino uint32) *Inode {
	s := &c.shard[ino%shards]
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		i := s.m[ino]
		if i == nil {
			i = newInode(c, ino)
			if c.Observe {
				i.Ring = &event.Ring{}
			}
			s.m[ino] = i
		}
		if i.ref < 0 { // being evicted
			s.cond.Wait()
			continue
		}
		i.ref++
		return i
	}
}

// Peek returns the inode with a reference if it is in core, else nil.
func (c *Cache) Peek(ino uint32) *Inode {
	s := &c.shard[ino%shards]
	s.mu.Lock()
	defer s.mu.Unlock()
	i := s.m[ino]
	if i == nil || i.ref < 0 {
		return nil
	}
	i.ref++
	return i
}

// Hold takes n more references.
func (c *Cache) Hold(i *Inode, n int64) {
	s := &c.shard[i.Ino%shards]
	s.mu.Lock()
	i.ref += n
	s.mu.Unlock()
}

// Put gives one reference back.
func (c *Cache) Put(i *Inode) { c.PutN(i, 1) }

// PutN gives n references back; with the last one the inode leaves the cache, through Evict (ext4_evict_inode).
func (c *Cache) PutN(i *Inode, n int64) {
	s := &c.shard[i.Ino%shards]
	s.mu.Lock()
	if i.ref -= n; i.ref > 0 {
		s.mu.Unlock()
		return
	}
	i.ref = -1
	s.mu.Unlock()
	if c.Evict != nil && i.isLoaded() {
		c.Evict(i)
	}
	s.mu.Lock()
	delete(s.m, i.Ino)
	s.cond.Broadcast()
	s.mu.Unlock()
}

func (i *Inode) isLoaded() bool {
	i.loadMu.Lock()
	defer i.loadMu.Unlock()
	return i.loaded
}

// Each calls fn for every inode in core, with a reference held meanwhile.
func (c *Cache) Each(fn func(*Inode)) {
	for n := range c.shard {
		s := &c.shard[n]
		s.mu.Lock()
		var is []*Inode
		for _, i := range s.m {
			if i.ref > 0 {
				i.ref++
				is = append(is, i)
			}
		}
		s.mu.Unlock()
		for _, i := range is {
			if i.isLoaded() {
				fn(i)
			}
			c.Put(i)
		}
	}
}

// Len is the number of inodes in core.
func (c *Cache) Len() (n int) {
	for k := range c.shard {
		s := &c.shard[k]
		s.mu.Lock()
		n += len(s.m)
		s.mu.Unlock()
	}
	return n
}

// load reads and checks the inode. The caller holds loadMu.
func (i *Inode) load() error {
	f := i.FS
	blk, off := i.cache.location(i.Ino)
	b, err := f.Bufs.Read(blk)
	if err != nil {
		return f.Corrupted(i.Ino, blk, "ext4_iget", err)
	}
	b.Lock()
	raw := append(ondisk.Inode(nil), b.Data()[off:off+f.InodeSize]...)
	b.Unlock()
	b.Release()
	if raw.Links() == 0 && (raw.Mode() == 0 || f.ReadOnly()) {
		return fmt.Errorf("inode %d is free: %w", i.Ino, fserr.Stale)
	}
	if err := check(f, i.Ino, raw); err != nil {
		return f.Corrupted(i.Ino, blk, "ext4_iget", err)
	}
	i.Raw, i.Generation = raw, raw.Generation()
	i.MayInline.Store(raw.Has(ondisk.FlInlineData))
	return nil
}

// check validates a raw inode as __ext4_iget does.
func check(f *super.FS, ino uint32, raw ondisk.Inode) error {
	where := fmt.Sprintf("inode %d", ino)
	if x := raw.ExtraIsize(); ondisk.GoodOldInode+x > len(raw) || x%4 != 0 {
		return ondisk.Corrupt(where, "i_extra_isize %d in an inode of %d bytes", x, len(raw))
	}
	if f.Csum {
		if err := raw.VerifyChecksum(f.Seed, ino); err != nil {
			return err
		}
	}
	size := raw.Size()
	switch {
	case size > 1<<62:
		return ondisk.Corrupt(where, "i_size %d", size)
	case raw.Has(ondisk.FlInlineData) && raw.Has(ondisk.FlExtents):
		return ondisk.Corrupt(where, "both inline data and extents (flags 0x%x)", raw.Flags())
	case raw.Has(ondisk.FlInlineData) && !f.InlineData:
		return ondisk.Corrupt(where, "inline data on a file system without that feature")
	case raw.Has(ondisk.FlExtents) && !f.SB.Incompat(ondisk.IncompatExtents):
		return ondisk.Corrupt(where, "extents on a file system without that feature")
	case raw.Has(ondisk.FlEncrypt):
		return fmt.Errorf("%s is encrypted: %w", where, fserr.NotSupported)
	}
	if raw.IsDir() && !raw.Has(ondisk.FlInlineData) && size%uint64(f.BlockSize) != 0 {
		return ondisk.Corrupt(where, "directory of %d bytes, want a multiple of %d", size, f.BlockSize)
	}
	if acl := raw.FileACL(); acl != 0 && !f.ValidBlocks(acl, 1) {
		return ondisk.Corrupt(where, "attribute block %d is not a data block", acl)
	}
	switch raw.Mode() & ondisk.ModeFmt {
	case ondisk.ModeReg, ondisk.ModeDir, ondisk.ModeLnk, ondisk.ModeChr, ondisk.ModeBlk, ondisk.ModeFIFO, ondisk.ModeSock:
	default:
		return ondisk.Corrupt(where, "mode 0%o has no known file type", raw.Mode())
	}
	return checkInline(f, where, raw)
}
