// Package dir maps names to inode numbers: directories inside the inode, linear ones and hashed ones (htree), and the moves from one
// form to the next. Every function takes a directory whose Rw the caller holds, exclusive to change it and shared to read it; handles
// come from the caller too, with the credits that AddCredits and RemoveCredits name. Times and link counts are the caller's.
//
// Entries are read in an order that outlives changes. With dir_index it is the order of the name's hash, and so is the cookie,
// whatever form the directory has at the moment; without, cookies are byte offsets, inline entries taking those that they will have
// in a block.
package dir

import (
	"bytes"
	"fmt"

	"inlinefs/alloc"
	"inlinefs/extent"
	"inlinefs/inode"
	"inlinefs/internal/fserr"
	"inlinefs/journal"
	"inlinefs/ondisk"
	"inlinefs/super"
)

// Entry is one name of a directory.
type Entry struct {
	// Name is valid during the call of emit only.
	Name []byte
	Ino  uint32
	// Type is an ondisk.Ft constant, FtUnknown on file systems without the filetype feature.
	Type uint8
	// Cookie is where to resume after this entry; below 2^63.
	Cookie uint64
}

var (
	dotName    = []byte(".")
	dotDotName = []byte("..")
)

// dotLen is the length in bytes of each of the entries "." and "..".
const dotLen = 12

// Lookup finds a name, "." and ".." included (ext4_lookup). Errors: fserr.NotExist (bare: no allocation), corruption.
func Lookup(d *inode.Inode, name []byte) (ino uint32, ft uint8, err error) {
	switch {
	case len(name) == 0 || len(name) > ondisk.MaxName:
		return 0, 0, fserr.NotExist
	case isDot(name):
		return d.Ino, fileType(d.FS, ondisk.FtDir), nil
	case isDotDot(name):
		ino, err = DotDot(d)
		return ino, fileType(d.FS, ondisk.FtDir), err
	}
	if d.HasInline() {
		return inlineLookup(d, name)
	}
	p, err := find(d, name)
	if err != nil {
		return 0, 0, err
	}
	defer p.b.Release()
	e := ondisk.Dirent(p.area[p.off:])
	return e.Ino(), typeOf(d.FS, e), nil
}

// Add makes an entry (ext4_add_entry). It sets i_size and writes the inode to its buffer. Errors: fserr.Exist, NoSpace, NameTooLong,
// Invalid (empty, or with a slash or a NUL byte), corruption.
func Add(h *journal.Handle, d *inode.Inode, name []byte, ino uint32, ft uint8) error {
	switch {
	case len(name) > ondisk.MaxName:
		return fmt.Errorf("name of %d bytes: %w", len(name), fserr.NameTooLong)
	case len(name) == 0 || bytes.IndexByte(name, 0) >= 0 || bytes.IndexByte(name, '/') >= 0:
		return fmt.Errorf("name %q: %w", name, fserr.Invalid)
	case isDot(name) || isDotDot(name):
		return fserr.Exist
	case ino == 0 || ino > d.FS.Inodes:
		return fmt.Errorf("entry %q of %s: inode %d, want from 1 to %d: %w", name, d.Name(), ino, d.FS.Inodes, fserr.Invalid)
	}
	ft = fileType(d.FS, ft)
	if d.HasInline() {
		done, err := inlineAdd(h, d, name, ino, ft)
		if done || err != nil {
			return err
		}
	}
	if err := blockAdd(h, d, name, ino, ft); err != nil {
		return err
	}
	return d.MarkDirty(h)
}

// Remove takes an entry away; ino is what it must point at (ext4_delete_entry). Errors: fserr.NotExist, corruption.
func Remove(h *journal.Handle, d *inode.Inode, name []byte, ino uint32) error {
	return change(h, d, name, func(area []byte, off, prev int) error {
		if got := ondisk.Dirent(area[off:]).Ino(); got != ino {
			return ondisk.Corrupt(d.Name(), "entry %q points at inode %d, want %d", name, got, ino)
		}
		remove(area, off, prev)
		return nil
	})
}

// Replace points an entry at another inode (ext4_setent, rename onto an existing name). Errors: fserr.NotExist, corruption.
func Replace(h *journal.Handle, d *inode.Inode, name []byte, ino uint32, ft uint8) error {
	return change(h, d, name, func(area []byte, off, _ int) error {
		e := ondisk.Dirent(area[off:])
		e.SetIno(ino)
		e.SetType(fileType(d.FS, ft))
		return nil
	})
}

// change applies fn, under the lock of the bytes, to the entry with the name.
func change(h *journal.Handle, d *inode.Inode, name []byte, fn func(area []byte, off, prev int) error) error {
	if len(name) == 0 || isDot(name) || isDotDot(name) {
		return fmt.Errorf("entry %q of %s: %w", name, d.Name(), fserr.Invalid)
	}
	if d.HasInline() {
		return inlineChange(h, d, name, fn)
	}
	p, err := find(d, name)
	if err != nil {
		return err
	}
	defer p.b.Release()
	if err := update(h, d, p.b, 0, func([]byte) error { return fn(p.area, p.off, p.prev) }); err != nil {
		return err
	}
	return d.MarkDirty(h)
}

// DotDot is the parent's inode number. Errors: corruption.
func DotDot(d *inode.Inode) (uint32, error) {
	if d.HasInline() {
		return inlineParent(d)
	}
	b, err := extent.GetBlock(d, 0)
	if err != nil {
		return 0, err
	}
	defer b.Release()
	dots, err := checkDots(d, b)
	if err != nil {
		return 0, err
	}
	return dots.Ino(), nil
}

// SetDotDot points ".." at another parent (rename of a directory). Errors: corruption.
func SetDotDot(h *journal.Handle, d *inode.Inode, parent uint32) error {
	if d.HasInline() {
		return inlineSetParent(h, d, parent)
	}
	dx := 0
	if isIndexed(d) {
		dx = ondisk.DxRootOff
	}
	b, err := readBlock(d, 0, dx)
	if err != nil {
		return err
	}
	defer b.Release()
	if _, err := checkDots(d, b); err != nil {
		return err
	}
	return update(h, d, b, dx, func(data []byte) error {
		ondisk.Dirent(data[dotLen:]).SetIno(parent)
		return nil
	})
}

// Init makes the content of a new directory: inside the inode when the feature is on and there is room, else one block. It sets i_size
// and writes the inode (ext4_init_new_dir). Errors: fserr.NoSpace.
func Init(h *journal.Handle, d *inode.Inode, parent uint32) error {
	if done, err := inlineInit(h, d, parent); done || err != nil {
		return err
	}
	return initBlock(h, d, parent)
}

// Empty says whether nothing but "." and ".." is left (ext4_empty_dir). Errors: corruption.
func Empty(d *inode.Inode) (bool, error) {
	if d.HasInline() {
		return inlineEmpty(d)
	}
	n, err := blocks(d)
	if err != nil {
		return false, err
	}
	for lblk := range n {
		l, err := readAny(d, lblk)
		if err != nil {
			return false, err
		}
		empty, err := l.empty(d)
		l.b.Release()
		if !empty || err != nil {
			return false, err
		}
	}
	return true, nil
}

// AddCredits is how many blocks Add may change, the inode's included.
func AddCredits(d *inode.Inode) int {
	switch {
	case d.HasInline(): // to a block, then to an index whose leaf splits at once
		return 6 + appends(d, 3)
	case isIndexed(d): // a leaf, a node on every level, the root
		return 6 + appends(d, 3)
	default: // one more block, or two that become an index
		return 4 + appends(d, 2)
	}
}

// appends is the credits for n new blocks: the first may split the block map, the others find room there.
func appends(_ *inode.Inode, n int) int { return extent.AppendCredits + (n-1)*(alloc.Credits+4) }

// RemoveCredits is how many blocks Remove or Replace may change, the inode's included.
func RemoveCredits(*inode.Inode) int { return 2 }

func isDot(name []byte) bool    { return len(name) == 1 && name[0] == '.' }
func isDotDot(name []byte) bool { return len(name) == 2 && name[0] == '.' && name[1] == '.' }

// fileType is ft as an entry stores it: nothing without the filetype feature, where the byte belongs to the name's length.
func fileType(f *super.FS, ft uint8) uint8 {
	if f.SB.Incompat(ondisk.IncompatFiletype) {
		return ft
	}
	return ondisk.FtUnknown
}

// typeOf is the type that an entry states.
func typeOf(f *super.FS, e ondisk.Dirent) uint8 { return fileType(f, e.Type()) }
