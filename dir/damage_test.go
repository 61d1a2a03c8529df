package dir

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"inlinefs/extent"
	"inlinefs/inode"
	"inlinefs/internal/fserr"
	"inlinefs/internal/lock"
	"inlinefs/internal/testimage"
	"inlinefs/ondisk"
)

// indexed makes a directory of n names and wants an index.
func (e *env) indexed(name string, n int) (d, f *inode.Inode) {
	e.t.Helper()
	f, d = e.mkfile(name+"-file"), e.mkdir(name)
	for i := range n {
		if err := e.add(d, fmt.Sprintf("entry-%d", i), f.Ino); err != nil {
			e.t.Fatal(err)
		}
	}
	if dirAs(d) != "htree" {
		e.t.Fatalf("%d names: the directory is %s, want htree", n, dirAs(d))
	}
	return d, f
}

// damages are what can be wrong with an index root; each keeps its directory entries.
var damages = map[string]func(b []byte){
	"limit":        func(b []byte) { ondisk.DxEntriesOf(b, ondisk.DxRootOff).SetLimit(3) },
	"hash version": func(b []byte) { b[28] = 77 },
	"count":        func(b []byte) { ondisk.DxEntriesOf(b, ondisk.DxRootOff).SetCount(0) },
	"levels":       func(b []byte) { ondisk.SetDxIndirect(b, 3) },
}

func TestDamagedIndex(t *testing.T) {
	for _, csum := range []bool{true, false} {
		features := "^metadata_csum"
		if csum {
			features = "metadata_csum"
		}
		for what, damage := range damages {
			t.Run(fmt.Sprintf("%s csum=%v", what, csum), func(t *testing.T) {
				img := image(t, 1024, 256, features)
				e := openEnv(t, img)
				defer e.close()
				d, f := e.indexed("dir", 200)
				defer e.cache.Put(f)
				defer e.cache.Put(d)
				cookie, _ := list(t, d, 0, 50, func(Entry) {})
				rest := 0
				list(t, d, cookie, -1, func(Entry) { rest++ })
				b, err := extent.GetBlock(d, 0)
				if err != nil {
					t.Fatal(err)
				}
				b.Lock()
				damage(b.Data())
				b.Unlock()
				b.Release()
				checkDamaged(t, e, d, f, cookie, rest, csum)
			})
		}
	}
}

// checkDamaged wants every name of a directory whose index is of no use, and the index dropped at the next entry, or that refused where
// linear blocks need checksums.
func checkDamaged(t *testing.T, e *env, d, f *inode.Inode, cookie uint64, rest int, csum bool) {
	t.Helper()
	for i := range 200 {
		if ino, _, err := Lookup(d, fmt.Appendf(nil, "entry-%d", i)); err != nil || ino != f.Ino {
			t.Fatalf("lookup of entry %d: %d, %v", i, ino, err)
		}
	}
	if _, _, err := Lookup(d, []byte("none")); !errors.Is(err, fserr.NotExist) {
		t.Errorf("lookup of no entry: got %v, want %v", err, fserr.NotExist)
	}
	n := 0
	list(t, d, cookie, -1, func(Entry) { n++ })
	if n != rest {
		t.Errorf("entries after the cookie: got %d, want %d as before the damage", n, rest)
	}
	if e.fs.ErrorCount() == 0 {
		t.Error("no error is recorded, want the damage reported")
	}
	err := e.add(d, "one-more", f.Ino)
	var bad *ondisk.CorruptError
	if csum && !errors.As(err, &bad) {
		t.Errorf("new entry: got %v, want corruption", err)
	}
	if !csum && (err != nil || dirAs(d) != "linear") {
		t.Errorf("new entry: %v in a %s directory, want it linear", err, dirAs(d))
	}
	want := []string{"entry-0", "entry-199"}
	if !csum {
		want = append(want, "one-more")
	}
	for _, name := range want {
		if err := e.remove(d, name, f.Ino); err != nil {
			t.Errorf("removal of %s: %v", name, err)
		}
	}
}

func TestBadChecksumOfALeaf(t *testing.T) {
	img := image(t, 1024, 256, "metadata_csum")
	e := openEnv(t, img)
	d, f := e.indexed("dir", 200)
	b, err := extent.GetBlock(d, 1)
	if err != nil {
		t.Fatal(err)
	}
	at := int64(b.Block())*1024 + 20
	b.Release()
	e.cache.Put(d)
	e.cache.Put(f)
	e.close()
	flip(t, img, at)
	e.open()
	defer e.close()
	d = e.inodeOf("dir")
	defer e.cache.Put(d)
	bad := 0
	for i := range 200 {
		_, _, err := Lookup(d, fmt.Appendf(nil, "entry-%d", i))
		var c *ondisk.CorruptError
		if errors.As(err, &c) && c.Checksum {
			bad++
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if bad == 0 || bad == 200 {
		t.Errorf("%d of 200 lookups report a bad checksum, want those of one leaf", bad)
	}
}

// flip inverts a byte of the image.
func flip(t *testing.T, img string, at int64) {
	t.Helper()
	f, err := os.OpenFile(img, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	var b [1]byte
	_, errR := f.ReadAt(b[:], at)
	b[0] ^= 0xFF
	_, errW := f.WriteAt(b[:], at)
	if err := errors.Join(errR, errW, f.Close()); err != nil {
		t.Fatal(err)
	}
}

// TestConversionWithoutSpace wants an inline directory to be as it was when it can't get a block.
func TestConversionWithoutSpace(t *testing.T) {
	e := openEnv(t, testimage.Seed(t))
	defer e.close()
	f, d := e.mkfile("file"), e.mkdir("dir")
	defer e.cache.Put(f)
	defer e.cache.Put(d)
	model := map[string]uint32{}
	for i := range 100 {
		before := slices.Clone(d.Raw)
		name := fmt.Sprintf("name-%d", i)
		err := e.add(d, name, f.Ino)
		if err == nil {
			model[name] = f.Ino
			continue
		}
		if !bytes.Equal(before[:0x7C], d.Raw[:0x7C]) || !bytes.Equal(before[0x84:], d.Raw[0x84:]) {
			t.Errorf("the inode has changed after %v", err)
		}
		verify(t, d, model)
		return
	}
	t.Errorf("100 names fit an inode of 256 bytes: the directory is %s", dirAs(d))
}

// TestForeignDirectories reads directories that mke2fs and e2fsck made, indexes included.
func TestForeignDirectories(t *testing.T) {
	e2fsck, err := exec.LookPath("e2fsck")
	if err != nil {
		t.Skipf("needs e2fsck (package e2fsprogs): %v", err)
	}
	for _, n := range []int{0, 2, 12, 50, 700} {
		for _, features := range []string{"inline_data,metadata_csum", "^inline_data,^metadata_csum"} {
			t.Run(fmt.Sprintf("%d %s", n, features), func(t *testing.T) {
				src := t.TempDir()
				want := []string{".", ".."}
				if err := os.Mkdir(filepath.Join(src, "dir"), 0o755); err != nil {
					t.Fatal(err)
				}
				for i := range n {
					name := fmt.Sprintf("f%d\u00e9", i)
					want = append(want, name)
					if err := os.WriteFile(filepath.Join(src, "dir", name), nil, 0o644); err != nil {
						t.Fatal(err)
					}
				}
				img := testimage.Make(t, testimage.Options{BlockSize: 1024, InodeSize: 256, Inodes: 1024, Features: "^has_journal," + features, Populate: src})
				if out, err := exec.Command(e2fsck, "-fyD", img).CombinedOutput(); err != nil && !strings.Contains(string(out), "MODIFIED") {
					t.Fatalf("e2fsck -fyD: %v\n%s", err, out)
				}
				e := openEnv(t, img)
				defer e.close()
				d := e.inodeOf("dir")
				defer e.cache.Put(d)
				t.Logf("%d names: %s", n, dirAs(d))
				var got []string
				list(t, d, 0, -1, func(en Entry) { got = append(got, string(en.Name)) })
				slices.Sort(got)
				slices.Sort(want)
				if !slices.Equal(got, want) {
					t.Fatalf("names: got %.200q, want %.200q", got, want)
				}
				for _, name := range want {
					if _, _, err := Lookup(d, []byte(name)); err != nil {
						t.Errorf("lookup of %q: %v", name, err)
					}
				}
				if c := e.fs.ErrorCount(); c != 0 {
					t.Errorf("%d errors are recorded, want none", c)
				}
			})
		}
	}
}

// TestFullIndex fills an index of two levels; large_dir gives it a third one.
func TestFullIndex(t *testing.T) {
	if testing.Short() {
		t.Skip("makes tens of thousands of entries")
	}
	for _, large := range []bool{false, true} {
		t.Run(fmt.Sprintf("large_dir=%v", large), func(t *testing.T) {
			features := "^has_journal,^inline_data,metadata_csum"
			if large {
				features += ",large_dir"
			}
			img := testimage.Make(t, testimage.Options{SizeMiB: 48, BlockSize: 1024, InodeSize: 256, Inodes: 256, Features: features})
			e := openEnv(t, img)
			f, d := e.mkfile("file"), e.mkdir("dir")
			tail := strings.Repeat("z", 245)
			n, levels := 0, 0
			for ; n < 64000; n++ {
				err := e.add(d, fmt.Sprintf("%05d%s", n, tail), f.Ino)
				if errors.Is(err, fserr.NoSpace) {
					break
				}
				if err != nil {
					t.Fatal(err)
				}
				if n%1000 == 0 && large {
					if levels = depth(t, d); levels == 3 {
						break
					}
				}
			}
			levels = depth(t, d)
			t.Logf("%d entries, %d levels, %d blocks", n, levels, d.Size()/1024)
			if want := map[bool]int{false: 2, true: 3}[large]; levels != want {
				t.Errorf("%d levels, want %d", levels, want)
			}
			if large {
				n++
			}
			for i := 0; i < n; i += 97 {
				if _, _, err := Lookup(d, fmt.Appendf(nil, "%05d%s", i, tail)); err != nil {
					t.Fatalf("lookup of %d: %v", i, err)
				}
			}
			seen := 0
			list(t, d, 0, -1, func(Entry) { seen++ })
			if seen != n+2 {
				t.Errorf("%d entries are read, want %d", seen, n+2)
			}
			e.relink(f, n+1)
			e.cache.Put(f)
			e.cache.Put(d)
			e.close()
			testimage.Fsck(t, img)
		})
	}
}

// depth is how many levels the index of a directory has.
func depth(t *testing.T, d *inode.Inode) int {
	t.Helper()
	if dirAs(d) != "htree" {
		return 0
	}
	var p dxPath
	defer p.release()
	if err := p.open(d); err != nil {
		t.Fatal(err)
	}
	return p.n
}

func TestLookupAllocatesNothing(t *testing.T) {
	if lock.Checking {
		t.Skip("checked locks allocate")
	}
	e := openEnv(t, image(t, 4096, 256, "inline_data,metadata_csum"))
	defer e.close()
	small := e.mkdir("small")
	defer e.cache.Put(small)
	if err := e.add(small, "entry-7", e.root.Ino); err != nil {
		t.Fatal(err)
	}
	d, f := e.indexed("dir", 500)
	defer e.cache.Put(d)
	defer e.cache.Put(f)
	for _, dir := range []*inode.Inode{small, d} {
		for _, name := range [][]byte{[]byte("entry-7"), []byte("none")} {
			n := testing.AllocsPerRun(100, func() { Lookup(dir, name) })
			if n > 0 {
				t.Errorf("lookup of %s in a %s directory: %v allocations, want none", name, dirAs(dir), n)
			}
		}
	}
}

func BenchmarkLookup10000(b *testing.B) {
	e := openEnv(b, image(b, 4096, 256, "inline_data,metadata_csum"))
	defer e.close()
	d, f := e.indexed("dir", 10000)
	defer e.cache.Put(d)
	defer e.cache.Put(f)
	b.ReportAllocs()
	name := []byte("entry-1234")
	for b.Loop() {
		if _, _, err := Lookup(d, name); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAddRemove10000(b *testing.B) {
	e := openEnv(b, image(b, 4096, 256, "inline_data,metadata_csum"))
	defer e.close()
	d, f := e.indexed("dir", 10000)
	defer e.cache.Put(d)
	defer e.cache.Put(f)
	b.ReportAllocs()
	for b.Loop() {
		if err := errors.Join(e.add(d, "another", f.Ino), e.remove(d, "another", f.Ino)); err != nil {
			b.Fatal(err)
		}
	}
}
