package check

import (
	"bytes"
	"fmt"

	"inlinefs/ondisk"
)

// dirRec is a directory.
type dirRec struct {
	ino    uint32
	in     *inode   // its map; nil when inline
	areas  [][]byte // inline: the whole of i_block and the value of system.data
	index  bool
	dotdot uint32 // what ".." names, 0 when it is missing
	named  uint32 // the directory with an entry for it, 0 when there is none
	state  uint8  // of checkReach
	seen   map[string]bool
}

// noteDir remembers a directory for checkDirs.
func (c *checker) noteDir(in *inode) {
	c.rep.Directories++
	d := c.byIno[in.ino]
	if d == nil {
		d = &dirRec{}
		c.byIno[in.ino] = d
	}
	d.ino, d.index = in.ino, in.raw.Has(ondisk.FlIndex)
	if d.areas == nil && !in.raw.Has(ondisk.FlInlineData) {
		in.raw = clone(in.raw) // not the whole piece of the table that it lies in
		d.in = in
	}
	if d.index {
		c.inodes[in.ino].flags |= recDx
	}
	c.dirs = append(c.dirs, d)
}

// checkDirs reads every directory.
func (c *checker) checkDirs() {
	for _, d := range c.dirs {
		if c.full() {
			return
		}
		d.seen = map[string]bool{}
		switch {
		case d.areas != nil:
			c.checkInlineDir(d)
		case d.in == nil: // an inline directory without its data, already reported
		case d.index:
			c.checkIndexedDir(d)
		default:
			c.checkLinearDir(d)
		}
		d.seen = nil
	}
}

// checkInlineDir reads the entries in i_block and in system.data.
func (c *checker) checkInlineDir(d *dirRec) {
	b := d.areas[0]
	d.dotdot = le32(b, 0)
	c.countRef(d.ino)
	if d.dotdot == 0 || d.dotdot > c.geo.inodes {
		c.addIno(ClassDirDots, d.ino, "parent %d in i_block, want 1 to %d", d.dotdot, c.geo.inodes)
		d.dotdot = 0
	} else {
		c.countRef(d.dotdot)
	}
	for i, area := range [][]byte{b[4:], d.areas[1]} {
		if len(area) == 0 {
			continue
		}
		c.entries(d, area, func(e ondisk.Dirent) { c.entry(d, e) }, func(off int, text string) {
			c.addIno(ClassInlineDir, d.ino, "inline area %d, byte %d: %s", i+1, off, text)
		})
	}
}

// entries calls visit for each used entry of area, bad for the first malformed one.
func (c *checker) entries(d *dirRec, area []byte, visit func(e ondisk.Dirent), bad func(off int, text string)) {
	for off := 0; off < len(area); {
		e, err := ondisk.CheckDirent("", area, off, c.geo.inodes)
		if err != nil {
			bad(off, textOf(err))
			return
		}
		l := e.RecLen()
		if e.Ino() != 0 {
			switch name := e.Name(); {
			case len(name) == 0:
				bad(off, "entry without a name")
			case bytes.IndexByte(name, 0) >= 0 || bytes.IndexByte(name, '/') >= 0:
				bad(off, fmt.Sprintf("name %q", name))
			default:
				visit(e)
			}
		}
		off += l
	}
}

func (c *checker) countRef(ino uint32) {
	if ino != 0 && ino <= c.geo.inodes {
		c.inodes[ino].refs++
	}
}

// entry judges an entry that is well formed and neither "." nor "..".
func (c *checker) entry(d *dirRec, e ondisk.Dirent) {
	name, ino := string(e.Name()), e.Ino()
	if name == "." || name == ".." {
		c.addIno(ClassDirDots, d.ino, "entry %q in the middle of the directory", name)
		return
	}
	if d.seen[name] {
		c.addIno(ClassDirTwice, d.ino, "entry %q is there twice", name)
	}
	d.seen[name] = true
	c.checkEntryType(d, e)
	if ino < c.sb.FirstIno() {
		c.addIno(ClassDirEntry, d.ino, "entry %q names inode %d, want at least %d", name, ino, c.sb.FirstIno())
		return
	}
	r := &c.inodes[ino]
	if r.flags&recLive == 0 {
		c.addIno(ClassDirEntry, d.ino, "entry %q names inode %d, which is not in use", name, ino)
		return
	}
	if r.flags&(recSpecial|recEA) != 0 {
		c.addIno(ClassDirEntry, d.ino, "entry %q names inode %d, which belongs to the file system", name, ino)
	}
	r.refs++
	if r.ft != ondisk.FtDir {
		return
	}
	sub := c.byIno[ino]
	if sub == nil {
		return
	}
	if sub.named != 0 {
		c.addIno(ClassDirLinked, ino, "directory named by inodes %d and %d", sub.named, d.ino)
		return
	}
	sub.named = d.ino
}

// checkEntryType compares the entry's file type with the inode's mode.
func (c *checker) checkEntryType(d *dirRec, e ondisk.Dirent) {
	want := c.inodes[e.Ino()].ft
	if !c.sb.Incompat(ondisk.IncompatFiletype) {
		want = 0
	} else if c.inodes[e.Ino()].flags&recLive == 0 {
		return
	}
	if e.Type() != want {
		c.addIno(ClassDirType, d.ino, "entry %q has type %d, want %d as inode %d", e.Name(), e.Type(), want, e.Ino())
	}
}

// dirArea is the part of a directory block with entries, after its checksum was judged.
func (c *checker) dirArea(d *dirRec, blk uint64, b []byte) []byte {
	if !c.csum {
		return b
	}
	if err := ondisk.VerifyDirChecksum("", b, d.in.seed); err != nil {
		c.addInoBlock(ClassDirCsum, d.ino, blk, "%s", textOf(err))
	}
	if _, ok := ondisk.DirTail(b); ok {
		return b[:len(b)-ondisk.DirTailSize]
	}
	return b
}

// blockOf reads logical block lblk of a directory.
func (c *checker) blockOf(d *dirRec, lblk uint64) (uint64, []byte) {
	blk, ok := d.in.lookup(lblk)
	if !ok {
		return 0, nil
	}
	return blk, c.block(blk)
}

// checkLinearDir reads a directory without an index.
func (c *checker) checkLinearDir(d *dirRec) {
	for _, r := range d.in.runs {
		for i := range r.n {
			if c.full() {
				return
			}
			blk := r.pblk + i
			b := c.block(blk)
			if b == nil {
				continue
			}
			area := c.dirArea(d, blk, b)
			if r.lblk+i == 0 {
				area = c.dots(d, blk, area)
			}
			c.leaf(d, blk, area, nil)
		}
	}
	if d.dotdot == 0 && len(d.in.runs) == 0 {
		c.addIno(ClassDirDots, d.ino, "directory without blocks")
	}
}

// leaf reads the entries of a block; also is called for each as well.
func (c *checker) leaf(d *dirRec, blk uint64, area []byte, also func(e ondisk.Dirent)) {
	c.entries(d, area, func(e ondisk.Dirent) {
		c.entry(d, e)
		if also != nil {
			also(e)
		}
	}, func(off int, text string) {
		c.addInoBlock(ClassDirEntry, d.ino, blk, "byte %d: %s", off, text)
	})
}

// dots judges "." and ".." at the start of the first block and returns what follows them. Without them nothing is left out.
func (c *checker) dots(d *dirRec, blk uint64, area []byte) []byte {
	off := 0
	for i, name := range []string{".", ".."} {
		e, err := ondisk.CheckDirent("", area, off, c.geo.inodes)
		if err != nil {
			c.addInoBlock(ClassDirDots, d.ino, blk, "entry %d, want %q: %s", i+1, name, textOf(err))
			return area[off:]
		}
		if e.Ino() == 0 || string(e.Name()) != name {
			c.addInoBlock(ClassDirDots, d.ino, blk, "entry %d names inode %d as %q, want %q", i+1, e.Ino(), e.Name(), name)
			return area[off:]
		}
		if i == 0 && e.Ino() != d.ino {
			c.addInoBlock(ClassDirDots, d.ino, blk, "\".\" names inode %d", e.Ino())
		}
		if i == 0 && e.RecLen() != ondisk.DirentLen(1) {
			c.addInoBlock(ClassDirDots, d.ino, blk, "\".\" is %d bytes long, want %d", e.RecLen(), ondisk.DirentLen(1))
		}
		if i == 1 {
			d.dotdot = e.Ino()
		}
		c.checkEntryType(d, e)
		c.countRef(e.Ino())
		off += e.RecLen()
	}
	return area[off:]
}
