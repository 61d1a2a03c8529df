package ondisk

import "errors"

// ErrIbodyNoSpace says that an attribute has no room in the inode; the inode is unchanged.
var ErrIbodyNoSpace = errors.New("no room for the attribute in the inode")

// errIbodyNoEntry says that an attribute that was to be changed is not there.
var errIbodyNoEntry = errors.New("no such attribute in the inode")

const (
	ibodyWhere = "attributes in the inode"
	systemData = "data"
)

// ibody returns the attribute area of raw, checked; ok is false when the inode has no room for one. used says whether h_magic is set:
// without it whatever the bytes hold does not count.
func ibody(raw Inode) (a xattrArea, used, ok bool, err error) {
	if len(raw) < GoodOldInode+4 { // the record ends before i_extra_isize
		return a, false, false, nil
	}
	x := raw.ExtraIsize()
	if x == 0 {
		return a, false, false, nil
	}
	start := GoodOldInode + x
	if x%4 != 0 || start > len(raw) {
		return a, false, false, Corrupt(ibodyWhere, "i_extra_isize %d in an inode of %d bytes", x, len(raw))
	}
	if start+ibodyHead+xattrTermSize > len(raw) {
		return a, false, false, nil
	}
	a = xattrArea{b: raw, first: start + ibodyHead, base: start + ibodyHead, where: ibodyWhere}
	if le32(raw, start) != XattrMagic {
		a.term, a.low = a.first, len(raw)
		return a, false, true, nil
	}
	if err := a.check(); err != nil {
		return a, true, true, err
	}
	return a, true, true, nil
}

// IbodyArea is the range of raw that the in-inode attributes may use, h_magic included: empty when i_extra_isize leaves none.
func IbodyArea(raw Inode) (start, end int) {
	_, _, ok, err := ibody(raw)
	if !ok || err != nil {
		return len(raw), len(raw)
	}
	return GoodOldInode + raw.ExtraIsize(), len(raw)
}

// IbodyCheck validates the attributes in the inode (xattr_check_inode). Errors: CorruptError.
func IbodyCheck(raw Inode) error {
	_, _, _, err := ibody(raw)
	return err
}

// IbodyFind finds an attribute in the inode: its value is raw[off:off+length] (ext4_xattr_ibody_find). All entries are validated first,
// so the range is always within raw. Errors: CorruptError.
func IbodyFind(raw Inode, index uint8, name string) (off, length int, found bool, err error) {
	a, used, ok, err := ibody(raw)
	if err != nil || !ok || !used {
		return 0, 0, false, err
	}
	at := a.find(index, name)
	if at < 0 {
		return 0, 0, false, nil
	}
	if n := a.size(at); n > 0 {
		return a.value(at), n, true, nil
	}
	return a.base, 0, true, nil
}

// IbodyMax is the largest length in bytes that the value of system.data can have beside the other attributes, a multiple of 4. Without
// that attribute the result is -1 when there is no room for an entry with at least 4 bytes of value, as ext4 makes no inline file then.
// Damaged attributes give -1 (get_max_inline_xattr_value_size).
func IbodyMax(raw Inode) int {
	a, used, ok, err := ibody(raw)
	if err != nil || !ok {
		return -1
	}
	if used {
		if at := a.find(XattrSystem, systemData); at >= 0 {
			return max((a.free()+XattrValueLen(a.size(at)))&^3, 0)
		}
	}
	v := (a.free() - XattrEntryLen(len(systemData))) &^ 3
	if v <= 3 {
		return -1
	}
	return v
}

// IbodySet gives an attribute in the inode a value, making the entry if need be; value must not be part of raw (ext4_xattr_ibody_set).
// Errors: ErrIbodyNoSpace, CorruptError; raw is unchanged then.
func IbodySet(raw Inode, index uint8, name string, value []byte) error {
	a, used, ok, err := ibody(raw)
	if err != nil {
		return err
	}
	if !ok || len(name) > xattrNameMax || len(value) > len(raw) {
		return ErrIbodyNoSpace
	}
	at, old, need := -1, 0, XattrValueLen(len(value))
	if used {
		at = a.find(index, name)
	}
	if at >= 0 {
		old = XattrValueLen(a.size(at))
	} else {
		need += XattrEntryLen(len(name))
	}
	if need > a.free()+old {
		return ErrIbodyNoSpace
	}
	if !used {
		clear(raw[a.first:])
		put32(raw, a.first-ibodyHead, XattrMagic)
	}
	if at < 0 {
		at = a.insert(index, name)
	}
	a.resize(at, len(value))
	if len(value) > 0 {
		copy(raw[a.value(at):], value)
	}
	put32(raw, at+12, 0)
	return nil
}

// IbodyResize changes the length of an attribute's value in the inode to n bytes: old bytes stay, new ones are zero. It allocates no
// memory. Errors: ErrIbodyNoSpace, CorruptError, an error when the attribute is not there; raw is unchanged then.
func IbodyResize(raw Inode, index uint8, name string, n int) error {
	a, used, ok, err := ibody(raw)
	if err != nil {
		return err
	}
	if !ok || !used {
		return errIbodyNoEntry
	}
	at := a.find(index, name)
	if at < 0 {
		return errIbodyNoEntry
	}
	if n < 0 || n > len(raw) || XattrValueLen(n) > a.free()+XattrValueLen(a.size(at)) {
		return ErrIbodyNoSpace
	}
	a.resize(at, n)
	return nil
}

// IbodyRemove takes an attribute out of the inode; none there is no error. With the last one h_magic goes to 0.
// Errors: CorruptError; raw is unchanged then.
func IbodyRemove(raw Inode, index uint8, name string) error {
	a, used, ok, err := ibody(raw)
	if err != nil || !ok || !used {
		return err
	}
	at := a.find(index, name)
	if at < 0 {
		return nil
	}
	a.remove(at)
	if a.term == a.first {
		clear(raw[a.first-ibodyHead:])
	}
	return nil
}

// IbodyList decodes all attributes in the inode, system.data included, in their order. Errors: CorruptError.
func IbodyList(raw Inode) ([]XattrEntry, error) {
	a, used, ok, err := ibody(raw)
	if err != nil || !ok || !used {
		return nil, err
	}
	return a.list(), nil
}
