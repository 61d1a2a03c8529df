package xattr

import (
	"encoding/binary"
	"fmt"

	"inlinefs/internal/fserr"
	"inlinefs/ondisk"
)

// Tags of ACL entries.
const (
	tagUserObj  = 0x01
	tagUser     = 0x02
	tagGroupObj = 0x04
	tagGroup    = 0x08
	tagMask     = 0x10
	tagOther    = 0x20

	undefinedID = 0xFFFFFFFF
	diskVersion = 1 // on disk: entries of 4 bytes, 8 with an id
	callVersion = 2 // in system calls: entries of 8 bytes
)

type aclEntry struct {
	tag, perm uint16
	id        uint32
}

// acl is an access control list in decoded form, valid: nil is none.
type acl []aclEntry

func (e aclEntry) named() bool { return e.tag == tagUser || e.tag == tagGroup }

// parseACL decodes an ACL of the system call interface. Without entries it is nil. Errors: fserr.Invalid, NotSupported for a version
// other than 2 (posix_acl_from_xattr, posix_acl_valid).
func parseACL(p []byte) (acl, error) {
	if len(p) == 0 {
		return nil, nil
	}
	if len(p) < 4 || (len(p)-4)%8 != 0 {
		return nil, fmt.Errorf("ACL of %d bytes, want 4 and a multiple of 8: %w", len(p), fserr.Invalid)
	}
	if v := binary.LittleEndian.Uint32(p); v != callVersion {
		return nil, fmt.Errorf("ACL version %d, want %d: %w", v, callVersion, fserr.NotSupported)
	}
	var a acl
	for p = p[4:]; len(p) > 0; p = p[8:] {
		e := aclEntry{binary.LittleEndian.Uint16(p), binary.LittleEndian.Uint16(p[2:]), binary.LittleEndian.Uint32(p[4:])}
		if !e.named() {
			e.id = undefinedID
		}
		a = append(a, e)
	}
	if a == nil {
		return nil, nil
	}
	return a, a.check()
}

// parseDisk decodes an ACL as it is on disk (ext4_acl_from_disk).
func parseDisk(p []byte) (acl, error) {
	if len(p) < 4 {
		return nil, fmt.Errorf("ACL of %d bytes on disk, want at least 4: %w", len(p), fserr.Invalid)
	}
	if v := binary.LittleEndian.Uint32(p); v != diskVersion {
		return nil, fmt.Errorf("ACL version %d on disk, want %d: %w", v, diskVersion, fserr.Invalid)
	}
	var a acl
	for p = p[4:]; len(p) > 0; {
		if len(p) < 4 {
			return nil, fmt.Errorf("ACL entry on disk is cut off after %d bytes: %w", len(p), fserr.Invalid)
		}
		e := aclEntry{binary.LittleEndian.Uint16(p), binary.LittleEndian.Uint16(p[2:]), undefinedID}
		p = p[4:]
		switch e.tag {
		case tagUserObj, tagGroupObj, tagMask, tagOther:
		case tagUser, tagGroup:
			if len(p) < 4 {
				return nil, fmt.Errorf("ACL entry on disk without its id: %w", fserr.Invalid)
			}
			e.id = binary.LittleEndian.Uint32(p)
			p = p[4:]
		default:
			return nil, fmt.Errorf("ACL tag 0x%x on disk: %w", e.tag, fserr.Invalid)
		}
		a = append(a, e)
	}
	return a, nil
}

// check enforces the order of tags, the permission bits, and a mask where there are named entries.
func (a acl) check() error {
	order := [...]uint16{tagUserObj, tagUser, tagGroupObj, tagGroup, tagMask, tagOther}
	at, named, mask := -1, false, false
	for n, e := range a {
		k := 0
		for k < len(order) && order[k] != e.tag {
			k++
		}
		switch {
		case k == len(order) || e.perm&^7 != 0:
			return fmt.Errorf("ACL entry %d: tag 0x%x, permissions 0%o: %w", n, e.tag, e.perm, fserr.Invalid)
		case k < at || k == at && !e.named():
			return fmt.Errorf("ACL entry %d: tag 0x%x is out of order: %w", n, e.tag, fserr.Invalid)
		case k > 0 && at < 0, k > 2 && at < 2, k == 5 && named && !mask:
			return fmt.Errorf("ACL entry %d: tag 0x%x without those that belong before it: %w", n, e.tag, fserr.Invalid)
		case e.named() && e.id == undefinedID:
			return fmt.Errorf("ACL entry %d: tag 0x%x without an id: %w", n, e.tag, fserr.Invalid)
		}
		at, named, mask = k, named || e.named(), mask || e.tag == tagMask
	}
	if at != len(order)-1 {
		return fmt.Errorf("ACL of %d entries without one for others: %w", len(a), fserr.Invalid)
	}
	return nil
}

// disk is the form on disk (ext4_acl_to_disk).
func (a acl) disk() []byte {
	p := binary.LittleEndian.AppendUint32(nil, diskVersion)
	for _, e := range a {
		p = binary.LittleEndian.AppendUint16(p, e.tag)
		p = binary.LittleEndian.AppendUint16(p, e.perm)
		if e.named() {
			p = binary.LittleEndian.AppendUint32(p, e.id)
		}
	}
	return p
}

// call is the form of the system call interface.
func (a acl) call() []byte {
	p := binary.LittleEndian.AppendUint32(nil, callVersion)
	for _, e := range a {
		p = binary.LittleEndian.AppendUint16(p, e.tag)
		p = binary.LittleEndian.AppendUint16(p, e.perm)
		p = binary.LittleEndian.AppendUint32(p, e.id)
	}
	return p
}

func aclToDisk(p []byte) ([]byte, error) {
	a, err := parseACL(p)
	if err != nil || a == nil {
		return nil, err
	}
	return a.disk(), nil
}

func aclFromDisk(p []byte) ([]byte, error) {
	a, err := parseDisk(p)
	if err != nil {
		return nil, err
	}
	return a.call(), nil
}

// mode is the permission bits that the ACL means; equal says that they mean as much as the ACL (posix_acl_equiv_mode).
func (a acl) mode() (perm uint16, equal bool) {
	equal = true
	for n, e := range a {
		switch e.tag {
		case tagUserObj:
			perm |= e.perm << 6
		case tagOther:
			perm |= e.perm
		case tagUser, tagGroup, tagMask:
			equal = false
		}
		if n == a.groupClass() {
			perm |= e.perm << 3
		}
	}
	return perm, equal
}

func (a acl) find(tag uint16) int {
	for n, e := range a {
		if e.tag == tag {
			return n
		}
	}
	return -1
}

// groupClass is the entry that the group bits of the mode stand for: the mask, else the owning group.
func (a acl) groupClass() int {
	if n := a.find(tagMask); n >= 0 {
		return n
	}
	return a.find(tagGroupObj)
}

// InheritACL derives the ACLs of a new inode from its directory's default ACL (posix_acl_create). ACLs are in the form of the system call
// interface. mode is the wanted i_mode with its type; where there is no default ACL the caller has to apply the umask, and mode comes
// back as it is. access is nil when newMode says it all; deflt is nil but for directories. Errors: fserr.Invalid for a bad ACL.
func InheritACL(parentDefault []byte, mode uint16) (access, deflt []byte, newMode uint16, err error) {
	a, err := parseACL(parentDefault)
	if err != nil || a == nil || mode&ondisk.ModeFmt == ondisk.ModeLnk {
		return nil, nil, mode, err
	}
	bits := mode & 0o777
	extended := false
	narrow := func(n int, shift uint) {
		a[n].perm &= bits >> shift & 7
		bits = bits&^(7<<shift) | a[n].perm<<shift
	}
	for n, e := range a {
		switch e.tag {
		case tagUserObj:
			narrow(n, 6)
		case tagOther:
			narrow(n, 0)
		case tagUser, tagGroup, tagMask:
			extended = true
		}
	}
	narrow(a.groupClass(), 3)
	if extended {
		access = a.call()
	}
	if mode&ondisk.ModeFmt == ondisk.ModeDir {
		deflt = append([]byte(nil), parentDefault...)
	}
	return access, deflt, mode&^0o777 | bits, nil
}

// ChmodACL returns the access ACL (system call form) after a chmod to mode (posix_acl_chmod): none stays none, and one that cannot be
// read comes back as it is.
func ChmodACL(access []byte, mode uint16) []byte {
	a, err := parseACL(access)
	if err != nil || a == nil {
		return access
	}
	for n := range a {
		switch a[n].tag {
		case tagUserObj:
			a[n].perm = mode >> 6 & 7
		case tagOther:
			a[n].perm = mode & 7
		}
	}
	a[a.groupClass()].perm = mode >> 3 & 7
	return a.call()
}
