package ondisk

import (
	"bytes"
	"slices"
)

// Attribute name indexes, e_name_index: each stands for the prefix of the full name.
const (
	XattrUser       = 1 // user.
	XattrACLAccess  = 2 // system.posix_acl_access, the name is empty
	XattrACLDefault = 3 // system.posix_acl_default, the name is empty
	XattrTrusted    = 4 // trusted.
	XattrSecurity   = 6 // security.
	XattrSystem     = 7 // system.; only system.data, which clients never see
)

// Sizes and the magic of attribute areas.
const (
	XattrMagic     = 0xEA020000
	XattrEntrySize = 16 // bytes of an entry before its name
	xattrNameMax   = 255
	xattrTermSize  = 4 // the zero word after the last entry
	ibodyHead      = 4 // h_magic
)

// XattrEntry is one attribute in decoded form.
type XattrEntry struct {
	// Index stands for the name's prefix.
	Index uint8
	// Name is the rest of the name.
	Name string
	// Value is a copy of the value.
	Value []byte
	// Off is where the value lies, in bytes from the start of the inode or block; meaningless for an empty value.
	Off int
	// Hash is e_hash: 0 in the inode.
	Hash uint32
}

// XattrEntryLen is the room in bytes that an entry with a name of n bytes takes (EXT4_XATTR_LEN).
func XattrEntryLen(n int) int { return (XattrEntrySize + n + 3) &^ 3 }

// XattrValueLen is the room in bytes that a value of n bytes takes (EXT4_XATTR_SIZE).
func XattrValueLen(n int) int { return (n + 3) &^ 3 }

// xattrArea is a region with attribute entries growing up from first and values growing down from the end of b; value offsets count
// from base.
type xattrArea struct {
	b           []byte
	first, base int
	where       string
	// term is the offset of the zero word after the entries, low that of the lowest value (the end when there is none). Set by check.
	term, low int
}

func (a *xattrArea) last(at int) bool   { return le32(a.b, at) == 0 }
func (a *xattrArea) next(at int) int    { return at + XattrEntryLen(int(a.b[at])) }
func (a *xattrArea) index(at int) uint8 { return a.b[at+1] }
func (a *xattrArea) name(at int) []byte {
	return a.b[at+XattrEntrySize : at+XattrEntrySize+int(a.b[at])]
}
func (a *xattrArea) size(at int) int { return int(le32(a.b, at+8)) }

// value is the offset of the value of the entry at at, in b.
func (a *xattrArea) value(at int) int { return a.base + int(le16(a.b, at+2)) }

func (a *xattrArea) setValue(at, off, size int) {
	if size == 0 {
		off = a.base
	}
	put16(a.b, at+2, uint16(off-a.base))
	put32(a.b, at+8, uint32(size))
}

func (a *xattrArea) is(at int, index uint8, name string) bool {
	return a.index(at) == index && string(a.name(at)) == name
}

// find is the offset of the entry with that name, -1 when there is none. The area has been checked.
func (a *xattrArea) find(index uint8, name string) int {
	for at := a.first; at < a.term; at = a.next(at) {
		if a.is(at, index, name) {
			return at
		}
	}
	return -1
}

// check validates every entry and sets term and low (check_xattrs): the chain ends in the area, values lie between it and the end and
// do not overlap, no value is in another inode.
func (a *xattrArea) check() error {
	at := a.first
	for {
		if at+xattrTermSize > len(a.b) {
			return Corrupt(a.where, "attribute entries run to byte %d, want an end before %d", at, len(a.b))
		}
		if a.last(at) {
			break
		}
		if at+XattrEntrySize > len(a.b) || a.next(at)+xattrTermSize > len(a.b) {
			return Corrupt(a.where, "attribute entry at byte %d with a name of %d bytes does not end before %d", at, a.b[at], len(a.b))
		}
		if a.index(at) == 0 && len(a.name(at)) == 0 {
			return Corrupt(a.where, "attribute entry at byte %d without index and name", at)
		}
		if bytes.IndexByte(a.name(at), 0) >= 0 {
			return Corrupt(a.where, "attribute name %q at byte %d holds a zero byte", a.name(at), at)
		}
		at = a.next(at)
	}
	a.term, a.low = at, len(a.b)
	for at := a.first; at < a.term; at = a.next(at) {
		if inum := le32(a.b, at+4); inum != 0 {
			return Corrupt(a.where, "value of attribute %d:%q is in inode %d, want none", a.index(at), a.name(at), inum)
		}
		n := a.size(at)
		if n == 0 {
			continue
		}
		off := a.value(at)
		if off < a.term+xattrTermSize || n > len(a.b) || off+XattrValueLen(n) > len(a.b) {
			return Corrupt(a.where, "value of attribute %d:%q: %d bytes at %d, want them from %d to %d", a.index(at), a.name(at), uint32(n), off,
				a.term+xattrTermSize, len(a.b))
		}
		a.low = min(a.low, off)
	}
	return a.checkOverlap()
}

// fewEntries is how many entries are compared pairwise; with more of them the values are sorted first, which allocates.
const fewEntries = 24

// checkOverlap makes sure that no two values share bytes.
func (a *xattrArea) checkOverlap() error {
	n := 0
	for x := a.first; x < a.term; x = a.next(x) {
		n++
	}
	if n > fewEntries {
		return a.checkSorted(make([]int, 0, n))
	}
	for x := a.first; x < a.term; x = a.next(x) {
		for y := a.next(x); y < a.term; y = a.next(y) {
			if err := a.checkPair(x, y); err != nil {
				return err
			}
		}
	}
	return nil
}

func (a *xattrArea) checkSorted(ats []int) error {
	for x := a.first; x < a.term; x = a.next(x) {
		if a.size(x) > 0 {
			ats = append(ats, x)
		}
	}
	slices.SortFunc(ats, func(x, y int) int { return a.value(x) - a.value(y) })
	for n := 1; n < len(ats); n++ {
		if err := a.checkPair(ats[n-1], ats[n]); err != nil {
			return err
		}
	}
	return nil
}

func (a *xattrArea) checkPair(x, y int) error {
	nx, ny := XattrValueLen(a.size(x)), XattrValueLen(a.size(y))
	if nx > 0 && ny > 0 && a.value(x) < a.value(y)+ny && a.value(y) < a.value(x)+nx {
		return Corrupt(a.where, "values of attributes %q and %q overlap (%d bytes at %d, %d at %d)", a.name(x), a.name(y), a.size(x), a.value(x),
			a.size(y), a.value(y))
	}
	return nil
}

// list decodes the entries of a checked area.
func (a *xattrArea) list() []XattrEntry {
	var all []XattrEntry
	for at := a.first; at < a.term; at = a.next(at) {
		e := XattrEntry{Index: a.index(at), Name: string(a.name(at)), Value: []byte{}, Hash: le32(a.b, at+12)}
		if n := a.size(at); n > 0 {
			e.Off = a.value(at)
			e.Value = append(e.Value, a.b[e.Off:e.Off+n]...)
		}
		all = append(all, e)
	}
	return all
}

// free is the room in bytes between the entries and the values of a checked area.
func (a *xattrArea) free() int { return a.low - a.term - xattrTermSize }

// resize gives the value of the entry at at n bytes: it keeps its place among the values, those below it move. Old bytes stay, new ones
// and the padding are zero. The caller has made sure of the room.
func (a *xattrArea) resize(at, n int) {
	old := a.size(at)
	keep := min(old, n)
	off, oldLen, newLen := a.value(at), XattrValueLen(old), XattrValueLen(n)
	if old == 0 {
		off = a.low
	}
	to := off + oldLen - newLen
	if to < off { // grows: the values below move first
		copy(a.b[a.low+to-off:], a.b[a.low:off])
		copy(a.b[to:], a.b[off:off+keep])
	} else {
		copy(a.b[to:], a.b[off:off+keep])
		copy(a.b[a.low+to-off:], a.b[a.low:off])
		clear(a.b[a.low : a.low+to-off])
	}
	clear(a.b[to+keep : to+newLen])
	for e := a.first; e < a.term; e = a.next(e) {
		if e != at && a.size(e) > 0 && a.value(e) < off {
			a.setValue(e, a.value(e)+to-off, a.size(e))
		}
	}
	a.setValue(at, to, n)
	a.low += to - off
}

// insert appends an entry without a value. The caller has made sure of the room.
func (a *xattrArea) insert(index uint8, name string) int {
	at := a.term
	end := at + XattrEntryLen(len(name))
	clear(a.b[at : end+xattrTermSize])
	a.b[at], a.b[at+1] = byte(len(name)), index
	copy(a.b[at+XattrEntrySize:], name)
	a.term = end
	return at
}

// remove takes the entry at at out, value and all.
func (a *xattrArea) remove(at int) {
	a.resize(at, 0)
	next := a.next(at)
	copy(a.b[at:], a.b[next:a.term])
	end := a.term - (next - at)
	clear(a.b[end : a.term+xattrTermSize])
	a.term = end
}
