package dir

import (
	"errors"
	"slices"

	"inlinefs/inode"
	"inlinefs/internal/fserr"
	"inlinefs/journal"
	"inlinefs/ondisk"
)

// An inline directory keeps its parent in the first four bytes of i_block and entries in two areas that know nothing of each other:
// the rest of i_block, and the value of the attribute system.data.
const (
	parentLen  = 4
	inlineData = "data"
)

// areas are the two areas, views of the raw inode; the second may have no bytes.
type areas [2][]byte

// inlineAreas finds the areas; the caller holds Mu.
func inlineAreas(d *inode.Inode) (a areas, err error) {
	off, n, found, err := ondisk.IbodyFind(d.Raw, ondisk.XattrSystem, inlineData)
	if err != nil {
		return a, err
	}
	if !found {
		return a, ondisk.Corrupt(d.Name(), "inline directory without the attribute system.data")
	}
	return areas{d.Raw.Block()[parentLen:], d.Raw[off : off+n]}, nil
}

// scan looks for a name in both areas. which is the area of the name, or else of the first room;
// live is for both.
func (a areas) scan(d *inode.Inode, name []byte, need int) (s spot, which int, err error) {
	slot, slotIn, live := -1, 0, 0
	for i, area := range a {
		if s, err = scan("", area, name, need, d.FS.Inodes); err != nil {
			_, err = scan(d.Name()+" (inline)", area, name, need, d.FS.Inodes)
			return s, i, err
		}
		if s.off >= 0 {
			return s, i, nil
		}
		if s.slot >= 0 && slot < 0 {
			slot, slotIn = s.slot, i
		}
		live += s.live
	}
	s.slot, s.live = slot, live
	return s, slotIn, nil
}

// withAreas calls fn with the areas under XattrSem (exclusive to change them) and Mu, and reports corruption.
func withAreas(d *inode.Inode, exclusive bool, fn func(a areas) error) error {
	if exclusive {
		d.XattrSem.Lock()
		defer d.XattrSem.Unlock()
	} else {
		d.XattrSem.RLock()
		defer d.XattrSem.RUnlock()
	}
	d.Mu.Lock()
	a, err := inlineAreas(d)
	if err == nil {
		err = fn(a)
	}
	d.Mu.Unlock()
	return reportInline(d, err)
}

// reportInline reports corruption of an inline directory; other errors pass.
func reportInline(d *inode.Inode, err error) error {
	if err == nil {
		return nil
	}
	var bad *ondisk.CorruptError
	if errors.As(err, &bad) {
		return corrupt(d, 0, "ext4_find_inline_entry", err)
	}
	return err
}

// inlineLookup is Lookup in the inode (ext4_find_inline_entry).
func inlineLookup(d *inode.Inode, name []byte) (ino uint32, ft uint8, err error) {
	d.XattrSem.RLock()
	defer d.XattrSem.RUnlock()
	d.Mu.Lock()
	a, err := inlineAreas(d)
	if err == nil {
		var s spot
		var in int
		if s, in, err = a.scan(d, name, 0); err == nil {
			if s.off < 0 {
				d.Mu.Unlock()
				return 0, 0, fserr.NotExist
			}
			e := ondisk.Dirent(a[in][s.off:])
			ino, ft = e.Ino(), typeOf(d.FS, e)
		}
	}
	d.Mu.Unlock()
	return ino, ft, reportInline(d, err)
}

// inlineChange applies fn to an entry and writes the inode (ext4_delete_inline_entry).
func inlineChange(h *journal.Handle, d *inode.Inode, name []byte, fn func(area []byte, off, prev int) error) error {
	err := withAreas(d, true, func(a areas) error {
		s, in, err := a.scan(d, name, 0)
		if err != nil {
			return err
		}
		if s.off < 0 {
			return fserr.NotExist
		}
		return fn(a[in], s.off, s.prev)
	})
	if err != nil {
		return err
	}
	return d.MarkDirty(h)
}

// inlineParent is the parent that the inode names.
func inlineParent(d *inode.Inode) (parent uint32, err error) {
	d.XattrSem.RLock()
	defer d.XattrSem.RUnlock()
	d.Mu.Lock()
	parent = d.Raw.BlockPtr(0)
	d.Mu.Unlock()
	if parent == 0 || parent > d.FS.Inodes {
		err = ondisk.Corrupt(d.Name(), "parent inode %d of an inline directory, want from 1 to %d", parent, d.FS.Inodes)
		return 0, corrupt(d, 0, "ext4_get_first_inline_block", err)
	}
	return parent, nil
}

// inlineSetParent changes it and writes the inode.
func inlineSetParent(h *journal.Handle, d *inode.Inode, parent uint32) error {
	d.XattrSem.Lock()
	d.Mu.Lock()
	d.Raw.SetBlockPtr(0, parent)
	d.Mu.Unlock()
	d.XattrSem.Unlock()
	return d.MarkDirty(h)
}

// inlineEmpty says whether no entry is in use (empty_inline_dir).
func inlineEmpty(d *inode.Inode) (empty bool, err error) {
	if _, err := inlineParent(d); err != nil {
		return false, err
	}
	err = withAreas(d, false, func(a areas) error {
		s, _, err := a.scan(d, nil, 0)
		empty = s.live == 0
		return err
	})
	return empty && err == nil, err
}

// inlineInit makes a new directory inside the inode (ext4_try_create_inline_dir). False: it does not fit or is not to be.
func inlineInit(h *journal.Handle, d *inode.Inode, parent uint32) (bool, error) {
	if !d.FS.InlineData {
		return false, nil
	}
	d.XattrSem.Lock()
	d.Mu.Lock()
	if d.Raw.ExtraIsize() == 0 || ondisk.IbodyMax(d.Raw) < 0 ||
		ondisk.IbodySet(d.Raw, ondisk.XattrSystem, inlineData, nil) != nil {
		d.Mu.Unlock()
		d.XattrSem.Unlock()
		return false, nil
	}
	clear(d.Raw.Block())
	d.Raw.SetFlags(d.Raw.Flags()&^ondisk.FlExtents | ondisk.FlInlineData)
	d.Raw.SetBlockPtr(0, parent)
	initEmpty(d.Raw.Block()[parentLen:])
	d.Raw.SetSize(ondisk.BlockArea)
	d.Mu.Unlock()
	d.Gen.Add(1)
	d.XattrSem.Unlock()
	return true, d.MarkDirty(h)
}

// inlineAdd makes an entry in the inode and writes it (ext4_try_add_inline_entry). When there is no room the directory moves to a block
// and the entry is still to be made: false.
func inlineAdd(h *journal.Handle, d *inode.Inode, name []byte, ino uint32, ft uint8) (bool, error) {
	d.XattrSem.Lock()
	defer d.XattrSem.Unlock()
	d.Mu.Lock()
	done, err := inlinePut(d, name, ino, ft)
	d.Mu.Unlock()
	if err != nil {
		return false, reportInline(d, err)
	}
	if done {
		return true, d.MarkDirty(h)
	}
	return false, convert(h, d)
}

// inlinePut finds or makes room; the caller holds XattrSem exclusive and Mu. The second area is made once, from all the room that the
// inode has left.
func inlinePut(d *inode.Inode, name []byte, ino uint32, ft uint8) (bool, error) {
	a, err := inlineAreas(d)
	if err != nil {
		return false, err
	}
	need := ondisk.DirentLen(len(name))
	s, in, err := a.scan(d, name, need)
	switch {
	case err != nil:
		return false, err
	case s.off >= 0:
		return false, fserr.Exist
	case s.slot >= 0:
		insert(a[in], s.slot, name, ino, ft)
		return true, nil
	}
	n := ondisk.IbodyMax(d.Raw) &^ 3
	if len(a[1]) > 0 || n < need || n <= ondisk.DirentLen(1) {
		return false, nil
	}
	area := make([]byte, n)
	put(area, 0, n, name, ino, ft)
	switch err := ondisk.IbodySet(d.Raw, ondisk.XattrSystem, inlineData, area); {
	case errors.Is(err, ondisk.ErrIbodyNoSpace):
		return false, nil
	case err != nil:
		return false, err
	}
	d.Raw.SetSize(uint64(ondisk.BlockArea + n))
	return true, nil
}

// convert moves an inline directory to a block (ext4_convert_inline_data_nolock for directories). Entries keep the places that their
// cookies promise. The caller holds XattrSem exclusive. When no block can be had the inode is as it was.
func convert(h *journal.Handle, d *inode.Inode) error {
	d.Mu.Lock()
	saved := slices.Clone(d.Raw)
	content, err := blockContent(d)
	if err == nil {
		err = ondisk.IbodyRemove(d.Raw, ondisk.XattrSystem, inlineData)
	}
	if err != nil {
		copy(d.Raw, saved)
		d.Mu.Unlock()
		return reportInline(d, err)
	}
	flags := d.Raw.Flags() &^ ondisk.FlInlineData
	clear(d.Raw.Block())
	if d.FS.SB.Incompat(ondisk.IncompatExtents) {
		flags |= ondisk.FlExtents
		ondisk.ExtentNode(d.Raw.Block()).Init(0)
	}
	d.Raw.SetFlags(flags)
	d.Raw.SetSize(0)
	d.Ext = ondisk.Extent{}
	d.Mu.Unlock()
	b, err := appendBlock(h, d, 0, 0, func(_, area []byte) { copy(area, content) })
	if err != nil {
		d.Mu.Lock()
		copy(d.Raw, saved)
		d.Ext = ondisk.Extent{}
		d.Mu.Unlock()
		return errors.Join(err, d.MarkDirty(h))
	}
	b.Release()
	d.MayInline.Store(false)
	d.Gen.Add(1)
	return nil
}

// blockContent is the area of the block that an inline directory becomes: "." and "..", then both areas, whose last entry in turn is
// stretched to what follows. The caller holds Mu.
func blockContent(d *inode.Inode) ([]byte, error) {
	a, err := inlineAreas(d)
	if err != nil {
		return nil, err
	}
	if _, _, err := a.scan(d, nil, 0); err != nil {
		return nil, err
	}
	out := leafArea(d, make([]byte, d.FS.BlockSize))
	used := 2*dotLen + len(a[0]) + len(a[1])
	parent := d.Raw.BlockPtr(0)
	switch {
	case parent == 0 || parent > d.FS.Inodes:
		return nil, ondisk.Corrupt(d.Name(), "parent inode %d of an inline directory, want from 1 to %d", parent, d.FS.Inodes)
	case used > len(out):
		return nil, ondisk.Corrupt(d.Name(), "inline directory of %d bytes does not fit a block of %d", used, len(out))
	}
	putDots(out[:2*dotLen], d, parent)
	at, last := 2*dotLen, dotLen
	for _, area := range a {
		copy(out[at:], area)
		for off := 0; off < len(area); {
			last = at + off
			off += ondisk.Dirent(area[off:]).RecLen()
		}
		at += len(area)
	}
	ondisk.Dirent(out[last:]).SetRecLen(len(out) - last)
	return out, nil
}
