package xattr

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"inlinefs/blockdev"
	"inlinefs/inode"
	"inlinefs/internal/fserr"
	"inlinefs/internal/testimage"
	"inlinefs/journal"
	"inlinefs/ondisk"
	"inlinefs/super"
)

// mount is an image opened without a client.
type mount struct {
	t     *testing.T
	dev   *blockdev.File
	fs    *super.FS
	cache *inode.Cache
}

func open(t *testing.T, img string) *mount {
	t.Helper()
	dev, err := blockdev.OpenFile(img, blockdev.FileOptions{})
	if err != nil {
		t.Fatal(err)
	}
	f, err := super.Open(dev, super.Options{Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Begin(); err != nil {
		t.Fatal(err)
	}
	return &mount{t: t, dev: dev, fs: f, cache: inode.NewCache(f)}
}

func (m *mount) close() {
	m.t.Helper()
	if n := m.fs.ErrorCount(); n != 0 {
		m.t.Errorf("the mount saw %d errors, want none", n)
	}
	if err := m.fs.Close(); err != nil {
		m.t.Error(err)
	}
	if err := m.dev.Close(); err != nil {
		m.t.Error(err)
	}
}

func (m *mount) get(ino uint32) *inode.Inode {
	m.t.Helper()
	i, err := m.cache.Get(ino)
	if err != nil {
		m.t.Fatal(err)
	}
	return i
}

// do runs fn in a handle with the credits that Set asks for; its violations are the test's failures.
func (m *mount) do(i *inode.Inode, fn func(h *journal.Handle) error) error {
	m.t.Helper()
	task := m.fs.Journal.NewTask("setxattr", 0)
	i.Rw.Lock()
	defer i.Rw.Unlock()
	h, err := m.fs.Journal.Start(task, journal.Xattr, SetCredits(i))
	if err != nil {
		m.t.Fatal(err)
	}
	err = fn(h)
	if e := h.Stop(); e != nil {
		m.t.Errorf("stop: %v", e)
	}
	if e := task.End(); e != nil {
		m.t.Error(e)
	}
	return err
}

func (m *mount) set(i *inode.Inode, name string, value []byte, flags int) error {
	m.t.Helper()
	return m.do(i, func(h *journal.Handle) error { return Set(h, i, name, value, flags) })
}

func (m *mount) remove(i *inode.Inode, name string) error {
	m.t.Helper()
	return m.do(i, func(h *journal.Handle) error { return Remove(h, i, name) })
}

// compare holds all attributes of i against want.
func (m *mount) compare(i *inode.Inode, want map[string][]byte) error {
	n, err := List(i, nil)
	if err != nil {
		return err
	}
	names := make([]byte, n)
	if _, err := List(i, names); err != nil {
		return err
	}
	got := strings.Split(strings.TrimSuffix(string(names), "\x00"), "\x00")
	if n == 0 {
		got = nil
	}
	slices.Sort(got)
	if wantNames := slices.Sorted(maps.Keys(want)); !slices.Equal(got, wantNames) {
		return fmt.Errorf("names %q, want %q", got, wantNames)
	}
	buf := make([]byte, 65536)
	for name, v := range want {
		n, err := Get(nil, i, name, buf)
		if err != nil || !bytes.Equal(buf[:n], v) {
			return fmt.Errorf("%s: %x, %w; want %x", name, buf[:n], err, v)
		}
	}
	return nil
}

// files makes an image from opt with n files of size bytes and returns it with their inode numbers; the files are f0, f1...
func files(t *testing.T, opt testimage.Options, n, size int) (img string, inos []uint32) {
	t.Helper()
	opt.Populate = t.TempDir()
	for k := range n {
		if err := os.WriteFile(filepath.Join(opt.Populate, fmt.Sprintf("f%d", k)), bytes.Repeat([]byte{'x'}, size), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	opt.SizeMiB = 8
	img = testimage.Make(t, opt)
	for k := range n {
		inos = append(inos, inoOf(t, img, fmt.Sprintf("/f%d", k)))
	}
	return img, inos
}

func inoOf(t *testing.T, img, path string) uint32 {
	t.Helper()
	out := testimage.Debugfs(t, img, false, "stat "+path)
	_, rest, ok := strings.Cut(out, "Inode: ")
	fields := strings.Fields(rest)
	if !ok || len(fields) == 0 {
		t.Fatalf("debugfs stat %s: %s", path, out)
	}
	n, err := strconv.ParseUint(fields[0], 10, 32)
	if err != nil {
		t.Fatal(err)
	}
	return uint32(n)
}

// judge holds the image against what e2fsck and debugfs read.
func judge(t *testing.T, img string, want []map[string][]byte) {
	t.Helper()
	testimage.Fsck(t, img)
	out := filepath.Join(t.TempDir(), "value")
	for k, attrs := range want {
		list := testimage.Debugfs(t, img, false, fmt.Sprintf("ea_list /f%d", k))
		for name, v := range attrs {
			// Names outside ASCII are printed as bytes.
			if !strings.Contains(list, name+" (") && !strings.Contains(list, fmt.Sprintf("% x  (", name)) {
				t.Errorf("f%d: debugfs does not list %s:\n%s", k, name, list)
			}
			if len(v) == 0 || strings.HasPrefix(name, "system.") {
				continue
			}
			testimage.Debugfs(t, img, false, fmt.Sprintf("ea_get -f %s /f%d %s", out, k, name))
			got, err := os.ReadFile(out)
			if err != nil || !bytes.Equal(got, v) {
				t.Errorf("f%d: debugfs reads %s as %x, %v; want %x", k, name, got, err, v)
			}
		}
	}
}

var shapes = []testimage.Options{
	{BlockSize: 4096, InodeSize: 256, Features: "inline_data,metadata_csum,^has_journal"},
	{BlockSize: 1024, InodeSize: 512, Features: "inline_data,metadata_csum,64bit,^has_journal"},
	{BlockSize: 1024, InodeSize: 128, Features: "^metadata_csum,^has_journal,^inline_data"},
	{BlockSize: 2048, InodeSize: 256, Features: "^metadata_csum,^has_journal,^ext_attr,^extent,^64bit,^inline_data"},
}

// TestRandom makes random changes to a few files and compares with maps: while mounted, after a new mount, and by debugfs and e2fsck.
func TestRandom(t *testing.T) {
	for _, opt := range shapes {
		t.Run(fmt.Sprintf("%d-%d", opt.BlockSize, opt.InodeSize), func(t *testing.T) {
			seed := uint64(time.Now().UnixNano())
			t.Logf("seed %d", seed)
			rnd := rand.New(rand.NewPCG(seed, 3))
			img, inos := files(t, opt, 3, 100)
			want := []map[string][]byte{{}, {}, {}}
			for range 2 {
				m := open(t, img)
				for step := range 250 {
					k := rnd.IntN(len(inos))
					i := m.get(inos[k])
					what, err := randomStep(m, rnd, i, want[k], opt.BlockSize)
					if err == nil {
						err = m.compare(i, want[k])
					}
					if err != nil {
						t.Fatalf("step %d: f%d: %s: %v", step, k, what, err)
					}
					m.cache.Put(i)
				}
				m.close()
				judge(t, img, want)
			}
			m := open(t, img)
			for k, ino := range inos {
				i := m.get(ino)
				if err := m.compare(i, want[k]); err != nil {
					t.Errorf("f%d after a new mount: %v", k, err)
				}
				m.cache.Put(i)
			}
			m.close()
		})
	}
}

// randomStep makes one random change; a refusal for room leaves want as it is, and compare shows whether the file is.
func randomStep(m *mount, rnd *rand.Rand, i *inode.Inode, want map[string][]byte, bs int) (string, error) {
	names := []string{"user.a", "user.b", "user.some-longer-name", "trusted.a", "security.x", "user.z", "user.\u00fc"}
	name := names[rnd.IntN(len(names))]
	old, there := want[name]
	if rnd.IntN(3) == 0 {
		err := m.remove(i, name)
		delete(want, name)
		if !there && errors.Is(err, fserr.NoData) {
			err = nil
		}
		return "remove " + name, err
	}
	n := rnd.IntN(60)
	if rnd.IntN(5) == 0 {
		n = rnd.IntN(bs + 100)
	}
	v := make([]byte, n)
	for k := range v {
		v[k] = byte(rnd.Uint32())
	}
	flags := rnd.IntN(3)
	err := m.set(i, name, v, flags)
	what := fmt.Sprintf("set %s from %d to %d bytes, flags %d", name, len(old), n, flags)
	switch {
	case there && flags == Create:
		return what, wantErr(err, fserr.Exist)
	case !there && flags == Replace:
		return what, wantErr(err, fserr.NoData)
	case errors.Is(err, fserr.NoSpace) && n > 60:
		return what, nil
	case errors.Is(err, fserr.NoSpace):
		total := 0
		for k, v := range want {
			total += ondisk.XattrEntryLen(len(k)) + ondisk.XattrValueLen(len(v))
		}
		if total < bs/2 {
			return what, fmt.Errorf("with %d bytes in use: %w", total, err)
		}
		return what, nil
	case err == nil:
		want[name] = v
	}
	return what, err
}

func wantErr(err, want error) error {
	if errors.Is(err, want) {
		return nil
	}
	return fmt.Errorf("got %w, want %w", err, want)
}

// TestNames expects the errors of impossible names and of short buffers.
func TestNames(t *testing.T) {
	img, inos := files(t, shapes[0], 1, 10)
	m := open(t, img)
	defer m.close()
	i := m.get(inos[0])
	defer m.cache.Put(i)
	for name, want := range map[string]error{
		"system.data": fserr.NotSupported, "other.x": fserr.NotSupported, "": fserr.NotSupported, "user": fserr.NotSupported,
		"user.": fserr.Invalid, "user.a\x00b": fserr.Invalid, "user." + strings.Repeat("n", 256): fserr.Range,
	} {
		_, e1 := Get(nil, i, name, nil)
		for n, err := range []error{e1, m.set(i, name, []byte("v"), 0), m.remove(i, name)} {
			if !errors.Is(err, want) {
				t.Errorf("%q: function %d: %v, want %v", name, n, err, want)
			}
		}
	}
	if _, err := Get(nil, i, "user.none", nil); !errors.Is(err, fserr.NoData) {
		t.Errorf("get of what is not there: %v", err)
	}
	if err := m.set(i, "user.a", []byte("12345"), 0); err != nil {
		t.Fatal(err)
	}
	if n, err := Get(nil, i, "user.a", nil); n != 5 || err != nil {
		t.Errorf("length: %d, %v; want 5", n, err)
	}
	if _, err := Get(nil, i, "user.a", make([]byte, 4)); !errors.Is(err, fserr.Range) {
		t.Errorf("get into 4 bytes: %v, want range", err)
	}
	if _, err := List(i, make([]byte, 6)); !errors.Is(err, fserr.Range) {
		t.Errorf("list into 6 bytes: %v, want range", err)
	}
	if err := m.set(i, "user.big", make([]byte, 4096), 0); !errors.Is(err, fserr.NoSpace) {
		t.Errorf("set of a whole block: %v, want no space", err)
	}
}

// TestInlineDataStays sets attributes of an inline file until neither inode nor block has room: the data stays in the inode.
func TestInlineDataStays(t *testing.T) {
	img, inos := files(t, shapes[0], 1, 110)
	m := open(t, img)
	i := m.get(inos[0])
	if !i.HasInline() {
		t.Fatal("the file is not inline")
	}
	want := map[string][]byte{}
	for n := 0; ; n++ {
		name, v := fmt.Sprintf("user.%d", n), bytes.Repeat([]byte{byte(n)}, 4+n)
		err := m.set(i, name, v, Create)
		if errors.Is(err, fserr.NoSpace) {
			break
		}
		if err != nil || n > 4096 {
			t.Fatalf("set %d: %v", n, err)
		}
		want[name] = v
	}
	if err := m.compare(i, want); err != nil {
		t.Error(err)
	}
	m.cache.Put(i)
	m.close()
	judge(t, img, []map[string][]byte{want})
	if got := testimage.Debugfs(t, img, false, "cat /f0"); strings.TrimSpace(got) != strings.Repeat("x", 110) {
		t.Errorf("the file is %q now", got)
	}
}

// share makes f1 use f0's attribute block and returns it.
func share(t *testing.T, img string, bs int) uint64 {
	t.Helper()
	out := testimage.Debugfs(t, img, false, "stat /f0")
	_, rest, _ := strings.Cut(out, "File ACL: ")
	blk, err := strconv.ParseUint(strings.Fields(rest + " ?")[0], 10, 64)
	if err != nil || blk == 0 {
		t.Fatalf("f0 has no attribute block: %v\n%s", err, out)
	}
	testimage.Debugfs(t, img, true, fmt.Sprintf("set_inode_field /f1 file_acl %d", blk), fmt.Sprintf("set_inode_field /f1 blocks %d", bs/512))
	f, err := os.OpenFile(img, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	sb := make([]byte, ondisk.SuperSize)
	b := make(ondisk.XattrBlock, bs)
	if _, err := f.ReadAt(sb, ondisk.SuperOffset); err != nil {
		t.Fatal(err)
	}
	if _, err := f.ReadAt(b, int64(blk)*int64(bs)); err != nil {
		t.Fatal(err)
	}
	b.SetRefcount(2)
	if s := ondisk.Super(sb); s.HasMetadataCsum() {
		b.UpdateChecksum(s.CsumSeed(), blk)
	}
	if _, err := f.WriteAt(b, int64(blk)*int64(bs)); err != nil {
		t.Fatal(err)
	}
	return blk
}

// TestSharedBlock changes, and drops, an attribute block that two inodes use.
func TestSharedBlock(t *testing.T) {
	for _, opt := range shapes[:3] {
		t.Run(fmt.Sprintf("%d-%d", opt.BlockSize, opt.InodeSize), func(t *testing.T) {
			img, inos := files(t, opt, 2, 0)
			m := open(t, img)
			i := m.get(inos[0])
			big := bytes.Repeat([]byte("b"), 600)
			if err := m.set(i, "user.big", big, 0); err != nil {
				t.Fatal(err)
			}
			m.cache.Put(i)
			m.close()
			blk := share(t, img, opt.BlockSize)
			want := []map[string][]byte{{"user.big": big}, {"user.big": big}}
			judge(t, img, want)

			m = open(t, img)
			a, b := m.get(inos[0]), m.get(inos[1])
			free := m.fs.FreeBlocks()
			want[1]["user.big"] = bytes.Repeat([]byte("c"), 601)
			if err := m.set(b, "user.big", want[1]["user.big"], Replace); err != nil {
				t.Fatal(err)
			}
			if n := m.fs.FreeBlocks(); n != free-1 {
				t.Errorf("a change of a shared block took %d blocks, want 1", free-n)
			}
			for k, i := range []*inode.Inode{a, b} {
				if err := m.compare(i, want[k]); err != nil {
					t.Errorf("f%d: %v", k, err)
				}
			}
			m.cache.Put(a)
			m.cache.Put(b)
			m.close()
			judge(t, img, want)

			m = open(t, img)
			a = m.get(inos[0])
			free = m.fs.FreeBlocks()
			if err := m.remove(a, "user.big"); err != nil {
				t.Fatal(err)
			}
			if n := m.fs.FreeBlocks(); n != free+1 {
				t.Errorf("the last attribute of block %d gave %d blocks back, want 1", blk, n-free)
			}
			m.cache.Put(a)
			m.close()
			want[0] = nil
			judge(t, img, want)
		})
	}
}

// TestRelease drops the block of an inode as its deletion does, shared and not.
func TestRelease(t *testing.T) {
	img, inos := files(t, shapes[0], 2, 0)
	m := open(t, img)
	i := m.get(inos[0])
	big := bytes.Repeat([]byte("b"), 600)
	if err := m.set(i, "user.big", big, 0); err != nil {
		t.Fatal(err)
	}
	m.cache.Put(i)
	m.close()
	share(t, img, shapes[0].BlockSize)
	want := []map[string][]byte{{"user.big": big}, {"user.big": big}}
	for k, ino := range inos {
		m := open(t, img)
		i := m.get(ino)
		free := m.fs.FreeBlocks()
		for range 2 { // the second time there is nothing to do
			if err := m.do(i, func(h *journal.Handle) error {
				if err := ReleaseBlock(h, i); err != nil {
					return err
				}
				return i.MarkDirty(h)
			}); err != nil {
				t.Fatal(err)
			}
		}
		if n := m.fs.FreeBlocks(); n != free+int64(k) {
			t.Errorf("release %d gave %d blocks back, want %d", k, n-free, k)
		}
		m.cache.Put(i)
		m.close()
		want[k] = nil
		judge(t, img, want)
	}
}

// TestACL sets ACLs as the system call does and lets debugfs see them.
func TestACL(t *testing.T) {
	img, inos := files(t, shapes[0], 2, 0)
	m := open(t, img)
	i := m.get(inos[0])
	if err := m.set(i, NameACLAccess, extended(), 0); err != nil {
		t.Fatal(err)
	}
	if err := m.compare(i, map[string][]byte{NameACLAccess: extended()}); err != nil {
		t.Error(err)
	}
	if mode := i.Mode(); mode != ondisk.ModeReg|0o770 {
		t.Errorf("mode 0%o after the extended ACL, want 0100770", mode)
	}
	if err := m.set(i, NameACLAccess, []byte("bad"), 0); !errors.Is(err, fserr.Invalid) {
		t.Errorf("bad ACL: %v, want invalid", err)
	}
	if err := m.set(i, NameACLDefault, extended(), 0); !errors.Is(err, fserr.NotPermitted) {
		t.Errorf("default ACL of a file: %v, want not permitted", err)
	}
	root := m.get(ondisk.RootIno)
	if err := m.set(root, NameACLDefault, extended(), 0); err != nil {
		t.Error(err)
	}
	access, deflt, mode, err := InheritACL(extended(), ondisk.ModeReg|0o640)
	if err != nil || access == nil || deflt != nil {
		t.Fatalf("inherited %x, %x, 0%o, %v", access, deflt, mode, err)
	}
	j := m.get(inos[1])
	if err := m.do(j, func(h *journal.Handle) error {
		return SetNew(h, j, []Attr{{NameACLAccess, access}, {"security.label", []byte("l")}})
	}); err != nil {
		t.Fatal(err)
	}
	if err := m.compare(j, map[string][]byte{NameACLAccess: access, "security.label": []byte("l")}); err != nil {
		t.Error(err)
	}
	m.cache.Put(i)
	m.cache.Put(j)
	m.cache.Put(root)
	m.close()
	judge(t, img, []map[string][]byte{{NameACLAccess: nil}, {NameACLAccess: nil, "security.label": []byte("l")}})

	m = open(t, img)
	i = m.get(inos[0])
	if err := m.set(i, NameACLAccess, minimal(), KillSGID); err != nil {
		t.Fatal(err)
	}
	if mode := i.Mode(); mode != ondisk.ModeReg|0o755 {
		t.Errorf("mode 0%o after the minimal ACL, want 0100755", mode)
	}
	if err := m.compare(i, nil); err != nil {
		t.Errorf("the mode says it all, yet: %v", err)
	}
	if err := m.remove(i, NameACLAccess); err != nil {
		t.Errorf("remove of an ACL that is not there: %v", err)
	}
	m.cache.Put(i)
	m.close()
	testimage.Fsck(t, img)
}

// TestDamagedBlock expects the checksum error of a damaged attribute block, and that nothing is changed.
func TestDamagedBlock(t *testing.T) {
	img, inos := files(t, shapes[0], 2, 0)
	m := open(t, img)
	i := m.get(inos[0])
	if err := m.set(i, "user.big", bytes.Repeat([]byte("b"), 600), 0); err != nil {
		t.Fatal(err)
	}
	i.Mu.Lock()
	blk := i.Raw.FileACL()
	i.Mu.Unlock()
	m.cache.Put(i)
	m.close()
	f, err := os.OpenFile(img, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte{'!'}, int64(blk+1)*4096-1); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	m = open(t, img)
	i = m.get(inos[0])
	_, e1 := Get(nil, i, "user.big", nil)
	_, e2 := List(i, nil)
	release := m.do(i, func(h *journal.Handle) error { return ReleaseBlock(h, i) })
	for n, err := range []error{e1, e2, release} {
		var c *ondisk.CorruptError
		if !errors.As(err, &c) || !c.Checksum {
			t.Errorf("function %d: %v, want a bad checksum", n, err)
		}
	}
	if m.fs.ErrorCount() == 0 {
		t.Error("no error was recorded")
	}
	m.cache.Put(i)
	if err := errors.Join(m.fs.Close(), m.dev.Close()); err != nil {
		t.Error(err)
	}
}
