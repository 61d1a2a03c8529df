package check

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"inlinefs/blockdev"
	"inlinefs/internal/fserr"
	"inlinefs/ondisk"
)

// Dump describes what is in the image on dev: the superblock and the groups when target is empty, else one inode, named by a path from
// the root or as "<ino>". It follows symlinks nowhere. The error wraps fserr.NotExist or fserr.NotDir for a path that leads nowhere,
// fserr.Invalid for a target that is neither, and is an ondisk.CorruptError when the image is too damaged to find the inode.
func Dump(w io.Writer, dev blockdev.Device, target string) error {
	c := &checker{dev: dev, opts: Options{MaxFindings: DefaultMaxFindings}}
	if err := c.readSuper(); err != nil {
		return err
	}
	if !c.checkSuper() || !c.readGroups() {
		last := "unusable"
		if k := len(c.rep.Findings); k > 0 {
			last = c.rep.Findings[k-1].Text
		}
		return ondisk.Corrupt("image", "%s", last)
	}
	c.quiet, c.keep = true, true
	out := &printer{w: w}
	if target == "" {
		c.dumpSuper(out)
		return out.err
	}
	ino, err := c.find(target)
	if err != nil {
		return err
	}
	raw := c.readInode(ino)
	if raw == nil {
		return ondisk.Corrupt("inode "+utoa(ino), "its part of the inode table cannot be read")
	}
	c.dumpInode(out, ino, raw)
	return out.err
}

// printer keeps the first error of writing.
type printer struct {
	w   io.Writer
	err error
}

func (p *printer) line(format string, a ...any) {
	if p.err == nil {
		_, p.err = fmt.Fprintf(p.w, format+"\n", a...)
	}
}

// field prints a name and a value in two columns.
func (p *printer) field(name, format string, a ...any) {
	p.line("%-18s %s", name+":", fmt.Sprintf(format, a...))
}

// find is the inode that target names.
func (c *checker) find(target string) (uint32, error) {
	if t, ok := strings.CutPrefix(target, "<"); ok {
		t, ok = strings.CutSuffix(t, ">")
		n, err := strconv.ParseUint(t, 10, 32)
		if !ok || err != nil || n == 0 || n > uint64(c.geo.inodes) {
			return 0, fmt.Errorf("%s: want <1> to <%d> or a path: %w", target, c.geo.inodes, fserr.Invalid)
		}
		return uint32(n), nil
	}
	ino, done := uint32(ondisk.RootIno), ""
	for part := range strings.SplitSeq(target, "/") {
		if part == "" {
			continue
		}
		raw := c.readInode(ino)
		if raw == nil || !raw.IsDir() {
			return 0, fmt.Errorf("%s: %q: %w", target, "/"+done, fserr.NotDir)
		}
		next := uint32(0)
		err := c.list(ino, raw, func(e dumpEntry) bool {
			if e.name == part {
				next = e.ino
			}
			return next == 0
		})
		switch {
		case next != 0:
		case err != nil:
			return 0, fmt.Errorf("%s: %w", target, err)
		default:
			return 0, fmt.Errorf("%s: %q in %q: %w", target, part, "/"+done, fserr.NotExist)
		}
		ino, done = next, strings.TrimPrefix(done+"/"+part, "/")
	}
	if ino > c.geo.inodes {
		return 0, ondisk.Corrupt(target, "inode %d, want at most %d", ino, c.geo.inodes)
	}
	return ino, nil
}

// dumpEntry is one directory entry.
type dumpEntry struct {
	ino   uint32
	ft    uint8
	name  string
	where string // the block or inline area
	off   int    // bytes from the start of it
}

// list calls visit for the entries of a directory, in the order on disk, until it returns false. Broken blocks are passed over; the
// first of them is the error.
func (c *checker) list(ino uint32, raw ondisk.Inode, visit func(e dumpEntry) bool) error {
	var errs []error
	area := func(b []byte, base int, where string) bool {
		for off := 0; off < len(b); {
			e, err := ondisk.CheckDirent("inode "+utoa(ino)+", "+where, b, off, c.geo.inodes)
			if err != nil {
				errs = append(errs, err)
				return true
			}
			if e.Ino() != 0 && !visit(dumpEntry{ino: e.Ino(), ft: e.Type(), name: string(e.Name()), where: where, off: base + off}) {
				return false
			}
			off += e.RecLen()
		}
		return true
	}
	if raw.Has(ondisk.FlInlineData) {
		b := raw.Block()
		if visit(dumpEntry{ino: ino, ft: ondisk.FtDir, name: ".", where: "implied"}) &&
			visit(dumpEntry{ino: le32(b, 0), ft: ondisk.FtDir, name: "..", where: "i_block"}) && area(b[4:], 4, "i_block") {
			if v := c.inlineValue(raw); len(v) > 0 {
				area(v, 0, "system.data")
			}
		}
		return errors.Join(errs...)
	}
	in, ok := c.quietMap(ino, raw)
	if !ok {
		errs = append(errs, ondisk.Corrupt("inode "+utoa(ino), "its blocks cannot all be found"))
	}
	for _, r := range in.runs {
		for i := range r.n {
			b := c.block(r.pblk + i)
			if b == nil {
				continue
			}
			if t, has := ondisk.DirTail(b); has && c.csum {
				b = b[:t]
			}
			if !area(b, 0, fmt.Sprintf("block %d", r.pblk+i)) || len(errs) > 20 {
				return errors.Join(errs...)
			}
		}
	}
	return errors.Join(errs...)
}

// inlineValue is the value of system.data, nil when there is none.
func (c *checker) inlineValue(raw ondisk.Inode) []byte {
	if e := findXattr(c.ibodyList(raw), ondiskXattrSystem, "data"); e != nil && e.inum == 0 {
		return e.value
	}
	return nil
}

func (c *checker) ibodyList(raw ondisk.Inode) []xattrEntry {
	area, _ := ibodyArea(raw)
	if area == nil || le32(area, 0) != xattrMagic {
		return nil
	}
	all, err := parseXattrs(area, 4, 4)
	if err != nil {
		return nil
	}
	return all
}

var errorsNames = map[uint16]string{ondisk.ErrorsContinue: "continue", ondisk.ErrorsRO: "remount read-only", ondisk.ErrorsPanic: "panic"}

// dumpSuper prints the superblock and the groups.
func (c *checker) dumpSuper(p *printer) {
	s, g := c.sb, c.geo
	u := s.UUID()
	p.field("volume name", "%q", s.VolumeName())
	p.field("uuid", "%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:])
	p.field("compat", "%s", ondisk.CompatNames(s.FeatureCompat()))
	p.field("incompat", "%s", ondisk.IncompatNames(s.FeatureIncompat()))
	p.field("ro_compat", "%s", ondisk.ROCompatNames(s.FeatureROCompat()))
	p.field("state", "%s", stateNames(s.State()))
	p.field("on error", "%s", errorsNames[s.Errors()])
	p.field("errors recorded", "%d", s.ErrorCount())
	p.field("blocks", "%d of %d bytes, %d free, %d reserved, first %d", g.blocks, g.bs, s.FreeBlocks(), s.ReservedBlocks(), g.first)
	p.field("inodes", "%d of %d bytes, %d free, first %d", g.inodes, g.isize, s.FreeInodes(), s.FirstIno())
	p.field("extra size", "%d wanted, %d at least", s.WantExtraIsize(), s.MinExtraIsize())
	p.field("inline capacity", "%s", c.freshCapacity())
	p.field("groups", "%d of %d blocks and %d inodes, descriptors of %d bytes in %d blocks, %d reserved", g.groups, g.bpg, g.ipg, g.descSize,
		g.descBlks, s.ReservedGdtBlocks())
	if s.Incompat(ondisk.IncompatFlexBG) {
		p.field("groups per flex", "%d", uint64(1)<<min(s.LogGroupsPerFlex(), 63))
	}
	p.field("directory hash", "%s, seed %08x", hashName(s.HashVersion(s.DefHashVersion())), s.HashSeed())
	if s.LastOrphan() != 0 {
		p.field("orphans", "from inode %d on", s.LastOrphan())
	}
	c.dumpJournal(p)
	for n := range g.groups {
		d := c.desc(n)
		sup := ""
		if c.hasSuper(n) {
			sup = ", superblock"
		}
		start := g.start(n)
		p.line("group %d: blocks %d-%d%s; block bitmap %d, inode bitmap %d, inode table %d-%d; free %d blocks %d inodes, %d directories, %d never used%s",
			n, start, start+g.length(n)-1, sup, d.BlockBitmap(), d.InodeBitmap(), d.InodeTable(), d.InodeTable()+g.itableBlks-1, d.FreeBlocks(),
			d.FreeInodes(), d.UsedDirs(), d.ItableUnused(), groupFlags(d.Flags()))
	}
}

// freshCapacity is how many bytes a new file without other attributes holds inline.
func (c *checker) freshCapacity() string {
	if !c.sb.HasInlineData() {
		return "none: no inline_data"
	}
	room := (c.geo.isize - ondisk.GoodOldInode - int(c.sb.WantExtraIsize()) - 4 - xattrEntrySize - 4 - 4) &^ 3
	if c.sb.WantExtraIsize() == 0 || room <= 0 {
		return "none: no room in the inode"
	}
	return fmt.Sprintf("%d bytes: %d in i_block, %d in system.data", ondisk.BlockArea+room, ondisk.BlockArea, room)
}

// dumpJournal prints where the journal is and whether it is empty.
func (c *checker) dumpJournal(p *printer) {
	ino := c.sb.JournalInum()
	switch {
	case !c.sb.Compat(ondisk.CompatHasJournal):
		p.field("journal", "none")
		return
	case ino == 0:
		p.field("journal", "on device 0x%x", c.sb.JournalDev())
		return
	case ino > c.geo.inodes:
		p.field("journal", "inode %d, beyond the last inode", ino)
		return
	}
	state := "clean"
	if c.sb.Incompat(ondisk.IncompatRecover) {
		state = "needs recovery"
	}
	raw := c.readInode(ino)
	if raw == nil {
		p.field("journal", "inode %d, unreadable", ino)
		return
	}
	in, _ := c.quietMap(ino, raw)
	blk, ok := in.lookup(0)
	b := []byte(nil)
	if ok {
		b = c.block(blk)
	}
	if b == nil || be32(b, 0) != jbd2Magic {
		p.field("journal", "inode %d, %s, without a superblock", ino, state)
		return
	}
	p.field("journal", "inode %d, %s, %d blocks, sequence %d, start %d, error %d, checksum features 0x%x", ino, state, be32(b, 16), be32(b, 24),
		be32(b, 28), int32(be32(b, 32)), be32(b, 40))
}
