// Package xattr reads and changes the extended attributes of inodes: those in the inode and those in its external block. Attributes go
// to the inode first; what has no room there goes to the block. Inline file data is an attribute as well (system.data), but this package
// neither shows nor moves it: its room is simply taken. It also knows POSIX ACLs: their form on disk, inheritance and chmod.
package xattr

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"inlinefs/inode"
	"inlinefs/internal/fserr"
	"inlinefs/internal/lock"
	"inlinefs/journal"
	"inlinefs/ondisk"
)

// Flags of Set.
const (
	Create  = 1 // XATTR_CREATE: the attribute must not be there
	Replace = 2 // XATTR_REPLACE: it must be there
	// KillSGID makes Set of an access ACL clear the set-group-id bit, as for callers that are not of the file's group.
	KillSGID = 1 << 16
)

// The full names of the two ACL attributes.
const (
	NameACLAccess  = "system.posix_acl_access"
	NameACLDefault = "system.posix_acl_default"
)

const nameMax = 255 // bytes of a name after its prefix

var prefixes = []struct {
	text  string
	index uint8
}{{"user.", ondisk.XattrUser}, {"trusted.", ondisk.XattrTrusted}, {"security.", ondisk.XattrSecurity}}

// split turns a full name into name index and rest. Errors: fserr.NotSupported, Invalid for a bare prefix, Range for a long name.
func split(full string) (index uint8, name string, err error) {
	switch full {
	case NameACLAccess:
		return ondisk.XattrACLAccess, "", nil
	case NameACLDefault:
		return ondisk.XattrACLDefault, "", nil
	}
	for _, p := range prefixes {
		rest, ok := strings.CutPrefix(full, p.text)
		switch {
		case !ok:
			continue
		case rest == "":
			return 0, "", fmt.Errorf("attribute name %q is a bare prefix: %w", full, fserr.Invalid)
		case len(rest) > nameMax:
			return 0, "", fmt.Errorf("attribute name of %d bytes, want at most %d: %w", len(rest), nameMax, fserr.Range)
		case strings.IndexByte(rest, 0) >= 0:
			return 0, "", fmt.Errorf("attribute name %q holds a zero byte: %w", full, fserr.Invalid)
		}
		return p.index, rest, nil
	}
	return 0, "", fmt.Errorf("attribute name %q: unknown prefix: %w", full, fserr.NotSupported)
}

// join is the reverse of split; ok is false for what clients do not see.
func join(index uint8, name string) (full string, ok bool) {
	switch {
	case index == ondisk.XattrACLAccess && name == "":
		return NameACLAccess, true
	case index == ondisk.XattrACLDefault && name == "":
		return NameACLDefault, true
	}
	for _, p := range prefixes {
		if p.index == index && name != "" {
			return p.text + name, true
		}
	}
	return "", false
}

func isACL(index uint8) bool {
	return index == ondisk.XattrACLAccess || index == ondisk.XattrACLDefault
}

// fill is the end of every read: p into dst, or only its length when dst is empty.
func fill(dst, p []byte) (int, error) {
	if len(dst) > 0 && len(p) > len(dst) {
		return 0, fmt.Errorf("%d bytes for a buffer of %d: %w", len(p), len(dst), fserr.Range)
	}
	copy(dst, p)
	return len(p), nil
}

// Get copies the value of attribute name (full, "user.x") into dst and returns its length in bytes; an empty dst asks for the length only
// (ext4_xattr_get). ACLs come in the form of the system call interface. Errors: fserr.NoData, Range when dst is too short, those of an
// impossible name, ondisk.CorruptError.
func Get(_ *journal.Task, i *inode.Inode, name string, dst []byte) (int, error) {
	index, rest, err := split(name)
	if err != nil {
		return 0, err
	}
	value, err := get(i, index, rest)
	if err != nil {
		return 0, err
	}
	if isACL(index) {
		if value, err = aclFromDisk(value); err != nil {
			return 0, fmt.Errorf("%s: %s: %w", i.Name(), name, err)
		}
	}
	return fill(dst, value)
}

func get(i *inode.Inode, index uint8, name string) ([]byte, error) {
	i.XattrSem.RLock()
	defer i.XattrSem.RUnlock()
	value, found, acl, err := getIbody(i, index, name)
	if err != nil {
		return nil, corrupted(i, 0, "ext4_xattr_ibody_get", err)
	}
	if !found && acl != 0 {
		value, found, err = getBlock(i, acl, index, name)
	}
	if err != nil {
		return nil, err
	}
	if !found {
		return nil, fmt.Errorf("%s: attribute %d:%q: %w", i.Name(), index, name, fserr.NoData)
	}
	return value, nil
}

func getIbody(i *inode.Inode, index uint8, name string) (value []byte, found bool, acl uint64, err error) {
	lock.Reading(&i.Mu)
	i.Mu.Lock()
	defer i.Mu.Unlock()
	off, n, found, err := ondisk.IbodyFind(i.Raw, index, name)
	if err != nil {
		return nil, false, 0, err
	}
	return slices.Clone(i.Raw[off : off+n]), found, i.Raw.FileACL(), nil
}

// List puts the full names of all attributes, each with a zero byte behind it, into dst and returns their length in bytes; an empty dst
// asks for the length only (ext4_listxattr). trusted. names are included: who may see them is the caller's matter. Errors: fserr.Range
// when dst is too short, ondisk.CorruptError.
func List(i *inode.Inode, dst []byte) (int, error) {
	all, err := entries(i)
	if err != nil {
		return 0, err
	}
	var names []byte
	for _, e := range all {
		if full, ok := join(e.Index, e.Name); ok {
			names = append(append(names, full...), 0)
		}
	}
	return fill(dst, names)
}

// entries are the attributes in the inode, then those in the block.
func entries(i *inode.Inode) ([]ondisk.XattrEntry, error) {
	i.XattrSem.RLock()
	defer i.XattrSem.RUnlock()
	i.Mu.Lock()
	all, err := ondisk.IbodyList(i.Raw)
	acl := i.Raw.FileACL()
	i.Mu.Unlock()
	if err != nil {
		return nil, corrupted(i, 0, "ext4_xattr_ibody_list", err)
	}
	if acl == 0 {
		return all, nil
	}
	more, _, err := readBlock(i, acl)
	return append(all, more...), err
}

// corrupted records a CorruptError in the superblock; other errors pass.
func corrupted(i *inode.Inode, blk uint64, fn string, err error) error {
	var c *ondisk.CorruptError
	if errors.As(err, &c) {
		return i.FS.Corrupted(i.Ino, blk, fn, fmt.Errorf("%s: %w", i.Name(), err))
	}
	return err
}
