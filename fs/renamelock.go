package fs

import (
	"inlinefs/dir"
	"inlinefs/inode"
	"inlinefs/ondisk"
)

// lockRename takes the Rw of the two directories of a rename (lock_rename) and returns the function that releases what it took. Two
// different ones are taken under renameMu, without which no directory changes its parent: an ancestor before what is below it, as every
// other operation does, else by inode number. Errors: a damaged "..".
func (f *FileSystem) lockRename(m *move) (unlock func(), err error) {
	if m.od == m.nd {
		m.od.Rw.Lock()
		return m.od.Rw.Unlock, nil
	}
	f.renameMu.Lock()
	first, second, err := f.inOrder(m)
	if err != nil {
		f.renameMu.Unlock()
		return nil, err
	}
	first.Rw.Lock()
	second.Rw.Lock()
	return func() { second.Rw.Unlock(); first.Rw.Unlock(); f.renameMu.Unlock() }, nil
}

// inOrder gives the directories of a rename in the order of their locks and sets m.trap. The caller holds renameMu.
func (f *FileSystem) inOrder(m *move) (first, second *inode.Inode, err error) {
	if m.trap, err = f.below(m.od, m.nd); err != nil || m.trap != 0 {
		return m.od, m.nd, err
	}
	if m.trap, err = f.below(m.nd, m.od); err != nil || m.trap != 0 {
		return m.nd, m.od, err
	}
	if m.od.Ino < m.nd.Ino {
		return m.od, m.nd, nil
	}
	return m.nd, m.od, nil
}

// below says by which of its children the way from top leads down to d, 0 if d is not below top (d_ancestor). It takes the Rw of one
// directory after the other; the caller holds renameMu and none of them. Errors: a damaged "..".
func (f *FileSystem) below(top, d *inode.Inode) (child uint32, err error) {
	for n, at := uint32(0), d.Ino; at != ondisk.RootIno; n++ {
		if n > f.fs.Inodes {
			return 0, f.fs.Corrupted(d.Ino, 0, "d_ancestor", ondisk.Corrupt(d.Name(), "its parents lead round in a circle"))
		}
		up, err := f.parentOf(at)
		switch {
		case err != nil:
			return 0, err
		case up == top.Ino:
			return at, nil
		}
		at = up
	}
	return 0, nil
}

func (f *FileSystem) parentOf(n uint32) (uint32, error) {
	d, err := f.dir(node(n))
	if err != nil {
		return 0, err
	}
	defer f.put(d)
	d.Rw.RLock()
	defer d.Rw.RUnlock()
	return dir.DotDot(d)
}

// lockChildren takes the Rw of what is moved and of what it replaces, nil for nothing, whose parents are locked; it returns the function
// that releases them. Neither is above the other (move.trap). Directories come before files, whose names may be in both, else the number
// decides.
func lockChildren(a, b *inode.Inode) func() {
	if b == nil {
		a.Rw.Lock()
		return a.Rw.Unlock
	}
	if ad, bd := a.IsDir(), b.IsDir(); ad != bd && bd || ad == bd && a.Ino > b.Ino {
		a, b = b, a
	}
	a.Rw.Lock()
	b.Rw.Lock()
	return func() { b.Rw.Unlock(); a.Rw.Unlock() }
}
