package check

import "inlinefs/ondisk"

// checkInline judges an inode whose content lies in i_block and in system.data.
func (c *checker) checkInline(in *inode, xattrs []xattrEntry) {
	raw := in.raw
	if !c.sb.HasInlineData() {
		c.addIno(ClassInlineFeature, in.ino, "inline flag in a file system without inline_data")
	}
	if raw.Has(ondisk.FlExtents) {
		c.addIno(ClassInlineExtents, in.ino, "inline and extents flags are both set (flags 0x%x)", raw.Flags())
	}
	e := findXattr(xattrs, ondiskXattrSystem, "data")
	if e == nil {
		c.addIno(ClassInlineNoData, in.ino, "inline flag without a system.data attribute in the inode")
		return
	}
	if e.inum != 0 {
		c.addIno(ClassInlineNoData, in.ino, "system.data is kept in inode %d, want it in this inode", e.inum)
		return
	}
	size, room := raw.Size(), uint64(ondisk.BlockArea+len(e.value))
	if size > room {
		c.addIno(ClassInlineCapacity, in.ino, "i_size %d, want at most %d: %d bytes in i_block and %d in system.data", size, room,
			ondisk.BlockArea, len(e.value))
		return
	}
	switch {
	case raw.IsDir():
		if size != room {
			c.addIno(ClassInlineDir, in.ino, "i_size %d of an inline directory, want %d", size, room)
		}
		c.byIno[in.ino] = &dirRec{areas: [][]byte{clone(raw.Block()), clone(e.value)}}
	case raw.IsReg() || raw.IsLnk():
		all := append(clone(raw.Block()), e.value...)
		for i, b := range all[size:] {
			if b != 0 {
				c.addIno(ClassInlineTail, in.ino, "byte %d is 0x%02x, want 0 from i_size %d to %d", size+uint64(i), b, size, room)
				break
			}
		}
		if raw.IsLnk() && (size == 0 || uint64(indexZero(all)) < size) {
			c.addIno(ClassSymlink, in.ino, "target of %d bytes, want i_size %d", indexZero(all), size)
		}
	}
}

func clone(b []byte) []byte { return append([]byte(nil), b...) }
