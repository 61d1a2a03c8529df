package check

import (
	"fmt"
	"strings"
	"time"

	"inlinefs/ondisk"
)

func bitNames(v uint32, names []string, bits []uint32) string {
	var out []string
	for i, b := range bits {
		if v&b != 0 {
			out = append(out, names[i])
			v &^= b
		}
	}
	if v != 0 {
		out = append(out, fmt.Sprintf("0x%x", v))
	}
	return strings.Join(out, ",")
}

func stateNames(v uint16) string {
	if s := bitNames(uint32(v), []string{"valid", "errors", "orphans"}, []uint32{ondisk.StateValid, ondisk.StateError, ondisk.StateOrphan}); s != "" {
		return s
	}
	return "mounted or not cleanly unmounted"
}

func groupFlags(v uint16) string {
	s := bitNames(uint32(v), []string{"inode_uninit", "block_uninit", "itable_zeroed"},
		[]uint32{ondisk.BGInodeUninit, ondisk.BGBlockUninit, ondisk.BGInodeZeroed})
	if s == "" {
		return ""
	}
	return " [" + s + "]"
}

func hashName(v uint8) string {
	names := []string{"legacy", "half_md4", "tea", "legacy_unsigned", "half_md4_unsigned", "tea_unsigned"}
	if int(v) < len(names) {
		return names[v]
	}
	return fmt.Sprintf("unknown (%d)", v)
}

var flagNames = []string{"secrm", "unrm", "compr", "sync", "immutable", "append", "nodump", "noatime", "encrypt", "index", "journal_data",
	"notail", "dirsync", "topdir", "huge_file", "extents", "verity", "ea_inode", "eofblocks", "dax", "inline_data", "projinherit", "casefold"}

var flagBits = []uint32{0x1, 0x2, 0x4, ondisk.FlSync, ondisk.FlImmutable, ondisk.FlAppend, 0x40, ondisk.FlNoAtime, ondisk.FlEncrypt, ondisk.FlIndex,
	ondisk.FlJournal, 0x8000, ondisk.FlDirSync, ondisk.FlTopDir, ondisk.FlHugeFile, ondisk.FlExtents, ondisk.FlVerity, ondisk.FlEAInode,
	flEOFBlocks, 0x2000000, ondisk.FlInlineData, ondisk.FlProjinherit, ondisk.FlCasefold}

var typeNames = []string{"none", "regular file", "directory", "character device", "block device", "pipe", "socket", "symlink"}

func typeName(ft uint8) string {
	if int(ft) < len(typeNames) {
		return typeNames[ft]
	}
	return fmt.Sprintf("type %d", ft)
}

// dumpInode prints one inode.
func (c *checker) dumpInode(p *printer, ino uint32, raw ondisk.Inode) {
	ft := ondisk.FtOfMode(raw.Mode())
	p.field("inode", "%d", ino)
	p.field("type", "%s", typeName(ft))
	p.field("mode", "%04o", raw.Mode()&0o7777)
	p.field("flags", "0x%x %s", raw.Flags(), bitNames(raw.Flags(), flagNames, flagBits))
	p.field("owner", "%d:%d, project %d", raw.UID(), raw.GID(), raw.ProjectID())
	p.field("links", "%d", raw.Links())
	p.field("size", "%d", raw.Size())
	p.field("sectors", "%d", raw.Sectors(c.sb.ROCompat(ondisk.ROCompatHugeFile), c.geo.bs))
	p.field("generation", "%d", raw.Generation())
	for _, t := range []struct {
		name string
		f    ondisk.TimeField
	}{{"accessed", ondisk.Atime}, {"changed", ondisk.Ctime}, {"modified", ondisk.Mtime}, {"created", ondisk.Crtime}} {
		if v := raw.Time(t.f); !v.IsZero() {
			p.field(t.name, "%d.%09d %s", v.Unix(), v.Nanosecond(), v.UTC().Format(time.RFC3339Nano))
		}
	}
	if raw.Dtime() != 0 {
		p.field("deleted", "%d", raw.Dtime())
	}
	if c.csum {
		verdict := "good"
		if err := raw.VerifyChecksum(c.seed, ino); err != nil {
			verdict = textOf(err)
		}
		sum, _ := raw.StoredChecksum()
		p.field("checksum", "0x%08x %s", sum, verdict)
	}
	p.field("extra size", "%d", raw.ExtraIsize())
	c.dumpXattrs(p, raw)
	switch {
	case ft == ondisk.FtChr || ft == ondisk.FtBlk:
		major, minor := raw.Rdev()
		p.field("device", "%d:%d", major, minor)
	case raw.Has(ondisk.FlInlineData):
		c.dumpInline(p, raw)
	case raw.IsLnk() && c.fastSymlink(raw):
		p.field("target", "%q", raw.Block()[:min(raw.Size(), ondisk.BlockArea)])
	case raw.IsDir() || raw.IsReg() || raw.IsLnk():
		c.dumpMap(p, ino, raw)
	}
	if raw.IsDir() {
		c.dumpDir(p, ino, raw)
	}
}

// dumpXattrs prints the attributes in the inode and those in the block.
func (c *checker) dumpXattrs(p *printer, raw ondisk.Inode) {
	if area, _ := ibodyArea(raw); area != nil && le32(area, 0) == xattrMagic {
		all, err := parseXattrs(area, 4, 4)
		c.dumpXattrList(p, "in the inode", all)
		if err != nil {
			p.field("attributes", "in the inode: %v", err)
		}
	}
	blk := raw.FileACL()
	if blk == 0 {
		return
	}
	b := c.block(blk)
	if b == nil || le32(b, 0) != xattrMagic {
		p.field("attribute block", "%d, unreadable", blk)
		return
	}
	p.field("attribute block", "%d, %d references, hash 0x%08x", blk, le32(b, 4), le32(b, 12))
	all, err := parseXattrs(b, xattrHead, 0)
	c.dumpXattrList(p, "in the block", all)
	if err != nil {
		p.field("attributes", "in the block: %v", err)
	}
}

func (c *checker) dumpXattrList(p *printer, where string, all []xattrEntry) {
	for _, e := range all {
		switch {
		case e.inum != 0:
			p.field("attribute", "%s %s, %d bytes in inode %d", e.fullName(), where, e.size, e.inum)
		case e.index == ondiskXattrSystem && string(e.name) == "data":
			p.field("attribute", "%s %s, %d bytes at %d", e.fullName(), where, e.size, e.off)
		default:
			p.field("attribute", "%s %s, %d bytes at %d: %q", e.fullName(), where, e.size, e.off, e.value)
		}
	}
}

// dumpInline prints the bytes in the inode and how many there could be.
func (c *checker) dumpInline(p *printer, raw ondisk.Inode) {
	v := c.inlineValue(raw)
	p.field("inline bytes", "%d of %d in use, %d possible", raw.Size(), ondisk.BlockArea+len(v), c.capacity(raw))
	all := append(clone(raw.Block()), v...)
	hexDump(p, all)
	if raw.IsLnk() {
		p.field("target", "%q", all[:min(raw.Size(), uint64(len(all)))])
	}
}

// capacity is the largest inline content that fits beside the inode's other attributes.
func (c *checker) capacity(raw ondisk.Inode) int {
	area, _ := ibodyArea(raw)
	if area == nil {
		return 0
	}
	used, has := 4+4, false // the area's head and the end of the entries
	for _, e := range c.ibodyList(raw) {
		used += (xattrEntrySize + len(e.name) + 3) &^ 3
		if e.index == ondiskXattrSystem && string(e.name) == "data" {
			has = true
		} else {
			used += (len(e.value) + 3) &^ 3
		}
	}
	if !has {
		used += xattrEntrySize + 4
	}
	if used > len(area) {
		return 0
	}
	return ondisk.BlockArea + (len(area)-used)&^3
}

// hexDump prints 16 bytes a line with their text.
func hexDump(p *printer, b []byte) {
	for at := 0; at < len(b); at += 16 {
		row := b[at:min(at+16, len(b))]
		text := make([]byte, len(row))
		for i, ch := range row {
			text[i] = '.'
			if ch >= ' ' && ch < 0x7f {
				text[i] = ch
			}
		}
		p.line("  %04x  %-47s  %s", at, fmt.Sprintf("% x", row), text)
	}
}

// dumpRuns is how many runs and tree blocks are listed.
const dumpRuns = 10000

// dumpMap prints the mapping.
func (c *checker) dumpMap(p *printer, ino uint32, raw ondisk.Inode) {
	in, ok := c.quietMap(ino, raw)
	kind := "block map"
	if raw.Has(ondisk.FlExtents) {
		kind = fmt.Sprintf("extent tree of depth %d", ondisk.ExtentNode(raw.Block()).Depth())
	}
	p.field("mapping", "%s, %d data and tree blocks", kind, in.count)
	if !ok {
		p.field("mapping", "broken: not all of it could be followed")
	}
	if n := len(in.meta); n > 0 {
		p.field("tree blocks", "%s", strings.Trim(fmt.Sprint(in.meta[:min(n, dumpRuns)]), "[]"))
	}
	for i, r := range in.runs {
		if i == dumpRuns {
			p.line("  and %d more", len(in.runs)-i)
			break
		}
		uninit := ""
		if r.uninit {
			uninit = " uninit"
		}
		p.line("  %d-%d -> %d-%d%s", r.lblk, r.lblk+r.n-1, r.pblk, r.pblk+r.n-1, uninit)
	}
	if raw.IsLnk() && len(in.runs) > 0 {
		if b := c.block(in.runs[0].pblk); b != nil {
			p.field("target", "%q", b[:min(raw.Size(), uint64(len(b)))])
		}
	}
}

// dumpDir prints the entries.
func (c *checker) dumpDir(p *printer, ino uint32, raw ondisk.Inode) {
	err := c.list(ino, raw, func(e dumpEntry) bool {
		p.line("  %10d  %-16s  %s+%d  %q", e.ino, typeName(e.ft), e.where, e.off, e.name)
		return p.err == nil
	})
	if err != nil {
		p.field("entries", "%v", err)
	}
}
