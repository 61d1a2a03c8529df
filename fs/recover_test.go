package fs

import (
	"bytes"
	"encoding/binary"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"inlinefs/blockdev"
	"inlinefs/internal/testimage"
	"inlinefs/ondisk/jbd2"
	"inlinefs/super"
)

// recipe is a journal made by debugfs, perhaps damaged, and what becomes of a mount. In its commands %A stands for the blocks of the
// file "f" in the image, %B for the first half of them, and %F for a host file of new content.
type recipe struct {
	name   string
	csum   bool
	cmds   []string
	damage func(t *testing.T, l *logImage)
	// refused is a part of the message when the read-write mount is refused, "" when it is not.
	refused string
	// refusedRO is the same for a read-only one.
	refusedRO string
	// a and b say what the two halves of f hold after the mount: "old" or "new"; "" for any.
	a, b string
	// half says that a refused mount has replayed a part.
	half bool
}

const recipeBlocks = 8

func recipes() []recipe {
	short := []string{"jo", "jw -b %A %F", "jc"}
	revoke := []string{"jo", "jw -b %A %F", "jc", "jo", "jw -r %B", "jc"}
	twice := []string{"jo", "jw -b %A %F", "jc", "jo", "jw -b %B %F", "jc"}
	csum := func(s []string) []string {
		out := append([]string(nil), s...)
		for i := range out {
			if out[i] == "jo" {
				out[i] = "jo -c"
			}
		}
		return out
	}
	return []recipe{
		{name: "short_trans", cmds: short, a: "new", b: "new"},
		{name: "short_trans_mcsum", csum: true, cmds: csum(short), a: "new", b: "new"},
		{name: "short_trans_recover", cmds: append(append([]string(nil), short...), "jr"), a: "new", b: "new"},
		{name: "short_trans_recover_mcsum_64bit", csum: true, cmds: append(csum(short), "jr"), a: "new", b: "new"},
		{name: "short_trans_open_recover", cmds: append(append([]string(nil), short...), "jo", "jr", "jc"), a: "new", b: "new"},
		{name: "short_trans_old_csum", cmds: []string{"jo -c -v 1", "jw -b %A %F", "jc"}, a: "new", b: "new"},
		{name: "short_revoke_trans", cmds: revoke, a: "old", b: "new"},
		{name: "short_revoke_trans_mcsum", csum: true, cmds: csum(revoke), a: "old", b: "new"},
		{name: "short_uncommitted_trans", cmds: []string{"jo", "jw -b %A %F -c", "jc"}, a: "old", b: "old"},
		{name: "short_uncommitted_trans_mcsum", csum: true, cmds: []string{"jo -c", "jw -b %A %F -c", "jc"}, a: "old", b: "old"},
		{name: "recover_csum2", csum: true, cmds: []string{"jo -c -v 2", "jw -b %A %F", "jc"}, a: "new", b: "new"},
		{name: "corrupt_commit_csum", csum: true, cmds: csum(short), damage: flip(jbd2.TypeCommit, 0, 16),
			refused: "commit block with bad checksum", a: "old", b: "old"},
		{name: "corrupt_commit_tid", cmds: short, damage: flip(jbd2.TypeCommit, 0, 8), a: "old", b: "old"},
		{name: "corrupt_descr_tid", cmds: short, damage: flip(jbd2.TypeDescriptor, 0, 8), a: "old", b: "old"},
		{name: "corrupt_descr_tid_2", cmds: twice, damage: flip(jbd2.TypeDescriptor, 1, 8), a: "new", b: "new"},
		{name: "corrupt_descr_csum", csum: true, cmds: csum(short), damage: flip(jbd2.TypeDescriptor, 0, -1),
			refused: "checksum", refusedRO: "checksum"},
		{name: "corrupt_journal_block", csum: true, cmds: csum(short), damage: flipData, refused: "checksum", refusedRO: "checksum", half: true},
		{name: "corrupt_revoke_block", cmds: revoke, damage: flip(jbd2.TypeRevoke, 0, 0), a: "new", b: "new"},
		{name: "corrupt_revoke_csum", csum: true, cmds: csum(revoke), damage: flip(jbd2.TypeRevoke, 0, -1),
			refused: "checksum", refusedRO: "checksum"},
		{name: "corrupt_revoke_rcount", cmds: revoke, damage: flip(jbd2.TypeRevoke, 0, 12), refused: "revoke", refusedRO: "revoke"},
		{name: "corrupt_sb_csum", csum: true, cmds: csum(short), damage: super0(0xFC), refused: "checksum", refusedRO: "checksum"},
		{name: "corrupt_sb_magic", cmds: short, damage: super0(0), refused: "magic", refusedRO: "magic"},
		{name: "missing_journal", cmds: append(append([]string(nil), short...), "clri <8>"), refused: "journal inode", refusedRO: "journal inode"},
		{name: "external_journal", cmds: append(append([]string(nil), short...), "ssv journal_inum 0", "ssv journal_dev 0x700"),
			refused: "external device", refusedRO: "external device"},
		{name: "no_journal_named", cmds: append(append([]string(nil), short...), "ssv journal_inum 0"), refused: "journal", refusedRO: "journal"},
	}
}

// logImage is an image whose journal is looked into.
type logImage struct {
	path   string
	blocks []uint64
	bs     int
}

func (l *logImage) read(t *testing.T, n int) []byte {
	t.Helper()
	f, err := os.Open(l.path)
	must(t, err)
	defer f.Close()
	p := make([]byte, l.bs)
	_, err = f.ReadAt(p, int64(l.blocks[n])*int64(l.bs))
	must(t, err)
	return p
}

// find is the place in the log of the nth block of a type.
func (l *logImage) find(t *testing.T, typ jbd2.BlockType, nth int) int {
	t.Helper()
	for n := 1; n < len(l.blocks); n++ {
		p := l.read(t, n)
		if binary.BigEndian.Uint32(p) != jbd2.Magic || jbd2.BlockType(binary.BigEndian.Uint32(p[4:])) != typ {
			continue
		}
		if nth == 0 {
			return n
		}
		nth--
	}
	t.Fatalf("the log has no such block of type %v", typ)
	return 0
}

// invert turns the byte at off of log block n around; -1 is the last byte.
func (l *logImage) invert(t *testing.T, n, off int) {
	t.Helper()
	p := l.read(t, n)
	if off < 0 {
		off += len(p)
	}
	poke(t, l.path, int64(l.blocks[n])*int64(l.bs)+int64(off), string([]byte{^p[off]}))
}

func flip(typ jbd2.BlockType, nth, off int) func(*testing.T, *logImage) {
	return func(t *testing.T, l *logImage) { l.invert(t, l.find(t, typ, nth), off) }
}

func flipData(t *testing.T, l *logImage) { l.invert(t, l.find(t, jbd2.TypeDescriptor, 0)+1, 100) }

func super0(off int) func(*testing.T, *logImage) {
	return func(t *testing.T, l *logImage) { l.invert(t, 0, off) }
}

// recipeImage makes the image of a recipe.
func recipeImage(t *testing.T, r recipe) string {
	t.Helper()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "f"), strings.Repeat("o", recipeBlocks*1024))
	o := testimage.Options{SizeMiB: 16, BlockSize: 1024, InodeSize: 256, Inodes: 512, Features: "has_journal,^64bit,^metadata_csum", Populate: dir}
	if r.csum {
		o.Features = "has_journal,64bit,metadata_csum"
	}
	img := testimage.Make(t, o)
	news := filepath.Join(t.TempDir(), "news")
	write(t, news, strings.Repeat("n", recipeBlocks*1024))
	blks := strings.Fields(testimage.Debugfs(t, img, false, "blocks /f"))
	if len(blks) != recipeBlocks {
		t.Fatalf("blocks of f: %v, want %d", blks, recipeBlocks)
	}
	l := logOf(t, img)
	sub := strings.NewReplacer("%A", strings.Join(blks, ","), "%B", strings.Join(blks[:recipeBlocks/2], ","), "%F", news)
	// All in one session: the journal stays open between its commands.
	var cmds []string
	for _, c := range r.cmds {
		cmds = append(cmds, sub.Replace(c))
	}
	debugfsScript(t, img, cmds)
	if r.damage != nil {
		r.damage(t, l)
	}
	return img
}

// debugfsScript runs commands in one session.
func debugfsScript(t *testing.T, img string, cmds []string) {
	t.Helper()
	script := filepath.Join(t.TempDir(), "script")
	write(t, script, strings.Join(cmds, "\n")+"\n")
	debugfs, err := exec.LookPath("debugfs")
	if err != nil {
		t.Skip("needs debugfs (package e2fsprogs)")
	}
	if out, err := exec.Command(debugfs, "-w", "-f", script, img).CombinedOutput(); err != nil {
		t.Fatalf("debugfs: %v\n%s", err, out)
	}
}

// logOf maps the journal of an image that is sound.
func logOf(t *testing.T, img string) *logImage {
	t.Helper()
	dev, err := blockdev.OpenFile(img, blockdev.FileOptions{ReadOnly: true})
	must(t, err)
	defer dev.Close()
	s, err := super.Open(dev, super.Options{Log: slog.New(&record{}), ReadOnly: true, NoRecovery: true, Lenient: true})
	must(t, err)
	blocks, err := journalBlocks(s)
	must(t, err)
	return &logImage{path: img, blocks: blocks, bs: s.BlockSize}
}

// refusal checks a mount's error: refused, with the message.
func refusal(t *testing.T, what string, err error, part string) {
	t.Helper()
	if !errors.Is(err, super.ErrRefused) || !strings.Contains(err.Error(), part) {
		t.Errorf("%s: %v, want a refusal that says %q", what, err, part)
	}
}

// TestJournalRecipes mounts the journals that e2fsprogs tests its recovery with: what is replayed, what is refused with which words, and
// what a read-only mount does to the image, which is nothing.
func TestJournalRecipes(t *testing.T) {
	testimage.FuseUsable(t)
	for _, r := range recipes() {
		t.Run(r.name, func(t *testing.T) {
			img := recipeImage(t, r)
			before, err := os.ReadFile(img)
			must(t, err)
			ro, err := tryMount(t, config{img: img, broken: true, super: super.Options{ReadOnly: true}})
			switch {
			case r.refusedRO != "":
				refusal(t, "read-only mount", err, r.refusedRO)
			case err != nil:
				t.Errorf("read-only mount: %v", err)
			default:
				r.content(t, ro)
				want(t, "write to a read-only mount", os.WriteFile(ro.path("new"), nil, 0o644), syscall.EROFS)
				ro.unmount()
			}
			same(t, "a read-only mount", img, before)
			rw, err := tryMount(t, config{img: img, broken: true})
			if r.refused != "" {
				refusal(t, "mount", err, r.refused)
				if !r.half {
					same(t, "a refused mount", img, before)
				}
				return
			}
			must(t, err)
			r.content(t, rw)
			write(t, rw.path("new"), "new")
			rw.unmount()
			if rw.err != nil {
				t.Error(rw.err)
			}
			sound(t, img, true)
		})
	}
}

func (r recipe) content(t *testing.T, m *mounted) {
	t.Helper()
	got := read(t, m.path("f"))
	half := len(got) / 2
	for _, x := range []struct{ name, got, want string }{{"first", got[:half], r.a}, {"second", got[half:], r.b}} {
		if x.want != "" && x.got != strings.Repeat(x.want[:1], half) {
			t.Errorf("the %s half of f begins %q, want the %s content", x.name, x.got[:1], x.want)
		}
	}
}

func same(t *testing.T, what, img string, before []byte) {
	t.Helper()
	after, err := os.ReadFile(img)
	must(t, err)
	if !bytes.Equal(before, after) {
		t.Errorf("%s changed the image", what)
	}
}

// TestNoRecovery: a dirty image mounts with norecovery for reading what is there; without it and without recovery it is refused.
func TestNoRecovery(t *testing.T) {
	testimage.FuseUsable(t)
	img := recipeImage(t, recipes()[0])
	before, err := os.ReadFile(img)
	must(t, err)
	m := mountConfig(t, config{img: img, broken: true, super: super.Options{ReadOnly: true, NoRecovery: true}})
	recipe{a: "old", b: "old"}.content(t, m)
	m.unmount()
	same(t, "a mount without recovery", img, before)
	dev, err := blockdev.OpenFile(img, blockdev.FileOptions{ReadOnly: true})
	must(t, err)
	_, err = super.Open(dev, super.Options{Log: slog.New(&record{})})
	refusal(t, "an image that was not recovered", err, "needs recovery")
	must(t, dev.Close())
	_, err = tryMount(t, config{img: img, broken: true, super: super.Options{NoRecovery: true}})
	refusal(t, "norecovery without ro", err, "norecovery works with ro only")
	same(t, "a refused mount", img, before)
}

// TestDataJournalDefault: an image whose superblock asks for data=journal is refused for writing with the ways out, which work.
func TestDataJournalDefault(t *testing.T) {
	testimage.FuseUsable(t)
	img := testimage.Make(t, journalled())
	tune, err := exec.LookPath("tune2fs")
	if err != nil {
		t.Skip("needs tune2fs (package e2fsprogs)")
	}
	setDefault := func(o string) {
		t.Helper()
		if out, err := exec.Command(tune, "-o", o, img).CombinedOutput(); err != nil {
			t.Fatalf("tune2fs: %v\n%s", err, out)
		}
	}
	setDefault("journal_data")
	_, err = tryMount(t, config{img: img, broken: true})
	refusal(t, "data=journal by default", err, "tune2fs -o ^journal_data")
	for _, o := range []super.Options{{ReadOnly: true}, {Ordered: true}} {
		m := mountConfig(t, config{img: img, super: o})
		m.finish()
	}
	setDefault("^journal_data")
	mountConfig(t, config{img: img}).finish()
}
