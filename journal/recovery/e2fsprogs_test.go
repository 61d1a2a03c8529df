package recovery

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"inlinefs/ondisk/jbd2"
)

// commaList makes debugfs's block list.
func commaList(blks []uint64) string {
	var s []string
	for _, b := range blks {
		s = append(s, fmt.Sprint(b))
	}
	return strings.Join(s, ",")
}

// debugfsCase is a log written by debugfs. In its commands %A and %B are
// lists of blocks and %F is a file of data.
type debugfsCase struct {
	name     string
	bs       int
	features string
	blocks   int // in %A; %B is the first half of it
	cmds     []string
	whole    int
	revoked  int
	want     jbd2.Features // bits that must be set
}

func debugfsCases() []debugfsCase {
	const plain, csum = "^metadata_csum,^64bit", "metadata_csum,^64bit"
	const plain64, csum64 = "^metadata_csum,64bit", "metadata_csum,64bit"
	short := []string{"jo", "jw -b %A %F", "jc"}
	revoke := []string{"jo", "jw -b %A %F", "jc", "jo", "jw -r %B", "jc"}
	uncommitted := []string{"jo", "jw -b %A %F -c", "jc"}
	with := func(s []string, jo string) []string {
		out := append([]string(nil), s...)
		for i := range out {
			if out[i] == "jo" {
				out[i] = jo
			}
		}
		return out
	}
	v2 := jbd2.Features{Incompat: jbd2.IncompatCsumV2}
	v3 := jbd2.Features{Incompat: jbd2.IncompatCsumV3}
	b64 := jbd2.Features{Incompat: jbd2.Incompat64Bit}
	return []debugfsCase{
		{"short_trans", 1024, plain, 3, short, 1, 0, jbd2.Features{}},
		{"short_trans_4k", 4096, plain, 3, short, 1, 0, jbd2.Features{}},
		{"short_trans_64bit", 4096, plain64, 3, short, 1, 0, b64},
		{"short_trans_mcsum_64bit", 4096, csum64, 3, with(short, "jo -c"), 1, 0, v3},
		{"short_trans_recover", 1024, csum, 3, append(append([]string(nil), revoke...), "jo", "jw -b %B %F", "jc"), 3, 1, jbd2.Features{}},
		{"long_trans", 1024, plain, 700, short, 1, 0, jbd2.Features{}},
		{"long_trans_mcsum_32bit", 1024, csum, 700, with(short, "jo -c"), 1, 0, v3},
		{"long_trans_mcsum_64bit", 1024, csum64, 700, with(short, "jo -c"), 1, 0, v3},
		{"short_revoke_trans", 1024, plain, 8, revoke, 2, 4, jbd2.Features{Incompat: jbd2.IncompatRevoke}},
		{"short_revoke_trans_mcsum_64bit", 4096, csum64, 8, with(revoke, "jo -c"), 2, 4, v3},
		{"long_revoke_trans", 1024, plain, 700, revoke, 2, 350, jbd2.Features{}},
		{"long_revoke_trans_mcsum_32bit", 1024, csum, 700, with(revoke, "jo -c"), 2, 350, v3},
		{"long_revoke_trans_mcsum_64bit", 1024, csum64, 700, with(revoke, "jo -c"), 2, 350, v3},
		{"short_uncommitted_trans", 1024, plain, 3, uncommitted, 0, 0, jbd2.Features{}},
		{"short_uncommitted_trans_mcsum_64bit", 4096, csum64, 3, with(uncommitted, "jo -c"), 0, 0, v3},
		{"recover_csum2_32bit", 1024, csum, 100, with(revoke, "jo -c -v 2"), 2, 50, v2},
		{"recover_csum2_64bit", 1024, csum64, 100, with(revoke, "jo -c -v 2"), 2, 50, v2},
		{"recover_csum3_64bit", 1024, csum64, 100, with(revoke, "jo -c -v 3"), 2, 50, v3},
	}
}

// TestDebugfsLogs replays logs that debugfs wrote, named after the tests of
// e2fsprogs, and compares the file system with what e2fsck makes of it.
func TestDebugfsLogs(t *testing.T) {
	needTools(t, "mkfs.ext4", "debugfs", "e2fsck")
	for _, c := range debugfsCases() {
		t.Run(c.name, func(t *testing.T) {
			img := mkfs(t, c.bs, c.features)
			img.debugfsLog(t, c)
			if f := img.super(t).Features; f.Incompat&c.want.Incompat != c.want.Incompat {
				t.Fatalf("journal features %v, want %v", f, c.want)
			}
			if !img.needsRecovery(t) {
				img.setDirty(t) // debugfs does it only with a commit block
			}
			res := compare(t, img, nil)
			if res.Transactions != c.whole || res.Revoked != c.revoked {
				t.Fatalf("result %+v, want %d transactions, %d revoked", res, c.whole, c.revoked)
			}
			want := 0
			if c.whole > 0 {
				want = c.blocks - c.revoked
			}
			if c.name == "short_trans_recover" {
				want = c.blocks + c.blocks/2 - c.revoked
			}
			if res.Blocks < want {
				t.Fatalf("%d blocks replayed, want at least %d", res.Blocks, want)
			}
		})
	}
}

// debugfsLog runs the case's commands.
func (m *image) debugfsLog(t *testing.T, c debugfsCase) {
	t.Helper()
	dir := filepath.Dir(m.path)
	data, cmds := filepath.Join(dir, "data"), filepath.Join(dir, "cmds")
	p := make([]byte, c.blocks*c.bs)
	for i := range p {
		p[i] = byte(i/c.bs + 1)
	}
	copy(p, []byte{0xc0, 0x3b, 0x39, 0x98}) // the first block needs an escape
	if err := os.WriteFile(data, p, 0o600); err != nil {
		t.Fatal(err)
	}
	blks := m.target(c.blocks)
	half := blks[:len(blks)/2]
	text := strings.NewReplacer("%A", commaList(blks), "%B", commaList(half), "%F", data).
		Replace(strings.Join(c.cmds, "\n") + "\n")
	if err := os.WriteFile(cmds, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	tool(t, []int{0}, "debugfs", "-w", "-f", cmds, m.path)
}

// compare replays one copy with e2fsck, one with Recover, which must give
// wantErr, and compares them.
func compare(t *testing.T, img *image, wantErr error) Result {
	t.Helper()
	theirs, ours := img.copyTo(t, "theirs.img"), img.copyTo(t, "ours.img")
	out := tool(t, []int{0, 1, 2, 3, 4, 12}, "e2fsck", "-E", "journal_only", "-fy", theirs.path)
	res, err := ours.recover(t)
	if !errors.Is(err, wantErr) {
		t.Fatalf("recovery: error %v, want %v\ne2fsck said:\n%s", err, wantErr, out)
	}
	theirs.diff(t, ours)
	if wantErr != nil {
		return res
	}
	a, b := theirs.super(t), ours.super(t)
	if a.Start != 0 || b.Start != 0 || a.Sequence != b.Sequence {
		t.Fatalf("journal superblock: e2fsck start %d sequence %d, recovery start %d sequence %d\ne2fsck said:\n%s",
			a.Start, a.Sequence, b.Start, b.Sequence, out)
	}
	return res
}

// synthetic makes a hand-made log on a fresh image and compares.
func synthetic(t *testing.T, base *image, c recoverCase) {
	img := base.copyTo(t, "log.img")
	sb := img.super(t)
	sb.Features = c.feat
	sb.ChecksumType = 0
	if c.feat.CsumV2or3() {
		sb.ChecksumType = jbd2.ChecksumCRC32C
	} else {
		sb.Checksum = 0
	}
	start := c.start
	if start > 32 { // counted from the end of a log of 64 blocks
		start = sb.LogEnd() - (64 - start)
	}
	b, err := buildOn(sb, start, c.tid)
	if err != nil {
		t.Fatal(err)
	}
	blks := img.target(16)
	at := func(b uint64) uint64 { return blks[b&0xf] }
	for _, x := range c.txns {
		y := x
		y.writes, y.revokes = nil, nil
		for _, w := range x.writes {
			y.writes = append(y.writes, write{at(w.blk), w.data})
		}
		for _, r := range x.revokes {
			y.revokes = append(y.revokes, at(r))
		}
		if err := b.add(y); err != nil {
			t.Fatal(err)
		}
	}
	img.install(t, b)
	res := compare(t, img, c.err)
	if c.err == nil && res.Transactions != c.whole {
		t.Fatalf("result %+v, want %d transactions", res, c.whole)
	}
}

// TestSyntheticLogs puts the hand-made logs of TestRecover, wrap-around,
// escapes, old checksums and damage included, before e2fsck.
func TestSyntheticLogs(t *testing.T) {
	needTools(t, "mkfs.ext4", "debugfs", "e2fsck")
	base := mkfs(t, 1024, "^metadata_csum,64bit")
	for _, c := range recoverCases() {
		if !c.differs {
			t.Run(c.name, func(t *testing.T) { synthetic(t, base, c) })
		}
	}
}

// TestRandomLogs compares recovery of random logs with e2fsck's.
func TestRandomLogs(t *testing.T) {
	needTools(t, "mkfs.ext4", "debugfs", "e2fsck")
	base := mkfs(t, 1024, "^metadata_csum,64bit")
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))
	feats := []jbd2.Features{featNone, featV1, featV2, featV3}
	for i := range 8 {
		c := recoverCase{feat: feats[i%len(feats)], start: 33 + rnd.Uint32N(31), tid: 1 + rnd.Uint32N(1<<30)}
		for range 1 + rnd.IntN(12) {
			c.txns = append(c.txns, randomTxn(rnd))
		}
		c.whole = len(c.txns)
		if rnd.IntN(2) == 0 {
			c.whole--
			c.txns[c.whole].noCommit = true
		}
		t.Run(fmt.Sprintf("%d_%v", i, c.feat), func(t *testing.T) { synthetic(t, base, c) })
	}
}

func randomTxn(rnd *rand.Rand) txn {
	x := txn{}
	for range rnd.IntN(9) {
		d := fill(1024, byte(rnd.Uint32()))
		if rnd.IntN(4) == 0 {
			copy(d, magicBlock()[:4])
		}
		x.writes = append(x.writes, write{rnd.Uint64N(16), d})
	}
	for range rnd.IntN(4) {
		x.revokes = append(x.revokes, rnd.Uint64N(16))
	}
	return x
}
