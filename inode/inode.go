// Package inode holds in-core inodes: the raw bytes of the inode as the truth while it is in core, the locks that the kernel keeps in
// struct inode and ext4_inode_info, and the cache that maps inode numbers to them.
package inode

import (
	"fmt"
	"sync/atomic"
	"time"

	"inlinefs/buffer"
	"inlinefs/internal/event"
	"inlinefs/internal/fserr"
	"inlinefs/internal/lock"
	"inlinefs/journal"
	"inlinefs/mm"
	"inlinefs/ondisk"
	"inlinefs/super"
)

// Inode is an inode in core. The lock order among its locks is the order of the fields; fs/doc.go has the whole order.
type Inode struct {
	Ino        uint32    // immutable
	Generation uint32    // immutable
	FS         *super.FS // immutable
	cache      *Cache    // immutable

	// Rw is i_rwsem: exclusive for write, truncate, fallocate and changes of a directory; shared for lookup and readdir.
	Rw lock.RWMutex
	// XattrSem is xattr_sem: extended attributes and inline data.
	XattrSem lock.RWMutex
	// DataSem is i_data_sem: the map from logical to physical blocks, and what i_block means.
	DataSem lock.RWMutex
	// Mu guards Raw; held for the few lines that touch it, never while another lock but the buffer lock is taken.
	Mu lock.Mutex
	// Raw is the inode's s_inode_size bytes, the truth while it is in core; guarded by Mu.
	Raw ondisk.Inode

	// MayInline is EXT4_STATE_MAY_INLINE_DATA; atomic, because the race of this project is about reading it without a lock.
	MayInline lock.Bool
	// Gen counts changes between inline and block mode; atomic.
	Gen atomic.Uint64
	// SyncTid is the transaction that fsync waits for; atomic.
	SyncTid atomic.Uint32
	// Map is the shadow of the client's mapped pages; immutable.
	Map mm.Mapping
	// WasObserved says that a handle with observed faults was opened since the inode came into core: from then on every handle that may
	// write is observed and every page fill is remembered; atomic.
	WasObserved atomic.Bool
	// Ring keeps the last events in observe mode, nil otherwise; immutable.
	Ring *event.Ring
	// Goal is where the next block of the file should go, 0 for unknown; guarded by Rw.
	Goal uint64
	// Converting says that the inline data was destroyed and is not mapped yet: only the converter may map blocks; guarded by DataSem.
	Converting bool
	// Ext caches the last extent found; guarded by Mu.
	Ext ondisk.Extent
	// Orphan says that the inode is on the orphan list or in the orphan file; guarded by the list's lock.
	Orphan bool
	// OrphanSlot is its slot in the orphan file, counted from 1, 0 for the list; guarded by the list's lock.
	OrphanSlot int
	// OrphanPrev is the inode before this one in the orphan list, nil at its head; guarded by the list's lock.
	OrphanPrev, OrphanNext *Inode

	ref    int64 // guarded by the cache shard's mu
	loadMu lock.Mutex
	loaded bool  // guarded by loadMu
	bad    error // guarded by loadMu
}

// newInode returns an inode that is not loaded yet, its locks named.
func newInode(c *Cache, ino uint32) *Inode {
	i := &Inode{Ino: ino, FS: c.fs, cache: c}
	n := uint64(ino)
	lock.NameRW(&i.Rw, lock.Rwsem, n)
	lock.NameRW(&i.XattrSem, lock.XattrSem, n)
	lock.NameRW(&i.DataSem, lock.DataSem, n)
	lock.NameMutex(&i.Mu, lock.RawLock, n)
	lock.NameMutex(&i.loadMu, lock.InodeLoad, n)
	i.Map.Name(n)
	lock.NameBool(&i.MayInline, "MAY_INLINE_DATA", n)
	return i
}

// Seed is the checksum seed of the inode's directory and extent blocks.
func (i *Inode) Seed() uint32 { return ondisk.InodeSeed(i.FS.Seed, i.Ino, i.Generation) }

// Size is i_size in bytes.
func (i *Inode) Size() uint64 {
	lock.Reading(&i.Mu)
	lock.Touching(&i.Mu, lock.RawSize)
	i.Mu.Lock()
	defer i.Mu.Unlock()
	return i.Raw.Size()
}

// SetSize changes i_size in core.
func (i *Inode) SetSize(v uint64) {
	lock.Touching(&i.Mu, lock.RawSize)
	i.Mu.Lock()
	i.Raw.SetSize(v)
	i.Mu.Unlock()
}

// Mode is i_mode.
func (i *Inode) Mode() uint16 {
	lock.Reading(&i.Mu)
	lock.Touching(&i.Mu, lock.RawFlags)
	i.Mu.Lock()
	defer i.Mu.Unlock()
	return i.Raw.Mode()
}

// Flags is i_flags.
func (i *Inode) Flags() uint32 {
	lock.Reading(&i.Mu)
	lock.Touching(&i.Mu, lock.RawFlags)
	i.Mu.Lock()
	defer i.Mu.Unlock()
	return i.Raw.Flags()
}

// ChangeFlags sets and clears bits of i_flags.
func (i *Inode) ChangeFlags(set, clear uint32) {
	lock.Touching(&i.Mu, lock.RawFlags)
	i.Mu.Lock()
	i.Raw.SetFlags(i.Raw.Flags()&^clear | set)
	i.Mu.Unlock()
}

// Links is i_links_count.
func (i *Inode) Links() uint16 {
	lock.Reading(&i.Mu)
	lock.Touching(&i.Mu, lock.RawRest)
	i.Mu.Lock()
	defer i.Mu.Unlock()
	return i.Raw.Links()
}

// IsDir says whether it is a directory.
func (i *Inode) IsDir() bool { return i.Mode()&ondisk.ModeFmt == ondisk.ModeDir }

// IsReg says whether it is a regular file.
func (i *Inode) IsReg() bool { return i.Mode()&ondisk.ModeFmt == ondisk.ModeReg }

// HasInline says whether the data is in the inode (ext4_has_inline_data).
func (i *Inode) HasInline() bool { return i.Flags()&ondisk.FlInlineData != 0 }

// AddSectors accounts n 512-byte units to i_blocks.
func (i *Inode) AddSectors(n int64) error {
	lock.Touching(&i.Mu, lock.RawRest)
	i.Mu.Lock()
	defer i.Mu.Unlock()
	v := int64(i.Raw.Sectors(i.FS.HugeFile, i.FS.BlockSize)) + n
	if v < 0 {
		i.Raw.SetSectors(0, i.FS.HugeFile, i.FS.BlockSize)
		return ondisk.Corrupt(i.Name(), "i_blocks would become %d sectors", v)
	}
	if !i.Raw.SetSectors(uint64(v), i.FS.HugeFile, i.FS.BlockSize) {
		return fmt.Errorf("%s: %d sectors: %w", i.Name(), v, fserr.TooBig)
	}
	return nil
}

// Name is "inode N", for errors.
func (i *Inode) Name() string { return fmt.Sprintf("inode %d", i.Ino) }

// Touch sets the given times to now.
func (i *Inode) Touch(now time.Time, fields ...ondisk.TimeField) {
	lock.Touching(&i.Mu, lock.RawRest)
	i.Mu.Lock()
	for _, f := range fields {
		i.Raw.SetTime(f, now)
	}
	i.Mu.Unlock()
}

// location is the inode's block and byte offset in it (ext4_get_inode_loc).
func (c *Cache) location(ino uint32) (blk uint64, off int) {
	f := c.fs
	g, idx := (ino-1)/f.InodesPerGroup, (ino-1)%f.InodesPerGroup
	// The place of the inode table never changes after mount, so the descriptor is read without its lock.
	return f.Group(g).Desc.InodeTable() + uint64(idx/f.InodesPerBlock), int(idx%f.InodesPerBlock) * f.InodeSize
}

// MarkDirty copies the in-core inode to its block under h (ext4_mark_inode_dirty). One credit.
func (i *Inode) MarkDirty(h *journal.Handle) error {
	blk, off := i.cache.location(i.Ino)
	b, err := i.FS.Bufs.Read(blk)
	if err != nil {
		return i.FS.Corrupted(i.Ino, blk, "ext4_mark_inode_dirty", err)
	}
	defer b.Release()
	if err := h.GetWriteAccess(b); err != nil {
		return err
	}
	i.copyOut(b, off)
	if err := h.DirtyMetadata(b); err != nil {
		return err
	}
	i.SyncTid.Store(h.Tid())
	return nil
}

func (i *Inode) copyOut(b *buffer.Head, off int) {
	if !i.FS.Csum {
		lock.Reading(&i.Mu)
	}
	i.Mu.Lock()
	defer i.Mu.Unlock()
	if i.FS.Csum {
		i.Raw.UpdateChecksum(i.FS.Seed, i.Ino)
	}
	b.Lock()
	copy(b.Data()[off:], i.Raw)
	b.Unlock()
}

// Event records a step of the race, in observe mode only. fn is the function of this code, kernel the one that it stands for.
func (i *Inode) Event(t *journal.Task, fn, kernel, detail string) {
	if i.Ring == nil {
		return
	}
	i.EventAt(event.Now(), t, fn, kernel, detail)
}

// EventAt is Event for a step that happened at nsec (event.Now): a detail takes longer to print than the step took.
func (i *Inode) EventAt(nsec int64, t *journal.Task, fn, kernel, detail string) {
	if i.Ring == nil {
		return
	}
	lock.Note(fn, kernel, detail)
	i.Ring.Add(event.Event{Nsec: nsec, Task: t.ID, Op: t.Op, Pid: t.Pid, Func: fn, Kernel: kernel, Detail: detail})
}

// Now is event.Now in observe mode, 0 otherwise.
func (i *Inode) Now() int64 {
	if i.Ring == nil {
		return 0
	}
	return event.Now()
}

// Observed says whether events are recorded: callers build Detail only then.
func (i *Inode) Observed() bool { return i.Ring != nil }
