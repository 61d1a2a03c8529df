package alloc

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"time"

	"inlinefs/buffer"
	"inlinefs/inode"
	"inlinefs/internal/fserr"
	"inlinefs/journal"
	"inlinefs/ondisk"
	"inlinefs/super"
)

// NewInodeCredits is what NewInode needs: bitmap, descriptor, the inode's block.
const NewInodeCredits = 4

// New describes an inode to be made.
type New struct {
	Mode     uint16
	UID, GID uint32
	Parent   *inode.Inode
}

// NewInode takes a free inode and sets it up in core (ext4_new_inode): times, generation, inherited flags, extra size, the empty
// extent tree or block map. It has no link yet and is not written: the caller sets links and calls MarkDirty. Errors: fserr.NoSpace.
func NewInode(h *journal.Handle, c *inode.Cache, n New) (*inode.Inode, error) {
	f := n.Parent.FS
	if f.FreeInodes() < 1 {
		return nil, fmt.Errorf("no free inode: %w", fserr.NoSpace)
	}
	isDir := n.Mode&ondisk.ModeFmt == ondisk.ModeDir
	first := pickGroup(f, n.Parent, isDir)
	var firstErr error
	for k := uint32(0); k < f.Groups(); k++ {
		g := f.Group((first + k) % f.Groups())
		ino, err := takeInode(f, h, g, isDir)
		if err != nil {
			if firstErr == nil {
				firstErr = err
			}
			continue
		}
		if ino != 0 {
			return c.Adopt(ino, initInode(f, ino, n))
		}
	}
	if firstErr == nil {
		firstErr = fserr.NoSpace
	}
	return nil, fmt.Errorf("no free inode: %w", firstErr)
}

// pickGroup chooses where to look first: a file goes to its parent's group; a directory in the root goes to the emptiest group, any
// other directory near its parent (the idea of find_group_orlov).
func pickGroup(f *super.FS, parent *inode.Inode, isDir bool) uint32 {
	pg := (parent.Ino - 1) / f.InodesPerGroup
	if !isDir || parent.Ino != ondisk.RootIno && parent.Flags()&ondisk.FlTopDir == 0 {
		return pg
	}
	avgInodes, avgBlocks := uint32(f.FreeInodes()/int64(f.Groups())), uint32(min(f.FreeBlocks()/int64(f.Groups()), 1<<31))
	best, bestDirs := pg, ^uint32(0)
	for n := range f.Groups() {
		g := f.Group(n)
		g.Mu.Lock()
		ok := g.Desc.FreeInodes() >= max(avgInodes, 1) && g.Desc.FreeBlocks() >= avgBlocks && g.Desc.UsedDirs() < bestDirs
		if ok {
			best, bestDirs = n, g.Desc.UsedDirs()
		}
		g.Mu.Unlock()
	}
	return best
}

// takeInode marks a free inode of g as used; 0 when there is none, or its bitmap is damaged: that is reported, and the group is passed over
// (__ext4_new_inode).
func takeInode(f *super.FS, h *journal.Handle, g *super.Group, isDir bool) (uint32, error) {
	g.Mu.Lock()
	defer g.Mu.Unlock()
	if g.InodesCorrupt || g.Desc.FreeInodes() == 0 {
		return 0, nil
	}
	b, err := inodeBitmap(f, g)
	if err != nil {
		return 0, nil // reported and marked by inodeBitmap
	}
	defer b.Release()
	from := uint32(0)
	if g.No == 0 {
		from = f.SB.FirstIno() - 1
	}
	idx := nextZero(b.Data(), from, f.InodesPerGroup)
	if idx == f.InodesPerGroup {
		err := ondisk.Corrupt(fmt.Sprintf("group %d", g.No), "descriptor has %d free inodes, the bitmap none", g.Desc.FreeInodes())
		f.GroupError(g, true, "ext4_new_inode", err)
		return 0, nil
	}
	if err := h.GetWriteAccess(b); err != nil {
		return 0, err
	}
	// First, for it may fail: then the inode is not taken.
	if err := firstUse(f, h, g, idx); err != nil {
		return 0, err
	}
	b.Lock()
	setBit(b.Data(), idx)
	b.Unlock()
	g.Desc.SetFreeInodes(g.Desc.FreeInodes() - 1)
	if isDir {
		g.Desc.SetUsedDirs(g.Desc.UsedDirs() + 1)
	}
	f.AddFree(0, -1)
	return g.No*f.InodesPerGroup + idx + 1, putInodes(f, h, g, b)
}

// firstUse keeps bg_itable_unused right and gives a never used block of the inode table zeros instead of what is on the device.
func firstUse(f *super.FS, h *journal.Handle, g *super.Group, idx uint32) error {
	if !f.Csum && !f.SB.ROCompat(ondisk.ROCompatGdtCsum) {
		return nil
	}
	unused := g.Desc.ItableUnused()
	if g.Desc.Flags()&ondisk.BGInodeUninit != 0 {
		unused = f.InodesPerGroup
	}
	used := f.InodesPerGroup - min(unused, f.InodesPerGroup)
	if idx >= used {
		g.Desc.SetItableUnused(f.InodesPerGroup - idx - 1)
		// Every table block from the first never used one to this inode's becomes live.
		for t := (used + f.InodesPerBlock - 1) / f.InodesPerBlock; t <= idx/f.InodesPerBlock; t++ {
			if err := zeroTable(f, h, g.Desc.InodeTable()+uint64(t)); err != nil {
				return err
			}
		}
	}
	if g.Desc.Flags()&ondisk.BGInodeUninit != 0 {
		g.Desc.SetFlags(g.Desc.Flags() &^ ondisk.BGInodeUninit)
		// The blocks of an uninitialized group's bitmap become real together with its inodes.
		if g.Desc.Flags()&ondisk.BGBlockUninit != 0 {
			b, err := blockBitmap(f, g)
			if err != nil {
				return nil // reported and marked; the inode itself is fine
			}
			defer b.Release()
			if err := h.GetWriteAccess(b); err != nil {
				return err
			}
			return putBlocks(f, h, g, b)
		}
	}
	return nil
}

func zeroTable(f *super.FS, h *journal.Handle, blk uint64) error {
	b := f.Bufs.Get(blk)
	defer b.Release()
	b.Lock()
	if err := h.GetCreateAccess(b); err != nil {
		b.Unlock()
		return err
	}
	clear(b.Data())
	b.SetUptodate()
	b.Unlock()
	return h.DirtyMetadata(b)
}

// inodeBitmap returns g's inode bitmap, verified. The caller holds g.Mu.
func inodeBitmap(f *super.FS, g *super.Group) (*buffer.Head, error) {
	blk := g.Desc.InodeBitmap()
	b := f.Bufs.Get(blk)
	uninit := g.Desc.Flags()&ondisk.BGInodeUninit != 0
	if uninit && !b.Verified() {
		b.Lock()
		clear(b.Data())
		for i := f.InodesPerGroup; i < uint32(f.BlockSize*8); i++ {
			setBit(b.Data(), i)
		}
		b.SetUptodate()
		b.SetVerified()
		b.Unlock()
	}
	defer b.Release() // not before the read, as in blockBitmap
	b, err := f.Bufs.Read(blk)
	if err != nil {
		return nil, f.GroupError(g, true, "ext4_read_inode_bitmap", err)
	}
	if g.InodesChecked {
		return b, nil
	}
	if f.Csum && !uninit {
		got := ondisk.CRC32C(f.Seed, b.Data()[:f.InodesPerGroup/8]) & g.Desc.BitmapCsumMask()
		if want := g.Desc.InodeBitmapCsum(); got != want {
			b.Release()
			return nil, f.GroupError(g, true, "ext4_validate_inode_bitmap", ondisk.BadChecksum(fmt.Sprintf("group %d", g.No), "inode bitmap", got, want))
		}
	}
	g.InodesChecked = true
	return b, nil
}

func putInodes(f *super.FS, h *journal.Handle, g *super.Group, b *buffer.Head) error {
	if f.Csum {
		g.Desc.SetInodeBitmapCsum(ondisk.CRC32C(f.Seed, b.Data()[:f.InodesPerGroup/8]))
	}
	if err := h.DirtyMetadata(b); err != nil {
		return err
	}
	return f.PutGroupDesc(h, g)
}

// initInode is the content of a new inode.
func initInode(f *super.FS, ino uint32, n New) ondisk.Inode {
	raw := make(ondisk.Inode, f.InodeSize)
	raw.SetMode(n.Mode)
	raw.SetUID(n.UID)
	raw.SetGID(n.GID)
	extra := 0
	if f.InodeSize > ondisk.GoodOldInode {
		extra = 32
		if f.SB.ROCompat(ondisk.ROCompatExtraIsize) {
			extra = int(max(f.SB.WantExtraIsize(), f.SB.MinExtraIsize(), 32))
		}
		extra = min(extra&^3, f.InodeSize-ondisk.GoodOldInode)
		raw.SetExtraIsize(extra)
	}
	now := time.Now()
	for _, t := range []ondisk.TimeField{ondisk.Atime, ondisk.Ctime, ondisk.Mtime, ondisk.Crtime} {
		raw.SetTime(t, now)
	}
	var gen [4]byte
	rand.Read(gen[:])
	raw.SetGeneration(binary.LittleEndian.Uint32(gen[:]))
	fl := n.Parent.Flags() & ondisk.FlInherited
	kind := n.Mode & ondisk.ModeFmt
	switch kind {
	case ondisk.ModeDir:
	case ondisk.ModeReg:
		fl &^= ondisk.FlDirSync | ondisk.FlTopDir
	default:
		fl &= ondisk.FlNoAtime
	}
	if f.SB.Incompat(ondisk.IncompatExtents) && (kind == ondisk.ModeReg || kind == ondisk.ModeDir || kind == ondisk.ModeLnk) {
		fl |= ondisk.FlExtents
		ondisk.ExtentNode(raw.Block()).Init(0)
	}
	raw.SetFlags(fl)
	return raw
}

// FreeInode gives ino back (ext4_free_inode): its bit, the counts. The raw inode was cleared by the caller.
func FreeInode(h *journal.Handle, i *inode.Inode, isDir bool) error {
	f := i.FS
	g := f.Group((i.Ino - 1) / f.InodesPerGroup)
	idx := (i.Ino - 1) % f.InodesPerGroup
	g.Mu.Lock()
	defer g.Mu.Unlock()
	if g.InodesCorrupt {
		return nil
	}
	b, err := inodeBitmap(f, g)
	if err != nil {
		return nil // reported and marked by inodeBitmap
	}
	defer b.Release()
	if !testBit(b.Data(), idx) {
		return f.GroupError(g, true, "ext4_free_inode", ondisk.Corrupt(fmt.Sprintf("group %d", g.No), "bit already cleared for inode %d", i.Ino))
	}
	if err := h.GetWriteAccess(b); err != nil {
		return err
	}
	b.Lock()
	clearBit(b.Data(), idx)
	b.Unlock()
	g.Desc.SetFreeInodes(g.Desc.FreeInodes() + 1)
	if isDir && g.Desc.UsedDirs() > 0 {
		g.Desc.SetUsedDirs(g.Desc.UsedDirs() - 1)
	}
	f.AddFree(0, 1)
	return putInodes(f, h, g, b)
}
