package stress

import (
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
)

// Sibling is one of the races that ext4's inline data had, or has, beside the one of write(2) and the page fault. It is a part of a scenario's
// name, as in "seed,write-fallocate".
type Sibling struct {
	Name    string
	Mirrors string // the commit, report or thread that it mirrors
	Here    string // what inlinefs does instead
	Base    string // the image when the scenario names none
	// OneProcess: the actors are threads of one process in any case.
	OneProcess bool
	BlockSize  int // of the image, bytes; 0: 4096
	Turns      int // of each actor that leads, per round

	size   int // of the new file, bytes
	cells  []siblingCell
	actors []actor // those that map come last
}

// siblingCell is 8 bytes of the file that belong to one actor.
type siblingCell struct {
	off   int64
	owner int
	// gone: it may be absent or zero, since it is truncated, punched or not yet written.
	gone bool
}

// actor is what one worker does.
type actor struct {
	what string
	maps bool // its cells are stored to through a mapping
	// follows: it goes on until the actors that lead have had their turns.
	follows bool
	turn    func(w *worker, rng *rand.Rand)
}

// Siblings lists the sibling races.
func Siblings() []Sibling { return slices.Clone(siblings) }

func siblingByName(name string) *Sibling {
	if name == "" {
		return nil
	}
	for i := range siblings {
		if siblings[i].Name == name {
			return &siblings[i]
		}
	}
	return nil
}

func siblingNames() []string {
	var out []string
	for _, s := range siblings {
		out = append(out, s.Name)
	}
	return out
}

func (s *Sibling) layout() layout {
	l := layout{bytes: s.size, at: []int64{}}
	for _, c := range s.cells {
		l.owner = append(l.owner, c.owner)
		l.at = append(l.at, c.off)
	}
	return l
}

// writers counts the actors that do not map; they have the lower numbers.
func (s *Sibling) writers() int {
	n := 0
	for _, a := range s.actors {
		if !a.maps {
			n++
		}
	}
	return n
}

// leaders counts the actors that lead.
func (s *Sibling) leaders() int {
	n := 0
	for _, a := range s.actors {
		if !a.follows {
			n++
		}
	}
	return n
}

// ListSiblings writes the table of the sibling races.
func ListSiblings(out io.Writer) error {
	var b strings.Builder
	for _, s := range siblings {
		var who []string
		for _, a := range s.actors {
			who = append(who, a.what)
		}
		fmt.Fprintf(&b, "%s (image: %s)\n", s.Name, s.Base)
		parts := [][2]string{{"mirrors", s.Mirrors}, {"races", strings.Join(who, " | ")}, {"here", s.Here}}
		for _, part := range parts {
			for i, line := range wrap(part[1], timelineWidth-10, "") {
				if i > 0 {
					part[0] = ""
				}
				fmt.Fprintf(&b, "  %-8s%s\n", part[0], line)
			}
		}
	}
	_, err := io.WriteString(out, b.String())
	return err
}

// mapOnly is the name of the race that counts files converted without a store.
const mapOnly = "map-only"

// fromMapping is the name of the race in which write(2) faults its own buffer.
const fromMapping = "write-from-mapping"

// cellsAt are cells of one owner, one after the other from off on.
func cellsAt(owner int, off int64, n int, gone bool) (out []siblingCell) {
	for i := range n {
		out = append(out, siblingCell{off: off + int64(i)*cellSize, owner: owner, gone: gone})
	}
	return out
}

// siblings is the table of the races beside the main one. Actor 0 is the only one that changes the file's size.
var siblings = []Sibling{
	{
		Name: "write-fallocate", Base: ScenarioHealthy, Turns: 16, size: 96,
		Mirrors: "ext4: fix race condition between write and convert in fallocate (2022, CVE-2022-49414, BUG at ext4_jbd2.c:53); syzbot " +
			"d14b2bea87fe2aaffa3b (2025): BUG in ext4_alloc_file_blocks under ZERO_RANGE against a fault that restores",
		Here:  "fallocate, punch and zero hold Inode.Rw and convert before anything else, as write(2) holds it; a punched range leaves the fills of its pages",
		cells: slices.Concat(cellsAt(0, 40, 3, true), cellsAt(1, 0, 3, false), cellsAt(2, 24, 2, false)),
		actors: []actor{{what: "fallocate, punch, zero", turn: fallocTurn}, {what: "write", turn: writeTurn},
			{what: "store", maps: true, follows: true, turn: storeTurn}},
	},
	{
		Name: "write-setxattr", Base: ScenarioHealthy, Turns: 24, size: 48,
		Mirrors: "ext4: refresh inline data size before write operations (892e1cf17555, syzbot f3185be57d7e8dda32b8, CVE-2025-68264); " +
			"stale i_inline_off (a54c4613dac1, CVE-2021-40490)",
		Here:  "the place and size of inline data are never cached: every step finds system.data again under XattrSem and the inode's lock",
		cells: slices.Concat(cellsAt(0, 48, 8, true), cellsAt(2, 0, 3, false)),
		actors: []actor{{what: "append, truncate", turn: growTurn}, {what: "setxattr, removexattr", turn: attrTurn},
			{what: "store", maps: true, follows: true, turn: storeTurn}},
	},
	{
		Name: "dio-truncate-write", Base: ScenarioHealthy, Turns: 12, size: 24,
		Mirrors: "ext4: fix bug_on in ext4_writepages after a direct write, truncate and buffered write (2022); syzbot 307da6ca5cb0d01d581a: " +
			"direct write asks whether the file may be inline across a lock cycle (2023); a37d4c46392e",
		Here:  "O_DIRECT takes the way of every write: one answer under Inode.Rw, from begin to end",
		cells: []siblingCell{{off: 16, owner: 0}, {off: 4096, owner: 0, gone: true}, {off: 0, owner: 1}, {off: 8, owner: 2}},
		actors: []actor{{what: "O_DIRECT write, truncate, write", turn: directTurn}, {what: "write", turn: writeTurn},
			{what: "store", maps: true, follows: true, turn: storeTurn}},
	},
	{
		Name: "destroy-mapblocks", Base: ScenarioHealthy, Turns: 16, size: 24,
		Mirrors: "ext4: add i_data_sem protection in ext4_destroy_inline_data_nolock (103ce01cd045, CVE-2025-68261): ext4_map_blocks reads " +
			"the EXTENTS flag while a conversion changes it",
		Here: "the flip changes flag, i_block and mapping under XattrSem and DataSem; a reader that meets another flag than it began with reads again",
		cells: []siblingCell{{off: 16, owner: 0}, {off: 200, owner: 0, gone: true}, {off: 5000, owner: 0, gone: true},
			{off: 40960, owner: 0, gone: true}, {off: 0, owner: 1}, {off: 8, owner: 3}},
		actors: []actor{{what: "extend, truncate", turn: spreadTurn}, {what: "write", turn: writeTurn},
			{what: "read", follows: true, turn: observeTurn}, {what: "store", maps: true, follows: true, turn: storeTurn}},
	},
	{
		Name: "truncate-sendfile", Base: ScenarioHealthy, Turns: 8, size: 24,
		Mirrors: "syzbot 7de5fe447862fc37576f (2026): truncate up to 50 MB leaves the file inline, sendfile hits a BUG; ext4: convert inline data " +
			"to extents when truncate exceeds inline size (ed9356a30e59, CVE-2026-31451, CVE-2026-31452)",
		Here:  "growing past what the inode holds converts first, and fails without a change where that fails",
		cells: []siblingCell{{off: 16, owner: 0}, {off: 3*4096 + 8, owner: 0, gone: true}, {off: 0, owner: 1}, {off: 8, owner: 2}},
		actors: []actor{{what: "truncate to 50 MB, sendfile, truncate", turn: sendTurn}, {what: "write", turn: writeTurn},
			{what: "store", maps: true, follows: true, turn: storeTurn}},
	},
	{
		Name: "pwrite-2^40", Base: ScenarioHealthy, Turns: 12, size: 30,
		Mirrors: "ext4: inline: fix len overflow in ext4_prepare_inline_data (227cb4ca5a65, CVE-2025-38222, syzbot fe2a25dae02a207717a0): " +
			"ftruncate 30, pwrite of 1 byte at 2^40+5",
		Here:  "positions and lengths are 64 bits wide; the end is tested for overflow before anything else",
		cells: []siblingCell{{off: 8, owner: 0}, {off: 0, owner: 1}, {off: 16, owner: 2}},
		actors: []actor{{what: "pwrite far away, truncate", turn: farTurn}, {what: "write", turn: writeTurn},
			{what: "store", maps: true, follows: true, turn: storeTurn}},
	},
	{
		Name: "small-blocks", Base: ScenarioHealthy, BlockSize: 1024, Turns: 16, size: 24,
		Mirrors: "bugzilla 200681: ext4_readpage_inline fills every page but the first with zeros while the file is (still) inline, over valid " +
			"data where blocks are smaller than pages (unmerged patch of 2024-10-11)",
		Here: "a page of an inline file past its bytes is past its end; after a conversion the map answers for every page",
		cells: []siblingCell{{off: 16, owner: 0}, {off: 1024 + 8, owner: 0, gone: true}, {off: 4096 + 8, owner: 0, gone: true},
			{off: 8192 + 8, owner: 0, gone: true}, {off: 0, owner: 1}, {off: 8, owner: 3}},
		actors: []actor{{what: "extend, truncate", turn: spreadTurn}, {what: "write", turn: writeTurn},
			{what: "read", follows: true, turn: observeTurn}, {what: "store", maps: true, follows: true, turn: storeTurn}},
	},
	{
		Name: "seek-hole", Base: ScenarioHealthy, Turns: 16, size: 64,
		Mirrors: "thread of 2023-11-29 (dd bs=64 count=3; Portage): SEEK_HOLE and SEEK_DATA give ENOENT while a conversion is pending; Henriques' " +
			"RFC of 2024, unmerged",
		Here:  "no conversion is ever pending: the map is right when the write that moves the file returns",
		cells: slices.Concat(cellsAt(0, 0, 1, false), cellsAt(2, 8, 2, false)),
		actors: []actor{{what: "append 64 bytes, seek", turn: stepTurn}, {what: "seek", follows: true, turn: seekTurn},
			{what: "store", maps: true, follows: true, turn: storeTurn}},
	},
	{
		Name: fromMapping, Base: ScenarioHealthy, OneProcess: true, Turns: 24, size: 64,
		Mirrors: "Kara's example against the inode lock in ->mmap and in ->page_mkwrite (2025-05-26; Li 2025-03-31): write(2) holds i_rwsem and " +
			"faults its own buffer, which wants mmap_lock; another thread maps and unmaps all the time",
		Here:  "the mount shadows mmap_lock: a strategy that takes the inode's lock under it is convicted of lock-cycle, and the cycle is broken by EDEADLK",
		cells: slices.Concat(cellsAt(0, 0, 4, false), cellsAt(2, 32, 3, false)),
		actors: []actor{{what: "write out of a mapping of the same file", turn: mappedWriteTurn}, {what: "mmap, munmap", follows: true, turn: announceTurn},
			{what: "store", maps: true, follows: true, turn: storeTurn}},
	},
	{
		Name: "retry-gup", Base: ScenarioHealthy, Turns: 16, size: 64,
		Mirrors: "Li's VM_FAULT_RETRY patch (2024-04) and the answer that some callers of get_user_pages forbid a retry: process_vm_writev, " +
			"/proc/self/mem, a direct read into the mapping",
		Here:  "a fault looks the same whoever takes it; one that fails is EFAULT or EIO to the caller (counted as SIGBUS), and nothing is stored",
		cells: slices.Concat(cellsAt(0, 0, 2, false), cellsAt(1, 16, 4, false)),
		actors: []actor{{what: "write", turn: writeTurn},
			{what: "store by process_vm_writev, /proc/self/mem, O_DIRECT read", maps: true, turn: gupTurn}},
	},
	{
		Name: "truncate-store", Base: ScenarioHealthy, Turns: 24, size: 32,
		Mirrors: "bytes past the end in a page that is dirty: ext4_block_truncate_page, generic/030 of xfstests; the objection to copying pages to the " +
			"inode at write-back (2025): i_size is not stable there",
		Here:  "write-back is merged by byte with what the page was filled with, and a truncation cuts that too: what was cut off stays zero",
		cells: slices.Concat(cellsAt(0, 32, 9, true), cellsAt(1, 16, 2, false), cellsAt(2, 0, 2, false)),
		actors: []actor{{what: "append, truncate down and up", turn: growTurn}, {what: "write", turn: writeTurn},
			{what: "store", maps: true, follows: true, turn: storeTurn}},
	},
	{
		Name: mapOnly, Base: ScenarioHealthy, Turns: 16, size: 8,
		Mirrors: "the objection to converting at mmap(2) (Li v1 and v2 2023, Cascardo v2 2025): files leave their inodes that nobody ever stores to",
		Here: "counted, not convicted: files mapped and not touched, and files read through the mapping (a FUSE daemon cannot tell a load from a " +
			"store)",
		cells:  cellsAt(0, 0, 1, false),
		actors: []actor{{what: "map", turn: unstoredTurn}, {what: "map, load", turn: unstoredTurn}},
	},
}
