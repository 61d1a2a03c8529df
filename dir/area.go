package dir

import (
	"bytes"
	"cmp"
	"slices"

	"inlinefs/ondisk"
)

// An area is a run of entries that fills its bytes exactly: a directory block without its checksum tail, or one of the two inline
// areas. The functions of this file change areas and know nothing else.

// spot is what a scan of an area found; offsets are in bytes, -1 for none.
type spot struct {
	off  int // the entry with the name
	prev int // the entry before it
	slot int // the first entry that a new one can be made from
	live int // bytes that the entries in use need
}

// scan walks area, looking for name and for room of need bytes (0: looks for no room). It stops at the name. The error has no place in
// it: the caller scans again with one.
func scan(where string, area, name []byte, need int, inodes uint32) (spot, error) {
	s := spot{off: -1, prev: -1, slot: -1}
	last := -1
	for off := 0; off < len(area); {
		d, err := ondisk.CheckDirent(where, area, off, inodes)
		if err != nil {
			return s, err
		}
		used := 0
		if d.Ino() != 0 {
			if d.NameLen() == len(name) && len(name) > 0 && bytes.Equal(d.Name(), name) {
				s.off, s.prev = off, last
				return s, nil
			}
			used = ondisk.DirentLen(d.NameLen())
		}
		if need > 0 && s.slot < 0 && d.RecLen()-used >= need {
			s.slot = off
		}
		s.live += used
		last = off
		off += d.RecLen()
	}
	return s, nil
}

// put writes an entry at off of area that is recLen bytes long; the name must fit.
func put(area []byte, off, recLen int, name []byte, ino uint32, ft uint8) {
	d := ondisk.Dirent(area[off:])
	d.SetIno(ino)
	d.SetRecLen(recLen)
	d.SetNameLen(len(name))
	d.SetType(ft)
	n := copy(d[ondisk.DirentHead:recLen], name)
	clear(d[ondisk.DirentHead+n : ondisk.DirentLen(len(name))])
}

// insert makes an entry from the room of the one at slot (add_dirent_to_buf).
func insert(area []byte, slot int, name []byte, ino uint32, ft uint8) {
	d := ondisk.Dirent(area[slot:])
	room := d.RecLen()
	if d.Ino() != 0 {
		used := ondisk.DirentLen(d.NameLen())
		d.SetRecLen(used)
		slot, room = slot+used, room-used
	}
	put(area, slot, room, name, ino, ft)
}

// remove takes the entry at off away: its room goes to the entry before it, prev, or stays as an empty entry (prev < 0). The name is
// wiped (ext4_generic_delete_entry).
func remove(area []byte, off, prev int) {
	d := ondisk.Dirent(area[off:])
	n := d.RecLen()
	if prev < 0 {
		clear(area[off+ondisk.DirentHead : off+n])
		d.SetIno(0)
		d.SetNameLen(0)
		d.SetType(0)
		return
	}
	clear(area[off : off+n])
	p := ondisk.Dirent(area[prev:])
	p.SetRecLen(p.RecLen() + n)
}

// initEmpty makes area one empty entry.
func initEmpty(area []byte) {
	clear(area)
	ondisk.Dirent(area).SetRecLen(len(area))
}

// ent is an entry in use, at off of some area, size bytes at its shortest.
type ent struct {
	hash      uint32
	off, size int
}

// live lists the entries of area that are in use. The area must have been scanned.
func live(area []byte, out []ent) []ent {
	for off := 0; off < len(area); {
		d := ondisk.Dirent(area[off:])
		if d.Ino() != 0 {
			out = append(out, ent{off: off, size: ondisk.DirentLen(d.NameLen())})
		}
		off += d.RecLen()
	}
	return out
}

// pack fills dst with the listed entries of src, in order and without gaps, and stretches the last to the end. The two must not
// overlap.
func pack(dst, src []byte, list []ent) {
	if len(list) == 0 {
		initEmpty(dst)
		return
	}
	at := 0
	for i, e := range list {
		copy(dst[at:at+e.size], src[e.off:e.off+e.size])
		n := e.size
		if i == len(list)-1 {
			n = len(dst) - at
			clear(dst[at+e.size:])
		}
		ondisk.Dirent(dst[at:]).SetRecLen(n)
		at += n
	}
}

// halve sorts the entries by hash and says from which one on they move to a new block, so that both halves keep room for the longest
// name in an area of size bytes (do_split). There must be at least two entries.
func halve(list []ent, size int) int {
	slices.SortStableFunc(list, func(a, b ent) int { return cmp.Compare(a.hash, b.hash) })
	moved := 0
	for i := len(list) - 1; i > 0; i-- {
		if moved+list[i].size/2 > size/2 {
			return i + 1
		}
		moved += list[i].size
	}
	return 1
}
