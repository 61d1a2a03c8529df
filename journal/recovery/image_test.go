package recovery

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"inlinefs/ondisk/jbd2"
)

// image is an ext4 image file with an internal journal.
type image struct {
	path    string
	bs      int
	blocks  uint64
	journal []uint64 // file system block of every journal block
}

// tool runs one of the e2fsprogs and gives its output; it fails the test on an
// exit code not in ok.
func tool(t *testing.T, ok []int, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(findTool(name), args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "DEBUGFS_PAGER=__none__", "MKE2FS_SYNC=0")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	if cmd.ProcessState == nil {
		t.Fatalf("%s: %v", name, err)
	}
	for _, c := range ok {
		if cmd.ProcessState.ExitCode() == c {
			return out.String()
		}
	}
	t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out.String())
	return ""
}

// findTool looks in the administrator's directories too; "" if it is nowhere.
func findTool(name string) string {
	if p, err := exec.LookPath(name); err == nil {
		return p
	}
	for _, dir := range []string{"/usr/sbin", "/sbin", "/usr/local/sbin"} {
		p := filepath.Join(dir, name)
		if _, err := os.Stat(p); err == nil {
			return p
		}
	}
	return ""
}

func needTools(t *testing.T, names ...string) {
	t.Helper()
	for _, n := range names {
		if findTool(n) == "" {
			t.Skipf("%s is not installed", n)
		}
	}
}

// mkfs makes an image with a journal of 1024 blocks.
func mkfs(t *testing.T, bs int, features string) *image {
	t.Helper()
	path := filepath.Join(t.TempDir(), "fs.img")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	size := bs * 3072
	if err := f.Truncate(int64(size)); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	tool(t, []int{0}, "mkfs.ext4", "-q", "-F", "-b", strconv.Itoa(bs), "-O", "has_journal,^resize_inode,"+features,
		"-J", fmt.Sprintf("size=%d", bs>>10), "-E", "lazy_itable_init=1,nodiscard", "-U", "6b1ad5a1-3f2c-4a52-9d6e-0123456789ab", path)
	img := &image{path: path, bs: bs, blocks: uint64(size / bs)}
	img.loadMap(t)
	return img
}

// loadMap finds the blocks of inode 8, which has no holes.
func (m *image) loadMap(t *testing.T) {
	t.Helper()
	for _, line := range strings.Split(tool(t, []int{0}, "debugfs", "-R", "ex <8>", m.path), "\n") {
		// Level Entries Logical Physical Length Flags, of which leaf lines have
		// "n/ n i/ n first - last first - last count".
		fs := strings.Fields(strings.NewReplacer("/", " ", "-", " ").Replace(line))
		var n []uint64
		for _, s := range fs {
			v, err := strconv.ParseUint(s, 10, 64)
			if err != nil {
				break
			}
			n = append(n, v)
		}
		if len(n) != 9 || n[0] != n[1] {
			continue
		}
		for i := n[4]; i <= n[5]; i++ {
			if i != uint64(len(m.journal)) {
				t.Fatalf("journal block %d has no place: %s", len(m.journal), line)
			}
			m.journal = append(m.journal, n[6]+i-n[4])
		}
	}
	if len(m.journal) < 1024 {
		t.Fatalf("%d journal blocks found, want at least 1024", len(m.journal))
	}
}

// copyTo gives a copy of the image.
func (m *image) copyTo(t *testing.T, name string) *image {
	t.Helper()
	p, err := os.ReadFile(m.path)
	if err != nil {
		t.Fatal(err)
	}
	c := *m
	c.path = filepath.Join(filepath.Dir(m.path), name)
	f, err := os.Create(c.path)
	if err != nil {
		t.Fatal(err)
	}
	zero := make([]byte, m.bs)
	for off := 0; off < len(p); off += m.bs { // keep the holes
		if q := p[off : off+m.bs]; !bytes.Equal(q, zero) {
			if _, err := f.WriteAt(q, int64(off)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := f.Truncate(int64(len(p))); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return &c
}

// imageLog is the journal in an image.
type imageLog struct {
	f *os.File
	m *image
}

func (l *imageLog) ReadBlock(blk uint32, p []byte) error {
	if int64(blk) >= int64(len(l.m.journal)) {
		return fmt.Errorf("journal block %d of %d", blk, len(l.m.journal))
	}
	_, err := l.f.ReadAt(p, int64(l.m.journal[blk])*int64(l.m.bs))
	return err
}

func (l *imageLog) WriteBlock(blk uint32, p []byte) error {
	_, err := l.f.WriteAt(p, int64(l.m.journal[blk])*int64(l.m.bs))
	return err
}

func (l *imageLog) Flush() error { return nil }

// imageTarget is the file system in an image.
type imageTarget struct {
	f *os.File
	m *image
}

func (g *imageTarget) WriteBlock(blk uint64, p []byte) error {
	_, err := g.f.WriteAt(p, int64(blk)*int64(g.m.bs))
	return err
}

func (g *imageTarget) Flush() error { return nil }

// recover runs our recovery on the image.
func (m *image) recover(t *testing.T) (Result, error) {
	t.Helper()
	f, err := os.OpenFile(m.path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	res, err := Recover(&imageLog{f, m}, &imageTarget{f, m}, Options{
		BlockSize: m.bs, LogBlocks: uint32(len(m.journal)), FSBlocks: m.blocks,
	})
	if cerr := f.Close(); cerr != nil {
		t.Fatal(cerr)
	}
	return res, err
}

// super reads the journal's superblock.
func (m *image) super(t *testing.T) *jbd2.Superblock {
	t.Helper()
	f, err := os.Open(m.path)
	if err != nil {
		t.Fatal(err)
	}
	p := make([]byte, m.bs)
	if err := (&imageLog{f, m}).ReadBlock(0, p); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if err := jbd2.VerifySuperblock(p); err != nil {
		t.Fatal(err)
	}
	sb, err := jbd2.DecodeSuperblock(p)
	if err != nil {
		t.Fatal(err)
	}
	return sb
}

// install writes a hand-made log over the journal and says that the file
// system needs recovery.
func (m *image) install(t *testing.T, b *logBuilder) {
	t.Helper()
	f, err := os.OpenFile(m.path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	l := &imageLog{f, m}
	for i, p := range b.log.blocks {
		if err := l.WriteBlock(uint32(i), p); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	m.setDirty(t)
}

// setDirty says that the file system needs recovery and that the log has
// something in it.
func (m *image) setDirty(t *testing.T) {
	t.Helper()
	tool(t, []int{0}, "debugfs", "-w", "-R", "feature +needs_recovery", m.path)
	sb := m.super(t)
	if sb.Start != 0 {
		return
	}
	sb.Start = sb.First
	f, err := os.OpenFile(m.path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	l, p := &imageLog{f, m}, make([]byte, m.bs)
	if err := l.ReadBlock(0, p); err != nil {
		t.Fatal(err)
	}
	if err := sb.Encode(p); err != nil {
		t.Fatal(err)
	}
	if err := l.WriteBlock(0, p); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

// target gives n block numbers outside the journal, from the end of the file
// system down.
func (m *image) target(n int) []uint64 {
	in := map[uint64]bool{}
	for _, b := range m.journal {
		in[b] = true
	}
	var out []uint64
	for b := m.blocks - 5; len(out) < n && b > 0; b-- {
		if !in[b] {
			out = append(out, b)
		}
	}
	return out
}

// diff compares two images but for the journal and the superblock, of which
// only the state of recovery may differ.
func (m *image) diff(t *testing.T, o *image) {
	t.Helper()
	skip := map[uint64]bool{}
	for _, b := range m.journal {
		skip[b] = true
	}
	a, b := m.open(t), o.open(t)
	defer func() {
		if err := a.Close(); err != nil {
			t.Error(err)
		}
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	}()
	p, q := make([]byte, m.bs), make([]byte, m.bs)
	for blk := range m.blocks {
		if skip[blk] {
			continue
		}
		for f, p := range map[*os.File][]byte{a: p, b: q} {
			if _, err := f.ReadAt(p, int64(blk)*int64(m.bs)); err != nil && err != io.EOF {
				t.Fatal(err)
			}
		}
		if at := 1024 - int64(blk)*int64(m.bs); at >= 0 && at < int64(m.bs) {
			clear(p[at : at+1024])
			clear(q[at : at+1024])
		}
		if !bytes.Equal(p, q) {
			i := 0
			for p[i] == q[i] {
				i++
			}
			t.Fatalf("block %d differs at byte %d: e2fsck %x, recovery %x", blk, i, p[i], q[i])
		}
	}
}

func (m *image) open(t *testing.T) *os.File {
	t.Helper()
	f, err := os.Open(m.path)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// needsRecovery says whether the superblock asks for recovery.
func (m *image) needsRecovery(t *testing.T) bool {
	t.Helper()
	f := m.open(t)
	p := make([]byte, 4)
	if _, err := f.ReadAt(p, 1024+0x60); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return binary.LittleEndian.Uint32(p)&4 != 0
}
