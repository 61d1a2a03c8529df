package testimage

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"
)

// Area is a bit set of the places Damage writes to.
type Area uint

// The places of an image that hold metadata.
const (
	Superblock  Area = 1 << iota // the 1024 bytes at offset 1024
	Descriptors                  // the group descriptor blocks after the primary superblock
	Bitmaps                      // block and inode bitmaps of each group
	InodeTable                   // the used part of each group's inode table
	Directories                  // data blocks of directories below the root, found by debugfs
	AllAreas    = Superblock | Descriptors | Bitmaps | InodeTable | Directories
)

// span is a byte range of an image.
type span struct{ off, length int64 }

// Damage overwrites n bytes of the image, each chosen by rng in one of the areas; a byte may get the value it had. The same rng state
// and image give the same damage. It returns one line per byte written ("offset: old -> new") for the test's log. Areas are found
// through dumpe2fs and debugfs before the first byte is written; the test is skipped without them.
func Damage(t testing.TB, img string, rng *rand.Rand, n int, areas Area) string {
	t.Helper()
	spans := layout(t, img, areas)
	if len(spans) == 0 {
		t.Fatalf("damage %s: areas %#x hold no bytes", img, uint(areas))
	}
	f, err := os.OpenFile(img, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var log strings.Builder
	for range n {
		s := spans[rng.IntN(len(spans))]
		off := s.off + rng.Int64N(s.length)
		var old [1]byte
		if _, err := f.ReadAt(old[:], off); err != nil {
			t.Fatalf("damage %s at %d: %v", img, off, err)
		}
		b := [1]byte{damagedByte(old[0], rng)}
		if _, err := f.WriteAt(b[:], off); err != nil {
			t.Fatalf("damage %s at %d: %v", img, off, err)
		}
		fmt.Fprintf(&log, "%d: %#02x -> %#02x\n", off, old[0], b[0])
	}
	return log.String()
}

// damagedByte picks the kind of damage that parsers get wrong most: extremes, a flipped bit, or anything.
func damagedByte(old byte, rng *rand.Rand) byte {
	switch rng.IntN(4) {
	case 0:
		return 0
	case 1:
		return 0xff
	case 2:
		return old ^ 1<<rng.IntN(8)
	}
	return byte(rng.IntN(256))
}

// layout is the byte ranges of the wanted areas. A range appears once however large it is, so that the superblock is hit as often as
// a long inode table.
func layout(t testing.TB, img string, areas Area) []span {
	t.Helper()
	out, err := command(tool(t, "dumpe2fs"), img).Output()
	if err != nil {
		t.Fatalf("dumpe2fs %s: %v", img, err)
	}
	text := string(out)
	block := headerValue(text, "Block size:")
	inodeSize := headerValue(text, "Inode size:")
	if block == 0 || inodeSize == 0 {
		t.Fatalf("dumpe2fs %s: no block size (%d) or inode size (%d) in\n%s", img, block, inodeSize, text)
	}
	var spans []span
	if areas&Superblock != 0 {
		spans = append(spans, span{1024, 1024})
	}
	spans = append(spans, groupSpans(text, areas, block)...)
	if areas&Directories != 0 {
		spans = append(spans, directorySpans(t, img, block)...)
	}
	return spans
}

// groupSpans reads the group part of dumpe2fs: the first descriptor range, and each group's bitmaps and table.
func groupSpans(text string, areas Area, block int64) []span {
	var spans []span
	descriptors := false
	add := func(want Area, line, key string, limit int64) {
		first, last, ok := blockRange(line, key)
		if ok && areas&want != 0 {
			spans = append(spans, span{first * block, min((last-first+1)*block, limit)})
		}
	}
	sc := bufio.NewScanner(strings.NewReader(text))
	for sc.Scan() {
		line := strings.TrimSpace(sc.Text())
		if _, _, ok := blockRange(line, "Group descriptors at "); ok && !descriptors {
			descriptors = true
			add(Descriptors, line, "Group descriptors at ", 1<<16)
		}
		add(Bitmaps, line, "Block bitmap at ", block)
		add(Bitmaps, line, "Inode bitmap at ", block)
		// Inodes are handed out from the front: damage far into an unused table would never be read.
		add(InodeTable, line, "Inode table at ", 4*block)
	}
	return spans
}

// blockRange finds "key N" or "key N-M" in a line of dumpe2fs.
func blockRange(line, key string) (first, last int64, ok bool) {
	_, rest, ok := strings.Cut(line, key)
	if !ok {
		return 0, 0, false
	}
	rest = rest[:len(rest)-len(strings.TrimLeft(rest, "0123456789-"))]
	a, b, isRange := strings.Cut(rest, "-")
	first, err := strconv.ParseInt(a, 10, 64)
	if err != nil {
		return 0, 0, false
	}
	if !isRange {
		return first, first, true
	}
	last, err = strconv.ParseInt(b, 10, 64)
	return first, last, err == nil && last >= first
}

// headerValue is the number after a key of dumpe2fs's header, 0 when there is none.
func headerValue(text, key string) int64 {
	_, rest, ok := strings.Cut(text, "\n"+key)
	if !ok {
		return 0
	}
	line, _, _ := strings.Cut(rest, "\n")
	n, err := strconv.ParseInt(strings.TrimSpace(line), 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// directorySpans are the blocks of the root directory and of the directories right below it; inline directories have none and are
// part of the inode table.
func directorySpans(t testing.TB, img string, block int64) []span {
	t.Helper()
	dirs := []string{"<2>"}
	for line := range strings.Lines(Debugfs(t, img, false, "ls -p /")) {
		// /inode/mode/uid/gid/name/size/
		if f := strings.Split(line, "/"); len(f) > 6 && strings.HasPrefix(f[2], "04") && f[5] != "." && f[5] != ".." {
			dirs = append(dirs, "<"+f[1]+">")
		}
	}
	var spans []span
	for _, d := range dirs {
		for _, word := range strings.Fields(Debugfs(t, img, false, "blocks "+d)) {
			if n, err := strconv.ParseInt(word, 10, 64); err == nil && n > 0 {
				spans = append(spans, span{n * block, block})
			}
		}
	}
	return spans
}
