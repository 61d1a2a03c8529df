package xattr

import (
	"encoding/binary"
	"fmt"

	"inlinefs/internal/fserr"
)

// ModeOfACL gives mode the permission bits that an access control list (version 2, as the kernel passes it) stands for; minimal says
// that the list has only owner, group and others, so that the mode says it all and nothing need be stored (posix_acl_equiv_mode).
// Errors: fserr.Invalid.
func ModeOfACL(acl []byte, mode uint16) (newMode uint16, minimal bool, err error) {
	if len(acl) < 4 || (len(acl)-4)%8 != 0 || binary.LittleEndian.Uint32(acl) != 2 {
		return 0, false, fmt.Errorf("access control list of %d bytes: %w", len(acl), fserr.Invalid)
	}
	minimal = true
	var group, mask uint16
	hasMask := false
	for e := acl[4:]; len(e) > 0; e = e[8:] {
		perm := binary.LittleEndian.Uint16(e[2:]) & 7
		switch binary.LittleEndian.Uint16(e) {
		case tagUserObj:
			mode = mode&^0700 | perm<<6
		case tagGroupObj:
			group = perm
		case tagOther:
			mode = mode&^07 | perm
		case tagMask:
			mask, hasMask, minimal = perm, true, false
		default:
			minimal = false
		}
	}
	if hasMask {
		group = mask
	}
	return mode&^070 | group<<3, minimal, nil
}
