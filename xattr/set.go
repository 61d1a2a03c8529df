package xattr

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"inlinefs/alloc"
	"inlinefs/inode"
	"inlinefs/internal/fserr"
	"inlinefs/internal/lock"
	"inlinefs/journal"
	"inlinefs/ondisk"
)

// Attr is one attribute of a new inode: full name and value, an ACL in the form of the system call interface.
type Attr struct {
	Name  string
	Value []byte
}

// change is one attribute on its way to the inode. The caller of its methods holds XattrSem exclusively.
type change struct {
	h     *journal.Handle
	i     *inode.Inode
	index uint8
	name  string
	value []byte // nil: remove
	flags int
	mode  *uint16      // the new i_mode, nil for the old one
	raw   ondisk.Inode // a copy to work on
	old   uint64       // attribute block before
	now   uint64       // and after
}

// SetCredits is how many blocks one Set or Remove may change: the inode, a new attribute block and an old shared one, taking the one and
// freeing the other, the superblock.
func SetCredits(*inode.Inode) int { return 2*alloc.Credits + 4 }

// Set gives attribute name (full) a value (ext4_xattr_set_handle). The value goes to the inode if it has room, without moving anything
// out of it, else to the external block; a copy in the other place is removed. A nil value is an empty value; for an ACL it removes it,
// and an access ACL changes the permission bits of i_mode as well. The caller holds i.Rw exclusively and has SetCredits in h.
// Errors: fserr.Exist and NoData after flags, NoSpace, NotSupported, Invalid for a bad ACL, NotPermitted for a default ACL of something
// not a directory, ondisk.CorruptError. Nothing is changed then.
func Set(h *journal.Handle, i *inode.Inode, name string, value []byte, flags int) error {
	c, err := newChange(h, i, name, flags)
	if err != nil {
		return err
	}
	if c.value = value; value == nil {
		c.value = []byte{}
	}
	if isACL(c.index) {
		if err := c.setACL(value); err != nil {
			return fmt.Errorf("%s: %s: %w", i.Name(), name, err)
		}
	}
	return c.run(true)
}

// Remove takes attribute name (full) away. The caller holds i.Rw exclusively and has SetCredits in h. Errors: fserr.NoData when it is
// not there, except for ACLs; those of Set.
func Remove(h *journal.Handle, i *inode.Inode, name string) error {
	c, err := newChange(h, i, name, Replace)
	if err != nil {
		return err
	}
	if isACL(c.index) {
		c.flags = 0
	}
	return c.run(true)
}

// SetNew gives a new inode its first attributes: inherited ACLs, security labels. Times and mode stay. The caller has SetCredits in h.
// Errors: those of Set.
func SetNew(h *journal.Handle, i *inode.Inode, attrs []Attr) error {
	for _, a := range attrs {
		c, err := newChange(h, i, a.Name, 0)
		if err != nil {
			return err
		}
		c.value = append([]byte{}, a.Value...)
		if isACL(c.index) {
			if c.value, err = aclToDisk(a.Value); err != nil {
				return fmt.Errorf("%s: %s: %w", i.Name(), a.Name, err)
			}
		}
		if err := c.run(false); err != nil {
			return err
		}
	}
	return nil
}

func newChange(h *journal.Handle, i *inode.Inode, name string, flags int) (*change, error) {
	index, rest, err := split(name)
	if err != nil {
		return nil, err
	}
	return &change{h: h, i: i, index: index, name: rest, flags: flags}, nil
}

// setACL checks an ACL, brings it into its form on disk and derives the mode (ext4_set_acl, posix_acl_update_mode).
func (c *change) setACL(value []byte) error {
	acl, err := parseACL(value)
	if err != nil {
		return err
	}
	mode := c.i.Mode()
	switch {
	case mode&ondisk.ModeFmt == ondisk.ModeLnk:
		return fmt.Errorf("ACL of a symbolic link: %w", fserr.NotSupported)
	case c.index == ondisk.XattrACLDefault && mode&ondisk.ModeFmt != ondisk.ModeDir && acl != nil:
		return fmt.Errorf("default ACL of something not a directory (mode 0%o): %w", mode, fserr.NotPermitted)
	case c.index == ondisk.XattrACLAccess && acl != nil:
		perm, equal := acl.mode()
		m := mode&^0o777 | perm
		if c.flags&KillSGID != 0 {
			m &^= 0o2000
		}
		c.mode = &m
		if equal {
			acl = nil // the mode says it all
		}
	}
	if acl == nil {
		c.value = nil
		return nil
	}
	c.value = acl.disk()
	return nil
}

// run makes the change. touch sets ctime.
func (c *change) run(touch bool) error {
	i := c.i
	i.XattrSem.Lock()
	defer i.XattrSem.Unlock()
	lock.Reading(&i.Mu)
	i.Mu.Lock()
	c.raw = slices.Clone(i.Raw)
	i.Mu.Unlock()
	c.old = c.raw.FileACL()
	c.now = c.old
	_, _, inside, err := ondisk.IbodyFind(c.raw, c.index, c.name)
	if err != nil {
		return corrupted(i, 0, "ext4_xattr_ibody_find", err)
	}
	var block []ondisk.XattrEntry
	var refs uint32
	if c.old != 0 {
		if block, refs, err = readBlock(i, c.old); err != nil {
			return err
		}
	}
	at := slices.IndexFunc(block, func(e ondisk.XattrEntry) bool { return e.Index == c.index && e.Name == c.name })
	switch found := inside || at >= 0; {
	case found && c.flags&Create != 0:
		return fmt.Errorf("%s: attribute %d:%q: %w", i.Name(), c.index, c.name, fserr.Exist)
	case !found && c.flags&Replace != 0:
		return fmt.Errorf("%s: attribute %d:%q: %w", i.Name(), c.index, c.name, fserr.NoData)
	case !found && c.value == nil && c.mode == nil:
		return nil
	}
	block, changed, err := c.place(block, at)
	if err != nil {
		return err
	}
	if changed {
		if c.now, err = writeBlock(c.h, i, c.old, refs, block); err != nil {
			return err
		}
	}
	if err := c.feature(); err != nil {
		return err
	}
	return c.store(touch)
}

// place puts the value into the copy of the inode, or into the entries of the block, and takes it out of the other. at is its place in
// the block now, -1 for none. changed says that the block must be written.
func (c *change) place(block []ondisk.XattrEntry, at int) (_ []ondisk.XattrEntry, changed bool, err error) {
	if c.value != nil {
		err = ondisk.IbodySet(c.raw, c.index, c.name, c.value)
		if errors.Is(err, ondisk.ErrIbodyNoSpace) {
			if err := c.leaveInode(); err != nil {
				return nil, false, err
			}
			e := ondisk.XattrEntry{Index: c.index, Name: c.name, Value: c.value}
			if at < 0 {
				return append(block, e), true, nil
			}
			block[at] = e
			return block, true, nil
		}
		if err != nil {
			return nil, false, corrupted(c.i, 0, "ext4_xattr_ibody_set", err)
		}
	} else if err := c.leaveInode(); err != nil {
		return nil, false, err
	}
	if at < 0 {
		return block, false, nil
	}
	return slices.Delete(block, at, at+1), true, nil
}

func (c *change) leaveInode() error {
	return corrupted(c.i, 0, "ext4_xattr_ibody_set", ondisk.IbodyRemove(c.raw, c.index, c.name))
}

// feature notes in the superblock that there are attributes (ext4_xattr_update_super_block). mkfs has done so nearly always.
func (c *change) feature() error {
	f := c.i.FS
	if c.value == nil || f.SB.Compat(ondisk.CompatExtAttr) {
		return nil
	}
	return f.PutSuper(c.h, func(s ondisk.Super) { s.SetFeatureCompat(s.FeatureCompat() | ondisk.CompatExtAttr) })
}

// store copies the attribute area, and nothing else that others may have changed meanwhile, from the copy to the inode.
func (c *change) store(touch bool) error {
	i := c.i
	if err := account(i, c.old, c.now); err != nil {
		return err
	}
	start, end := ondisk.IbodyArea(c.raw)
	parts := lock.RawArea
	if c.mode != nil {
		parts |= lock.RawFlags
	}
	if touch {
		parts |= lock.RawRest
	}
	lock.Touching(&i.Mu, parts)
	i.Mu.Lock()
	copy(i.Raw[start:end], c.raw[start:end])
	if c.now != c.old {
		i.Raw.SetFileACL(c.now)
	}
	if c.mode != nil {
		i.Raw.SetMode(*c.mode)
	}
	if touch {
		i.Raw.SetTime(ondisk.Ctime, time.Now())
	}
	i.Mu.Unlock()
	return i.MarkDirty(c.h)
}
