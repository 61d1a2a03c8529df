package xattr

import (
	"fmt"

	"inlinefs/alloc"
	"inlinefs/buffer"
	"inlinefs/inode"
	"inlinefs/internal/fserr"
	"inlinefs/journal"
	"inlinefs/ondisk"
)

func blockName(blk uint64) string { return fmt.Sprintf("attribute block %d", blk) }

// loadBlock returns the attribute block, its checksum verified. The caller releases it.
func loadBlock(i *inode.Inode, blk uint64) (*buffer.Head, error) {
	f := i.FS
	if !f.ValidBlocks(blk, 1) {
		return nil, corrupted(i, blk, "ext4_xattr_block_find", ondisk.Corrupt(blockName(blk), "not a data block"))
	}
	b, err := f.Bufs.Read(blk)
	if err != nil {
		return nil, err
	}
	if err := verify(i, b); err != nil { // told without the buffer lock: the superblock's lock stands before it
		b.Release()
		return nil, corrupted(i, blk, "ext4_xattr_check_block", err)
	}
	return b, nil
}

// verify checks the block once (ext4_xattr_check_block).
func verify(i *inode.Inode, b *buffer.Head) error {
	b.Lock()
	defer b.Unlock()
	if b.Verified() {
		return nil
	}
	blk, x := b.Block(), ondisk.XattrBlock(b.Data())
	if err := x.Check(blockName(blk)); err != nil {
		return err
	}
	if i.FS.Csum {
		if err := x.VerifyChecksum(blockName(blk), i.FS.Seed, blk); err != nil {
			return err
		}
	}
	b.SetVerified()
	return nil
}

// getBlock finds an attribute in the external block. The caller holds XattrSem.
func getBlock(i *inode.Inode, blk uint64, index uint8, name string) ([]byte, bool, error) {
	b, err := loadBlock(i, blk)
	if err != nil {
		return nil, false, err
	}
	defer b.Release()
	b.Lock()
	value, found, err := ondisk.XattrBlock(b.Data()).Find(blockName(blk), index, name)
	b.Unlock()
	return value, found, corrupted(i, blk, "ext4_xattr_block_get", err)
}

// readBlock decodes the external block and says how many inodes use it. The caller holds XattrSem.
func readBlock(i *inode.Inode, blk uint64) ([]ondisk.XattrEntry, uint32, error) {
	b, err := loadBlock(i, blk)
	if err != nil {
		return nil, 0, err
	}
	defer b.Release()
	b.Lock()
	x := ondisk.XattrBlock(b.Data())
	all, err := x.List(blockName(blk))
	refs := x.Refcount()
	b.Unlock()
	return all, refs, corrupted(i, blk, "ext4_xattr_block_list", err)
}

// writeBlock stores all in the inode's attribute block blk (0: none yet), which refs inodes use, and returns the block that holds them
// now: a shared block is copied, an empty one given back (ext4_xattr_block_set). The caller holds XattrSem exclusively and stores block
// and sectors. Errors: fserr.NoSpace before anything is changed.
func writeBlock(h *journal.Handle, i *inode.Inode, blk uint64, refs uint32, all []ondisk.XattrEntry) (uint64, error) {
	if len(all) == 0 {
		return 0, dropBlock(h, i, blk)
	}
	scratch := make(ondisk.XattrBlock, i.FS.BlockSize)
	if err := scratch.Fill(all, 1); err != nil {
		return blk, fmt.Errorf("%s: %d attributes outside the inode: %w: %w", i.Name(), len(all), err, fserr.NoSpace)
	}
	if blk != 0 && refs == 1 {
		return blk, overwrite(h, i, blk, scratch)
	}
	to, err := alloc.NewBlock(h, i, 0)
	if err != nil {
		return blk, err
	}
	if err := create(h, i, to, scratch); err != nil {
		return blk, err
	}
	if blk != 0 {
		err = dropBlock(h, i, blk)
	}
	return to, err
}

// put fills b with the content made in scratch. The caller holds the buffer lock.
func put(i *inode.Inode, b *buffer.Head, scratch ondisk.XattrBlock) {
	x := ondisk.XattrBlock(b.Data())
	copy(x, scratch)
	if i.FS.Csum {
		x.UpdateChecksum(i.FS.Seed, b.Block())
	}
	b.SetUptodate()
	b.SetVerified()
}

func overwrite(h *journal.Handle, i *inode.Inode, blk uint64, scratch ondisk.XattrBlock) error {
	b, err := i.FS.Bufs.Read(blk)
	if err != nil {
		return err
	}
	defer b.Release()
	if err := h.GetWriteAccess(b); err != nil {
		return err
	}
	b.Lock()
	put(i, b, scratch)
	b.Unlock()
	return h.DirtyMetadata(b)
}

func create(h *journal.Handle, i *inode.Inode, blk uint64, scratch ondisk.XattrBlock) error {
	b := i.FS.Bufs.Get(blk)
	defer b.Release()
	b.Lock()
	if err := h.GetCreateAccess(b); err != nil {
		b.Unlock()
		return err
	}
	put(i, b, scratch)
	b.Unlock()
	return h.DirtyMetadata(b)
}

// dropBlock gives back one use of attribute block blk; the last user frees it (ext4_xattr_release_block).
func dropBlock(h *journal.Handle, i *inode.Inode, blk uint64) error {
	b, err := loadBlock(i, blk)
	if err != nil {
		return err
	}
	defer b.Release()
	if err := h.GetWriteAccess(b); err != nil {
		return err
	}
	x := ondisk.XattrBlock(b.Data())
	b.Lock()
	refs := x.Refcount()
	if refs > 1 {
		x.SetRefcount(refs - 1)
		if i.FS.Csum {
			x.UpdateChecksum(i.FS.Seed, blk)
		}
	}
	b.Unlock()
	if refs > 1 {
		return h.DirtyMetadata(b)
	}
	return alloc.FreeBlocks(h, i, blk, 1, true)
}

// ReleaseBlock gives the external block of an inode that is being deleted back, if it has one, and takes it off i_blocks
// (ext4_xattr_delete_inode). The caller marks the inode dirty. Errors: ondisk.CorruptError; the block stays then.
func ReleaseBlock(h *journal.Handle, i *inode.Inode) error {
	i.XattrSem.Lock()
	defer i.XattrSem.Unlock()
	i.Mu.Lock()
	blk := i.Raw.FileACL()
	i.Mu.Unlock()
	if blk == 0 {
		return nil
	}
	if err := dropBlock(h, i, blk); err != nil {
		return err
	}
	i.Mu.Lock()
	i.Raw.SetFileACL(0)
	i.Mu.Unlock()
	return account(i, blk, 0)
}

// account corrects i_blocks after the attribute block changed from one number to another, 0 being none.
func account(i *inode.Inode, from, to uint64) error {
	n := int64(i.FS.BlockSize / 512)
	switch {
	case from == 0 && to != 0:
		return i.AddSectors(n)
	case from != 0 && to == 0:
		return i.AddSectors(-n)
	}
	return nil
}
