// Package check reads an ext4 image on its own and says what is wrong with it. It shares the record views of ondisk with the file
// system and nothing else, so that a mistake in the file system's allocation, mapping or directory code is not made twice. It looks
// at everything e2fsck looks at in passes 1 to 5 and at what e2fsck does not: inline files that claim more bytes than they have,
// inline data next to an extent tree or to allocated blocks, and rubbish after the end of an inline file.
//
// Memory is linear in the image's block and inode counts, which are believed only after they were held against the device's size.
// No tree is followed twice through the same block, so the time is bounded as well.
package check

import (
	"encoding/binary"
	"fmt"

	"inlinefs/blockdev"
	"inlinefs/ondisk"
)

// DefaultMaxFindings is how many findings are collected when Options.MaxFindings is 0.
const DefaultMaxFindings = 2000

// NoGroup is the Group of a finding that is about no block group.
const NoGroup = -1

// Finding is one thing that is wrong.
type Finding struct {
	// Class is one of the Class constants.
	Class string
	// Ino is the inode concerned, 0 for none.
	Ino uint32
	// Group is the block group concerned, NoGroup for none.
	Group int64
	// Block is the physical block concerned, 0 for none.
	Block uint64
	// Text names the object and the values found and wanted.
	Text string
}

// String is "class: text".
func (f Finding) String() string { return f.Class + ": " + f.Text }

// Report is what Image found.
type Report struct {
	// Findings are in the order of the walk.
	Findings []Finding
	// Truncated says that the walk ended early because there were too many findings.
	Truncated bool
	// Inodes, Directories and InlineInodes count the inodes in use, Blocks the blocks in use.
	Inodes, Directories, InlineInodes uint32
	Blocks                            uint64
}

// Clean says that there are no findings.
func (r Report) Clean() bool { return len(r.Findings) == 0 }

// Has says whether there is a finding of the class.
func (r Report) Has(class string) bool {
	for _, f := range r.Findings {
		if f.Class == class {
			return true
		}
	}
	return false
}

// Options change how Image works.
type Options struct {
	// MaxFindings ends the walk; 0 is DefaultMaxFindings.
	MaxFindings int
}

// checker is the state of one walk. It belongs to one goroutine.
type checker struct {
	dev    blockdev.Device
	opts   Options
	rep    Report
	geo    geometry
	sb     ondisk.Super
	seed   uint32
	csum   bool     // metadata_csum
	gcsum  bool     // metadata_csum or uninit_bg: descriptors have checksums and uninit flags
	gdt    []byte   // all descriptors
	used   bitset   // block -> something claims it
	fixed  bitset   // block -> superblocks, descriptors, bitmaps, inode tables
	rsvGDT bitset   // block -> reserved for descriptors, owned by the resize inode
	inodes []inoRec // by inode number
	dirs   []*dirRec
	byIno  map[uint32]*dirRec
	xblk   map[uint64]*xattrBlock
	orphan map[uint32]bool
	eaRefs map[uint32]bool
	free   freeCount
	fileOf uint32 // inode of the orphan file, 0 without the feature
	quiet  bool   // dump: collect no findings
	keep   bool   // dump: keep the runs of every inode
}

// inoRec is what is remembered of an inode.
type inoRec struct {
	links uint16 // i_links_count
	ft    uint8  // directory entry type; 0 when not in use
	flags uint8  // rec* bits
	refs  uint32 // directory entries that name it
}

const (
	recLive    = 1 << iota // the inode is in use
	recSpecial             // reserved, quota, orphan file: no directory names it
	recEA                  // holds an extended attribute's value
	recDx                  // indexed directory
	recOrphan
)

// Image checks the image on dev. It returns an error when the superblock cannot be read; all else, unreadable blocks included, is a
// finding. It writes nothing.
func Image(dev blockdev.Device, opts Options) (Report, error) {
	if opts.MaxFindings <= 0 {
		opts.MaxFindings = DefaultMaxFindings
	}
	c := &checker{dev: dev, opts: opts}
	if err := c.readSuper(); err != nil {
		return Report{}, err
	}
	if !c.checkSuper() || !c.readGroups() {
		return c.rep, nil
	}
	steps := []func(){c.checkGroups, c.checkBackups, c.readOrphans, c.scanInodes, c.checkResizeInode, c.checkJournal, c.checkXattrBlocks,
		c.checkDirs, c.checkLinks, c.checkBlockBitmaps, c.checkInodeBitmaps, c.checkTotals}
	for _, step := range steps {
		if c.full() {
			break
		}
		step()
	}
	return c.rep, nil
}

// full says that enough was found.
func (c *checker) full() bool { return c.rep.Truncated }

// add records a finding.
func (c *checker) add(f Finding) {
	if c.quiet || c.rep.Truncated {
		return
	}
	if len(c.rep.Findings) >= c.opts.MaxFindings {
		c.rep.Truncated = true
		c.rep.Findings = append(c.rep.Findings, Finding{Class: ClassTooMany, Group: NoGroup,
			Text: fmt.Sprintf("more than %d findings, the rest was not looked at", c.opts.MaxFindings)})
		return
	}
	c.rep.Findings = append(c.rep.Findings, f)
}

func (c *checker) addFS(class, format string, a ...any) {
	c.add(Finding{Class: class, Group: NoGroup, Text: fmt.Sprintf(format, a...)})
}

func (c *checker) addGroup(class string, g uint32, format string, a ...any) {
	c.add(Finding{Class: class, Group: int64(g), Text: fmt.Sprintf("group %d: ", g) + fmt.Sprintf(format, a...)})
}

func (c *checker) addIno(class string, ino uint32, format string, a ...any) {
	c.add(Finding{Class: class, Ino: ino, Group: NoGroup, Text: fmt.Sprintf("inode %d: ", ino) + fmt.Sprintf(format, a...)})
}

func (c *checker) addInoBlock(class string, ino uint32, blk uint64, format string, a ...any) {
	c.add(Finding{Class: class, Ino: ino, Group: NoGroup, Block: blk,
		Text: fmt.Sprintf("inode %d: block %d: ", ino, blk) + fmt.Sprintf(format, a...)})
}

// read reads n bytes at block blk; nil, and a finding, when the device does not give them.
func (c *checker) read(blk uint64, n int) []byte {
	b := make([]byte, n)
	if blk >= c.geo.blocks || uint64(c.dev.Size())-blk*uint64(c.geo.bs) < uint64(n) {
		c.add(Finding{Class: ClassBlockRange, Group: NoGroup, Block: blk,
			Text: fmt.Sprintf("block %d: %d bytes there are outside the file system's %d blocks", blk, n, c.geo.blocks)})
		return nil
	}
	if _, err := c.dev.ReadAt(b, int64(blk)*int64(c.geo.bs)); err != nil {
		c.add(Finding{Class: ClassRead, Group: NoGroup, Block: blk, Text: fmt.Sprintf("block %d: %v", blk, err)})
		return nil
	}
	return b
}

// block reads one block; nil, and a finding, when it cannot be read.
func (c *checker) block(blk uint64) []byte { return c.read(blk, c.geo.bs) }

func le16(b []byte, off int) uint16 { return binary.LittleEndian.Uint16(b[off:]) }
func le32(b []byte, off int) uint32 { return binary.LittleEndian.Uint32(b[off:]) }
func le64(b []byte, off int) uint64 { return binary.LittleEndian.Uint64(b[off:]) }
func be32(b []byte, off int) uint32 { return binary.BigEndian.Uint32(b[off:]) }

func allZero(b []byte) bool {
	for _, v := range b {
		if v != 0 {
			return false
		}
	}
	return true
}
