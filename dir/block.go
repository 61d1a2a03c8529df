package dir

import (
	"fmt"

	"inlinefs/buffer"
	"inlinefs/extent"
	"inlinefs/inode"
	"inlinefs/internal/fserr"
	"inlinefs/journal"
	"inlinefs/ondisk"
)

// place is an entry that was found in a block; b is referenced.
type place struct {
	b         *buffer.Head
	area      []byte
	off, prev int // bytes in area; prev < 0 for the first entry
}

// where names a block of a directory for errors.
func where(d *inode.Inode, lblk uint32) string {
	return fmt.Sprintf("block %d of directory inode %d", lblk, d.Ino)
}

// corrupt reports err, found by fn in block blk of the device.
func corrupt(d *inode.Inode, blk uint64, fn string, err error) error {
	return d.FS.Corrupted(d.Ino, blk, fn, err)
}

// hasIndex says whether the file system indexes directories.
func hasIndex(d *inode.Inode) bool { return d.FS.SB.Compat(ondisk.CompatDirIndex) }

// isIndexed says whether d has an index (is_dx).
func isIndexed(d *inode.Inode) bool { return hasIndex(d) && d.Flags()&ondisk.FlIndex != 0 }

// blocks is how many blocks d has. A size that is no multiple of the block size, or none, is corruption.
func blocks(d *inode.Inode) (uint32, error) {
	size := d.Size()
	n := size >> d.FS.BlockBits
	if n == 0 || n<<d.FS.BlockBits != size || n > extent.MaxBlocks(d) {
		err := ondisk.Corrupt(d.Name(), "directory of %d bytes, want a multiple of the block size %d", size, d.FS.BlockSize)
		return 0, corrupt(d, 0, "ext4_readdir", err)
	}
	return uint32(n), nil
}

// leafArea is the part of a linear block that holds entries.
func leafArea(d *inode.Inode, data []byte) []byte {
	if d.FS.Csum {
		return data[:len(data)-ondisk.DirTailSize]
	}
	return data
}

// readBlock reads a block and verifies its checksum once: a linear block (dx 0), or an index block whose entries begin at dx
// (__ext4_read_dirblock).
func readBlock(d *inode.Inode, lblk uint32, dx int) (*buffer.Head, error) {
	b, err := extent.GetBlock(d, lblk)
	if err != nil {
		return nil, err
	}
	if !d.FS.Csum || b.Verified() {
		return b, nil
	}
	if dx == 0 {
		err = ondisk.VerifyDirChecksum("", b.Data(), d.Seed())
	} else {
		err = ondisk.VerifyDxChecksum("", b.Data(), dx, d.Seed())
	}
	if err == nil {
		b.SetVerified()
		return b, nil
	}
	at := where(d, lblk)
	if dx == 0 {
		err = ondisk.VerifyDirChecksum(at, b.Data(), d.Seed())
	} else {
		err = ondisk.VerifyDxChecksum(at, b.Data(), dx, d.Seed())
	}
	err = corrupt(d, b.Block(), "__ext4_read_dirblock", err)
	b.Release()
	return nil, err
}

// block is a block as a linear scan sees it.
type block struct {
	b     *buffer.Head
	lblk  uint32
	area  []byte
	index bool // an index block: its area shows "." and ".." in the root, nothing elsewhere
}

// readAny reads a block for a linear scan. Index blocks are passed without a look at their index, so that the entries of a directory
// can still be reached when it is damaged.
func readAny(d *inode.Inode, lblk uint32) (block, error) {
	if isIndexed(d) {
		b, err := extent.GetBlock(d, lblk)
		if err != nil {
			return block{}, err
		}
		if lblk == 0 {
			if _, err := checkDots(d, b); err != nil {
				b.Release()
				return block{}, err
			}
			return block{b: b, area: b.Data(), index: true}, nil
		}
		if ondisk.DxOffset(b.Data()) == ondisk.DxNodeOff {
			return block{b: b, lblk: lblk, index: true}, nil
		}
		b.Release()
	}
	b, err := readBlock(d, lblk, 0)
	if err != nil {
		return block{}, err
	}
	return block{b: b, lblk: lblk, area: leafArea(d, b.Data())}, nil
}

// scan is the area's scan, with errors that name the block and are reported.
func (l block) scan(d *inode.Inode, name []byte, need int) (spot, error) {
	s, err := scan("", l.area, name, need, d.FS.Inodes)
	if err != nil {
		_, err = scan(where(d, l.lblk), l.area, name, need, d.FS.Inodes)
		err = corrupt(d, l.b.Block(), "__ext4_check_dir_entry", err)
	}
	return s, err
}

// checkDots validates the entries "." and ".." at the head of block 0 and returns the latter. In an index root ".." spans the rest of the
// block.
func checkDots(d *inode.Inode, b *buffer.Head) (ondisk.Dirent, error) {
	data := b.Data()
	dot, err := ondisk.CheckDirent("", data, 0, d.FS.Inodes)
	if err == nil && dot.RecLen() == dotLen {
		dd, err := ondisk.CheckDirent("", data, dotLen, d.FS.Inodes)
		if err == nil && isDot(dot.Name()) && isDotDot(dd.Name()) && dot.Ino() == d.Ino && dd.Ino() != 0 {
			return dd, nil
		}
	}
	err = ondisk.Corrupt(where(d, 0), "does not begin with \".\" (inode %d) and \"..\"", d.Ino)
	return nil, corrupt(d, b.Block(), "ext4_empty_dir", err)
}

// empty says whether the block holds nothing but the dots.
func (l block) empty(d *inode.Inode) (bool, error) {
	area, need := l.area, 0
	if l.lblk == 0 {
		if _, err := checkDots(d, l.b); err != nil {
			return false, err
		}
		need = 2 * dotLen
	}
	if l.index {
		return true, nil
	}
	s, err := block{b: l.b, lblk: l.lblk, area: area}.scan(d, nil, 0)
	return s.live <= need, err
}

// update changes a block by fn under the handle: dx is where its index entries begin, 0 for a linear block.
func update(h *journal.Handle, d *inode.Inode, b *buffer.Head, dx int, fn func(data []byte) error) error {
	if err := h.GetWriteAccess(b); err != nil {
		return err
	}
	b.Lock()
	err := fn(b.Data())
	if err == nil {
		seal(d, b.Data(), dx)
	}
	b.Unlock()
	if err != nil {
		return corrupt(d, b.Block(), "ext4_delete_entry", err)
	}
	return h.DirtyMetadata(b)
}

// seal stores the checksum of a block.
func seal(d *inode.Inode, data []byte, dx int) {
	switch {
	case !d.FS.Csum:
	case dx == 0:
		ondisk.UpdateDirChecksum(data, d.Seed())
	default:
		ondisk.UpdateDxChecksum(data, dx, d.Seed())
	}
}

// appendBlock adds a block to d: a linear one filled by fill, or an index block whose entries begin at dx (ext4_append). i_size grows
// and the inode is written. The block is returned referenced. Nothing has changed when it fails with fserr.NoSpace.
func appendBlock(h *journal.Handle, d *inode.Inode, lblk uint32, dx int, fill func(data, area []byte)) (*buffer.Head, error) {
	if uint64(lblk) >= extent.MaxBlocks(d) {
		return nil, fmt.Errorf("%s: %d blocks: %w", d.Name(), lblk, fserr.NoSpace)
	}
	b, err := extent.AppendBlock(h, d, lblk)
	if err != nil {
		return nil, err
	}
	area := leafArea(d, b.Data())
	if dx == 0 && d.FS.Csum {
		ondisk.InitDirTail(b.Data())
	}
	fill(b.Data(), area)
	seal(d, b.Data(), dx)
	b.Unlock()
	err = h.DirtyMetadata(b)
	if err == nil {
		d.SetSize(uint64(lblk+1) << d.FS.BlockBits)
		err = d.MarkDirty(h)
	}
	if err != nil {
		b.Release()
		return nil, err
	}
	return b, nil
}

// putDots writes "." and "..", which takes the rest of area.
func putDots(area []byte, d *inode.Inode, parent uint32) {
	ft := fileType(d.FS, ondisk.FtDir)
	put(area, 0, dotLen, dotName, d.Ino, ft)
	put(area, dotLen, len(area)-dotLen, dotDotName, parent, ft)
}

// initBlock makes the only block of a new directory.
func initBlock(h *journal.Handle, d *inode.Inode, parent uint32) error {
	b, err := appendBlock(h, d, 0, 0, func(_, area []byte) { putDots(area, d, parent) })
	if err != nil {
		return err
	}
	b.Release()
	return nil
}

// find looks a name up in the blocks of d: by the index if there is a sound one, else block by block. Errors: fserr.NotExist.
func find(d *inode.Inode, name []byte) (place, error) {
	if isIndexed(d) {
		p, err := dxFind(d, name)
		if !isBadIndex(err) {
			return p, err
		}
	}
	n, err := blocks(d)
	if err != nil {
		return place{}, err
	}
	for lblk := range n {
		l, err := readAny(d, lblk)
		if err != nil {
			return place{}, err
		}
		if !l.index {
			p, err := l.find(d, name)
			if err != fserr.NotExist {
				return p, err
			}
			continue
		}
		l.b.Release()
	}
	return place{}, fserr.NotExist
}

// find looks for a name in one block and releases it unless it is there.
func (l block) find(d *inode.Inode, name []byte) (place, error) {
	s, err := l.scan(d, name, 0)
	if err == nil && s.off >= 0 {
		return place{b: l.b, area: l.area, off: s.off, prev: s.prev}, nil
	}
	l.b.Release()
	if err == nil {
		err = fserr.NotExist
	}
	return place{}, err
}

// blockAdd makes an entry in a directory of blocks. It does not write the inode unless it grows.
func blockAdd(h *journal.Handle, d *inode.Inode, name []byte, ino uint32, ft uint8) error {
	if isIndexed(d) {
		err := dxAdd(h, d, name, ino, ft)
		if !isBadIndex(err) {
			return err
		}
		if d.FS.Csum {
			// Index blocks have no room for the checksum tail of linear ones: e2fsck has to rebuild the directory.
			return corrupt(d, 0, "ext4_add_entry", err)
		}
		d.ChangeFlags(0, ondisk.FlIndex)
	}
	return linearAdd(h, d, name, ino, ft)
}

// linearAdd takes the first room there is, after a look at every block for the name.
func linearAdd(h *journal.Handle, d *inode.Inode, name []byte, ino uint32, ft uint8) error {
	n, err := blocks(d)
	if err != nil {
		return err
	}
	need := ondisk.DirentLen(len(name))
	var room block
	slot := -1
	defer func() {
		if room.b != nil {
			room.b.Release()
		}
	}()
	for lblk := range n {
		l, err := readAny(d, lblk)
		if err != nil {
			return err
		}
		s, err := l.scan(d, name, need)
		if err == nil && s.off >= 0 {
			err = fserr.Exist
		}
		if err != nil {
			l.b.Release()
			return err
		}
		if s.slot >= 0 && room.b == nil {
			room, slot = l, s.slot
			continue
		}
		l.b.Release()
	}
	if room.b != nil {
		return update(h, d, room.b, 0, func([]byte) error {
			insert(room.area, slot, name, ino, ft)
			return nil
		})
	}
	if n == 1 && canIndex(d) {
		return makeIndex(h, d, name, ino, ft)
	}
	b, err := appendBlock(h, d, n, 0, func(_, area []byte) { put(area, 0, len(area), name, ino, ft) })
	if err != nil {
		return err
	}
	b.Release()
	return nil
}
