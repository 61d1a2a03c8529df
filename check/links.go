package check

import "inlinefs/ondisk"

// States of a directory in checkReach.
const (
	reachUnknown = iota
	reachWalking
	reachYes
	reachNo
)

// checkLinks compares link counts with entries, and looks for what cannot be reached from the root.
func (c *checker) checkLinks() {
	c.checkReach()
	for i := ondisk.RootIno; i < len(c.inodes); i++ {
		if c.full() {
			return
		}
		ino, r := uint32(i), c.inodes[i]
		if r.flags&recLive == 0 {
			continue
		}
		switch {
		case r.flags&recSpecial != 0:
		case r.flags&recEA != 0:
			if !c.eaRefs[ino] {
				c.addIno(ClassUnreachable, ino, "holds the value of an attribute that is nowhere")
			}
		case r.refs == 0 && r.flags&recOrphan != 0 && r.links == 0:
		case r.refs == 0 || r.ft == ondisk.FtDir && ino != ondisk.RootIno && (c.byIno[ino] == nil || c.byIno[ino].named == 0):
			c.addIno(ClassUnreachable, ino, "in use with %d links, but no directory names it", r.links)
		case uint32(r.links) != r.refs && !c.manyLinks(r):
			c.addIno(ClassLinks, ino, "%d links, want %d", r.links, r.refs)
		}
	}
}

// manyLinks says that the directory had too many subdirectories at some time, after which its count stays at 1 (dir_nlink).
func (c *checker) manyLinks(r inoRec) bool {
	return r.ft == ondisk.FtDir && r.links == 1 && c.sb.ROCompat(ondisk.ROCompatDirNlink) && r.flags&recDx != 0
}

// checkReach follows each directory's parents up to the root, and compares ".." with the directory that names it.
func (c *checker) checkReach() {
	var path []*dirRec
	for _, d := range c.dirs {
		if c.full() {
			return
		}
		if d.ino == ondisk.RootIno {
			if d.dotdot != ondisk.RootIno && d.dotdot != 0 {
				c.addIno(ClassDirDots, d.ino, "\"..\" of the root names inode %d", d.dotdot)
			}
			if d.named != 0 {
				c.addIno(ClassDirLinked, d.ino, "the root is named by inode %d", d.named)
			}
			continue
		}
		if d.named != 0 && d.dotdot != 0 && d.dotdot != d.named {
			c.addIno(ClassDirDots, d.ino, "\"..\" names inode %d, want %d", d.dotdot, d.named)
		}
		if d.dotdot == 0 {
			c.addIno(ClassDirDots, d.ino, "there is no \"..\"")
		}
		path = path[:0]
		at := d
		for at != nil && at.state == reachUnknown && at.ino != ondisk.RootIno {
			at.state = reachWalking
			path = append(path, at)
			at = c.byIno[at.named]
		}
		state := uint8(reachNo)
		if at != nil && (at.ino == ondisk.RootIno || at.state == reachYes) {
			state = reachYes
		}
		if at != nil && at.state == reachWalking {
			c.addIno(ClassUnreachable, at.ino, "directory is in a loop that the root is not part of")
		}
		for _, p := range path {
			p.state = state
		}
	}
}
