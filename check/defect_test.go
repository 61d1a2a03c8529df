package check_test

import (
	"encoding/binary"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"inlinefs/check"
	"inlinefs/internal/testimage"
	"inlinefs/ondisk"
)

// disk is an image in memory whose metadata can be edited with the checksums kept right.
type disk struct {
	t    *testing.T
	b    []byte
	sb   ondisk.Super
	seed uint32
	inos map[string]uint32 // names in the root directory
}

// baseImage makes the image that the defects are planted in: every kind of map, inline data, attribute blocks, an indexed directory.
func baseImage(t *testing.T) (string, map[string]uint32) {
	t.Helper()
	img := testimage.Make(t, testimage.Options{BlockSize: 1024, InodeSize: 256, Inodes: 1024,
		Features: "inline_data,metadata_csum,64bit,^has_journal", Populate: populate(t, 200)})
	big := t.TempDir() + "/value"
	if err := os.WriteFile(big, []byte(strings.Repeat("v", 300)), 0o600); err != nil {
		t.Fatal(err)
	}
	testimage.Debugfs(t, img, true, "ea_set -f "+big+" f5000 user.big", "ea_set f70000 user.a b",
		"mkdir sub", "mknod pipe p")
	reindex(t, img)
	testimage.Fsck(t, img)
	inos := map[string]uint32{}
	for line := range strings.Lines(testimage.Debugfs(t, img, false, "ls -p /")) {
		if f := strings.Split(line, "/"); len(f) > 6 {
			n, err := strconv.ParseUint(f[1], 10, 32)
			if err != nil {
				t.Fatal(err)
			}
			inos[f[5]] = uint32(n)
		}
	}
	return img, inos
}

// reindex lets e2fsck build indexes for the directories that are large enough.
func reindex(t *testing.T, img string) {
	t.Helper()
	bin, err := exec.LookPath("e2fsck")
	if err != nil {
		bin = "/sbin/e2fsck"
	}
	if out, err := exec.Command(bin, "-fyD", img).CombinedOutput(); err != nil {
		// 1 says that directories were optimized.
		if exit, ok := err.(*exec.ExitError); !ok || exit.ExitCode() != 1 {
			t.Skipf("needs e2fsck -D: %v\n%s", err, out)
		}
	}
}

func newDisk(t *testing.T, b []byte, inos map[string]uint32) *disk {
	d := &disk{t: t, b: append([]byte(nil), b...), inos: inos}
	d.sb = ondisk.Super(d.b[ondisk.SuperOffset : ondisk.SuperOffset+ondisk.SuperSize])
	d.seed = d.sb.CsumSeed()
	return d
}

func (d *disk) block(n uint64) []byte { bs := uint64(d.sb.BlockSize()); return d.b[n*bs : (n+1)*bs] }

func (d *disk) group(n uint32, edit func(g ondisk.GroupDesc)) ondisk.GroupDesc {
	at := (uint64(d.sb.FirstDataBlock())+1)*uint64(d.sb.BlockSize()) + uint64(n)*uint64(d.sb.DescSize())
	g := ondisk.GroupDesc(d.b[at : at+uint64(d.sb.DescSize())])
	if edit != nil {
		edit(g)
		g.UpdateChecksum(d.sb, d.seed, n)
	}
	return g
}

func (d *disk) super(edit func(s ondisk.Super)) {
	edit(d.sb)
	d.sb.UpdateChecksum()
}

// inode edits an inode and its checksum.
func (d *disk) inode(ino uint32, edit func(raw ondisk.Inode)) ondisk.Inode {
	if ino == 0 {
		d.t.Fatal("inode 0: no such file in the image")
	}
	n, i := (ino-1)/d.sb.InodesPerGroup(), (ino-1)%d.sb.InodesPerGroup()
	at := d.group(n, nil).InodeTable()*uint64(d.sb.BlockSize()) + uint64(i)*uint64(d.sb.InodeSize())
	raw := ondisk.Inode(d.b[at : at+uint64(d.sb.InodeSize())])
	if edit != nil {
		edit(raw)
		raw.UpdateChecksum(d.seed, ino)
	}
	return raw
}

func (d *disk) name(name string, edit func(raw ondisk.Inode)) ondisk.Inode {
	return d.inode(d.inos[name], edit)
}

// firstBlock is the first block of an extent-mapped inode with its extents in the inode.
func (d *disk) firstBlock(ino uint32) uint64 {
	n := ondisk.ExtentNode(d.inode(ino, nil).Block())
	for n.Depth() > 0 {
		_, child := n.Index(0)
		n = ondisk.ExtentNode(d.block(child))
	}
	return n.Leaf(0).Physical
}

func (d *disk) iseed(ino uint32) uint32 {
	return ondisk.InodeSeed(d.seed, ino, d.inode(ino, nil).Generation())
}

// dirBlock edits the first block of a linear directory.
func (d *disk) dirBlock(ino uint32, edit func(b []byte)) {
	b := d.block(d.firstBlock(ino))
	edit(b)
	ondisk.UpdateDirChecksum(b, d.iseed(ino))
}

// find is the entry with the name in an area.
func (d *disk) find(b []byte, name string) ondisk.Dirent {
	for off := 0; off+ondisk.DirentHead < len(b); {
		e := ondisk.Dirent(b[off:])
		if e.Ino() != 0 && string(e.Name()) == name {
			return e
		}
		off += e.RecLen()
	}
	d.t.Fatalf("no entry %q", name)
	return nil
}

// value is the value of system.data in a raw inode, found by its name.
func (d *disk) value(raw ondisk.Inode) (entry, value []byte) {
	area := raw[ondisk.GoodOldInode+raw.ExtraIsize()+4:]
	for at := 0; binary.LittleEndian.Uint32(area[at:]) != 0; {
		n := int(area[at])
		if area[at+1] == 7 && string(area[at+16:at+16+n]) == "data" {
			off, size := int(binary.LittleEndian.Uint16(area[at+2:])), int(binary.LittleEndian.Uint32(area[at+8:]))
			return area[at : at+16], area[off : off+size]
		}
		at += (16 + n + 3) &^ 3
	}
	d.t.Fatal("no system.data")
	return nil, nil
}

type defect struct {
	name  string
	class string
	plant func(d *disk)
}

func le16put(b []byte, off int, v uint16) { binary.LittleEndian.PutUint16(b[off:], v) }
func le32put(b []byte, off int, v uint32) { binary.LittleEndian.PutUint32(b[off:], v) }

func TestDefects(t *testing.T) {
	img, inos := baseImage(t)
	b := image(t, img)
	if r := judge(t, b); !r.Clean() {
		t.Fatalf("base image: %v", r.Findings)
	}
	var all []defect
	for _, set := range [][]defect{superDefects(), groupDefects(), inodeDefects(), mapDefects(), dirDefects(), inlineDefects(), xattrDefects()} {
		all = append(all, set...)
	}
	for _, c := range all {
		t.Run(c.name, func(t *testing.T) {
			d := newDisk(t, b, inos)
			c.plant(d)
			r := judge(t, d.b)
			if !r.Has(c.class) {
				t.Errorf("no finding of class %s in %v", c.class, r.Findings)
			}
			if len(r.Findings) > 4 {
				t.Logf("%d findings: %v", len(r.Findings), r.Findings[:4])
			}
		})
	}
}

// TestDebugfsDefects plants defects by debugfs, which does its own checksums.
func TestDebugfsDefects(t *testing.T) {
	img, _ := baseImage(t)
	for _, c := range []struct {
		class string
		cmds  []string
	}{
		{check.ClassLinks, []string{"sif f100 links_count 5"}},
		{check.ClassInodeLeak, []string{"clri few"}},
		{check.ClassDirEntry, []string{"clri f129"}},
		{check.ClassInodeFree, []string{"freei f129"}},
		{check.ClassInodeLeak, []string{"seti <400>"}},
		{check.ClassBlockLeak, []string{"setb 9000 3"}},
		{check.ClassISize, []string{"sif f70000 size 10"}},
		{check.ClassIBlocks, []string{"sif f70000 blocks 2"}},
		{check.ClassInlineBlocks, []string{"sif f60 blocks 2"}},
		{check.ClassInlineCapacity, []string{"sif f60 size 129"}},
		{check.ClassInlineExtents, []string{"sif f60 flags 0x10080000"}},
		{check.ClassInlineTail, []string{"sif f60 size 50"}},
		{check.ClassFreeBlocks, []string{"ssv free_blocks_count 5"}},
		{check.ClassFreeInodes, []string{"ssv free_inodes_count 5"}},
		{check.ClassFreeBlocks, []string{"set_bg 0 free_blocks_count 3", "set_bg 0 checksum calc"}},
		{check.ClassUsedDirs, []string{"set_bg 0 used_dirs_count 77", "set_bg 0 checksum calc"}},
		{check.ClassGroupCsum, []string{"set_bg 0 checksum 1"}},
		{check.ClassUnreachable, []string{"unlink f129"}},
		{check.ClassXattrRefcount, []string{"sif f100 file_acl 0"}},
	} {
		t.Run(c.class+" "+c.cmds[0], func(t *testing.T) {
			p := testimage.Copy(t, img)
			cmds := c.cmds
			if c.class == check.ClassXattrRefcount {
				n := blockNumber(t, testimage.Debugfs(t, p, false, "stat f5000"))
				cmds = []string{"sif f4000 file_acl " + n}
			}
			testimage.Debugfs(t, p, true, cmds...)
			if r := judge(t, image(t, p)); !r.Has(c.class) {
				t.Errorf("no finding of class %s in %v", c.class, r.Findings)
			}
		})
	}
}

// blockNumber is the "File ACL" of debugfs stat.
func blockNumber(t *testing.T, stat string) string {
	t.Helper()
	_, rest, ok := strings.Cut(stat, "File ACL:")
	if f := strings.Fields(rest); ok && len(f) > 0 && f[0] != "0" {
		return f[0]
	}
	t.Fatalf("no attribute block in\n%s", stat)
	return ""
}

// TestSeedImage checks the bench's seed image: one planted count, nothing else.
func TestSeedImage(t *testing.T) {
	r := judge(t, image(t, testimage.Seed(t)))
	for _, f := range r.Findings {
		if f.Class != check.ClassFreeBlocks {
			t.Errorf("%v", f)
		}
	}
	if r.Clean() {
		t.Error("the planted free block count was not found")
	}
}
