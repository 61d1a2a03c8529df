package check

import "inlinefs/ondisk"

// freeCount are the counts that the bitmaps give, for checkTotals.
type freeCount struct{ blocks, inodes uint64 }

// checkBlockBitmaps compares each group's block bitmap with the blocks claimed.
func (c *checker) checkBlockBitmaps() {
	for n := range c.geo.groups {
		if c.full() {
			return
		}
		d, start, length := c.desc(n), c.geo.start(n), c.geo.length(n)
		c.rep.Blocks += c.used.count(start, length)
		if c.gcsum && d.Flags()&ondisk.BGBlockUninit != 0 {
			c.checkUninitBlocks(n)
			continue
		}
		b := c.bitmap(d.BlockBitmap())
		if b == nil {
			continue
		}
		if c.csum {
			if got, want := ondisk.CRC32C(c.seed, b[:c.geo.bpg/8])&d.BitmapCsumMask(), d.BlockBitmapCsum(); got != want {
				c.addGroup(ClassBlockBitmapCsum, n, "block bitmap checksum 0x%08x, want 0x%08x", want, got)
			}
		}
		free := uint64(0)
		c.diff(length, func(i uint64) bool { return diskBit(b, i) }, func(i uint64) bool { return c.used.has(start + i) },
			func(from, to uint64, marked bool) {
				class, text := ClassBlockFree, "in use but marked free"
				if marked {
					class, text = ClassBlockLeak, "marked in use but belong to nothing"
				}
				c.add(Finding{Class: class, Group: int64(n), Block: start + from, Text: rangeText("group", n, "blocks", start+from, start+to, text)})
			})
		for i := range length {
			if !diskBit(b, i) {
				free++
			}
		}
		for i := length; i < c.geo.bpg; i++ {
			if !diskBit(b, i) {
				c.addGroup(ClassBitmapPadding, n, "block bitmap: bit %d beyond the end of the file system is clear", i)
				break
			}
		}
		c.checkFreeBlocks(n, free)
	}
}

// bitmap reads a bitmap block; nil, without a second finding, when its location is bad.
func (c *checker) bitmap(blk uint64) []byte {
	if blk <= c.geo.first || blk >= c.geo.blocks {
		return nil
	}
	return c.block(blk)
}

func (c *checker) checkFreeBlocks(n uint32, free uint64) {
	c.free.blocks += free
	if got := uint64(c.desc(n).FreeBlocks()); got != free {
		c.addGroup(ClassFreeBlocks, n, "free blocks count %d, want %d", got, free)
	}
}

// checkUninitBlocks judges a group whose bitmap is not written: only metadata of the file system may be there.
func (c *checker) checkUninitBlocks(n uint32) {
	start, length := c.geo.start(n), c.geo.length(n)
	first, used := uint64(0), uint64(0)
	for b := start; b < start+length; b++ {
		if c.used.has(b) && !c.fixed.has(b) {
			if used == 0 {
				first = b
			}
			used++
		}
	}
	if used != 0 {
		c.add(Finding{Class: ClassGroupUninit, Group: int64(n), Block: first,
			Text: rangeText("group", n, "blocks", first, first, "and others are in use but the block bitmap is marked as not initialized")})
	}
	c.checkFreeBlocks(n, length-c.fixed.count(start, length))
}

// diff calls report for each run of numbers below n on which the two bitmaps differ in the same way.
func (c *checker) diff(n uint64, onDisk, wanted func(i uint64) bool, report func(from, to uint64, marked bool)) {
	for i := uint64(0); i < n; {
		marked, want := onDisk(i), wanted(i)
		if marked == want {
			i++
			continue
		}
		from := i
		for i < n && onDisk(i) == marked && wanted(i) == want {
			i++
		}
		report(from, i-1, marked)
		if c.full() {
			return
		}
	}
}

// checkInodeBitmaps compares each group's inode bitmap with the inodes in use, and the group's inode counts.
func (c *checker) checkInodeBitmaps() {
	for n := range c.geo.groups {
		if c.full() {
			return
		}
		d, base := c.desc(n), uint64(n)*c.geo.ipg+1
		if c.gcsum && d.Flags()&ondisk.BGInodeUninit != 0 {
			c.checkInodeCounts(n, c.geo.ipg, nil)
			continue
		}
		b := c.bitmap(d.InodeBitmap())
		if b == nil {
			continue
		}
		if c.csum {
			if got, want := ondisk.CRC32C(c.seed, b[:(c.geo.ipg+7)/8])&d.BitmapCsumMask(), d.InodeBitmapCsum(); got != want {
				c.addGroup(ClassInodeBitmapCsum, n, "inode bitmap checksum 0x%08x, want 0x%08x", want, got)
			}
		}
		live := func(i uint64) bool {
			return base+i < uint64(c.sb.FirstIno()) || c.inodes[base+i].flags&recLive != 0
		}
		c.diff(c.geo.ipg, func(i uint64) bool { return diskBit(b, i) }, live, func(from, to uint64, marked bool) {
			class, text := ClassInodeFree, "in use but marked free"
			if marked {
				class, text = ClassInodeLeak, "marked in use but not in use"
			}
			c.add(Finding{Class: class, Group: int64(n), Ino: uint32(base + from),
				Text: rangeText("group", n, "inodes", base+from, base+to, text)})
		})
		free := uint64(0)
		for i := range c.geo.ipg {
			if !diskBit(b, i) {
				free++
			}
		}
		for i := c.geo.ipg; i < uint64(c.geo.bs)*8; i++ {
			if !diskBit(b, i) {
				c.addGroup(ClassBitmapPadding, n, "inode bitmap: bit %d beyond the group's %d inodes is clear", i, c.geo.ipg)
				break
			}
		}
		c.checkInodeCounts(n, free, b)
	}
}

// checkInodeCounts compares group n's counts; bitmap is nil when it is not initialized.
func (c *checker) checkInodeCounts(n uint32, free uint64, bitmap []byte) {
	d, base := c.desc(n), uint64(n)*c.geo.ipg+1
	c.free.inodes += free
	if got := uint64(d.FreeInodes()); got != free {
		c.addGroup(ClassFreeInodes, n, "free inodes count %d, want %d", got, free)
	}
	dirs := uint32(0)
	for i := range c.geo.ipg {
		if r := c.inodes[base+i]; r.flags&recLive != 0 && r.ft == ondisk.FtDir {
			dirs++
		}
	}
	if d.UsedDirs() != dirs {
		c.addGroup(ClassUsedDirs, n, "%d directories, want %d", d.UsedDirs(), dirs)
	}
	if bitmap == nil {
		return
	}
	for i := c.scanned(n); i < c.geo.ipg; i++ {
		if diskBit(bitmap, i) {
			c.addGroup(ClassItableUnused, n, "the last %d inodes were never used, but inode %d is marked in use", d.ItableUnused(), base+i)
			return
		}
	}
}

// checkTotals compares the superblock's counts with the sums over the groups.
func (c *checker) checkTotals() {
	if got := c.sb.FreeBlocks(); got != c.free.blocks {
		c.addFS(ClassFreeBlocks, "superblock: free blocks count %d, want %d", got, c.free.blocks)
	}
	if got := uint64(c.sb.FreeInodes()); got != c.free.inodes {
		c.addFS(ClassFreeInodes, "superblock: free inodes count %d, want %d", got, c.free.inodes)
	}
}
