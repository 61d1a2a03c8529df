package inline_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"inlinefs/extent"
	"inlinefs/inline"
	"inlinefs/inode"
	"inlinefs/internal/testfs"
	"inlinefs/internal/testimage"
	"inlinefs/journal"
	"inlinefs/ondisk"
	"inlinefs/xattr"
)

func options(inodeSize int) testimage.Options {
	return testimage.Options{BlockSize: 4096, InodeSize: inodeSize, Inodes: 64, SizeMiB: 8, Features: "inline_data,metadata_csum,64bit,^has_journal"}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// write is write(2).
func write(f *testfs.FS, i *inode.Inode, p []byte, off int) (int, error) {
	i.Rw.Lock()
	defer i.Rw.Unlock()
	return f.Engine.Write(f.Task, i, p, uint64(off))
}

// read is what fs does: from the inode, else from blocks.
func read(i *inode.Inode, n int) ([]byte, error) {
	dst := bytes.Repeat([]byte{0xEE}, n)
	if ok, err := inline.Read(i, dst, 0); ok || err != nil {
		return dst, err
	}
	return dst, extent.Read(i, dst, 0)
}

// truncate is what fs does with an i_size that is set.
func truncate(f *testfs.FS, i *inode.Inode, size int) error {
	i.Rw.Lock()
	defer i.Rw.Unlock()
	done, err := f.Engine.Truncate(f.Task, i, uint64(size))
	if done || err != nil {
		return err
	}
	bs := f.BlockSize
	up := (size + bs - 1) / bs
	if old := int(i.Size()); size < old {
		err = extent.ZeroIn(i, uint64(size), uint64(up*bs))
	} else if old < size {
		err = extent.ZeroIn(i, uint64(old), uint64(min(size, (old+bs-1)/bs*bs)))
	}
	if err == nil {
		err = extent.Remove(f.Task, i, uint32(up), uint32(extent.MaxBlocks(i)))
	}
	if err != nil {
		return err
	}
	return f.With(f.Task, 2, func(h *journal.Handle) error {
		i.SetSize(uint64(size))
		return i.MarkDirty(h)
	})
}

// setXattr is setxattr(2) with a user attribute; an empty value removes it.
func setXattr(f *testfs.FS, i *inode.Inode, name string, value []byte) error {
	return f.With(f.Task, xattr.SetCredits(i)+8, func(h *journal.Handle) error {
		if value == nil {
			return xattr.Remove(h, i, "user."+name)
		}
		return xattr.Set(h, i, "user."+name, value, 0)
	})
}

// pattern is n bytes, none of them zero, that depend on seq.
func pattern(seq, n int) []byte {
	p := make([]byte, n)
	for k := range p {
		p[k] = byte(seq*31+k*7) | 1
	}
	return p
}

// capacity is what an empty inode of that size holds, by ext4's own table.
var capacity = map[int]int{256: 128, 512: 384, 1024: 896}

// TestCapacity: so many bytes stay in the inode, one more does not.
func TestCapacity(t *testing.T) {
	for size, n := range capacity {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			f := testfs.Make(t, options(size))
			i, j := f.NewFile(), f.NewFile()
			defer f.Put(i)
			defer f.Put(j)
			if got := inline.Max(i); got != uint64(n) {
				t.Errorf("a new file holds %d bytes, want %d", got, n)
			}
			full := pattern(1, n)
			if _, err := write(f, i, full, 0); err != nil || !i.HasInline() {
				t.Errorf("%d bytes: %v, inline %v; want them in the inode", n, err, i.HasInline())
			}
			if _, err := write(f, j, pattern(2, n+1), 0); err != nil || j.HasInline() {
				t.Errorf("%d bytes: %v, inline %v; want them in a block", n+1, err, j.HasInline())
			}
			if _, err := write(f, i, []byte{9}, n); err != nil || i.HasInline() {
				t.Errorf("one byte more: %v, inline %v; want a conversion", err, i.HasInline())
			}
			got, err := read(i, n+1)
			if err != nil || !bytes.Equal(got, append(full, 9)) {
				t.Errorf("after the conversion: %v, %v", got, err)
			}
		})
	}
}

// TestModel works on a file and on a slice of bytes alike, with attributes that take the room away.
func TestModel(t *testing.T) {
	for _, size := range []int{256, 512, 1024} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			f := testfs.Make(t, options(size))
			free := f.FreeBlocks()
			rapid.Check(t, func(t *rapid.T) { modelCase(t, f, size) })
			if got := f.FreeBlocks(); got != free {
				t.Errorf("%d blocks are free after all was given back, want %d", got, free)
			}
			if n := f.Journal.V.Counts(); len(n) != 0 {
				t.Errorf("violations %v", n)
			}
		})
	}
}

func modelCase(t *rapid.T, f *testfs.FS, size int) {
	i := f.NewFile()
	var want []byte
	attrs := map[string][]byte{}
	seq := 0
	do := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	pos := func(name string) int { return rapid.IntRange(0, size).Draw(t, name) }
	t.Repeat(map[string]func(*rapid.T){
		"write": func(t *rapid.T) {
			seq++
			off := pos("off")
			p := pattern(seq, rapid.IntRange(1, size/4).Draw(t, "n"))
			put(t, f, i, &want, p, off)
		},
		"short": func(t *rapid.T) {
			seq++
			off := rapid.IntRange(0, min(len(want), 60)).Draw(t, "off")
			put(t, f, i, &want, pattern(seq, 3), off)
		},
		"truncate": func(*rapid.T) {
			n := pos("size")
			do(truncate(f, i, n))
			if n <= len(want) {
				want = want[:n:n]
			} else {
				want = append(want, make([]byte, n-len(want))...)
			}
		},
		"attribute": func(t *rapid.T) {
			name := rapid.SampledFrom([]string{"a", "long-name", "c"}).Draw(t, "name")
			v := pattern(seq, rapid.IntRange(1, size/3).Draw(t, "length"))
			do(setXattr(f, i, name, v))
			attrs[name] = v
		},
		"remove": func(t *rapid.T) {
			for name := range attrs {
				do(setXattr(f, i, name, nil))
				delete(attrs, name)
				return
			}
			t.Skip("no attributes")
		},
		"convert": func(t *rapid.T) {
			if rapid.IntRange(0, 5).Draw(t, "rarely") > 0 {
				t.Skip("not now")
			}
			i.Rw.Lock()
			do(f.Engine.Convert(f.Task, i))
			i.Rw.Unlock()
			if i.HasInline() || i.MayInline.Load() {
				t.Fatal("inline after a conversion")
			}
		},
		"reload": func(*rapid.T) {
			ino, may, has := i.Ino, i.MayInline.Load(), i.HasInline()
			f.Put(i)
			var err error
			i, err = f.Inodes.Get(ino)
			do(err)
			if i.HasInline() != has || i.MayInline.Load() && !may {
				t.Fatalf("inline %v after a reload, was %v", i.HasInline(), has)
			}
		},
		"": func(*rapid.T) { do(holdsAll(f, i, want, attrs)) },
	})
	for name := range attrs {
		do(setXattr(f, i, name, nil))
	}
	do(f.Unlink(i))
	f.Put(i)
}

// holdsAll compares bytes, size and attributes.
func holdsAll(f *testfs.FS, i *inode.Inode, want []byte, attrs map[string][]byte) error {
	got, err := read(i, len(want))
	if err != nil {
		return err
	}
	if !bytes.Equal(got, want) || i.Size() != uint64(len(want)) {
		return fmt.Errorf("file has %d bytes %q, want %d bytes %q", i.Size(), got, len(want), want)
	}
	for name, v := range attrs {
		got := make([]byte, f.InodeSize)
		n, err := xattr.Get(f.Task, i, "user."+name, got)
		if err != nil {
			return err
		}
		if !bytes.Equal(got[:n], v) {
			return fmt.Errorf("attribute %s is %q, want %q", name, got[:n], v)
		}
	}
	return nil
}

// put writes to the file and to the model.
func put(t *rapid.T, f *testfs.FS, i *inode.Inode, want *[]byte, p []byte, off int) {
	if n, err := write(f, i, p, off); err != nil || n != len(p) {
		t.Fatalf("%d of %d bytes, %v", n, len(p), err)
	}
	if end := off + len(p); end > len(*want) {
		*want = append(*want, make([]byte, end-len(*want))...)
	}
	copy((*want)[off:], p)
}

// TestHoleInTheInode: a write behind the end leaves zeros, also where old bytes were cut off before.
func TestHoleInTheInode(t *testing.T) {
	f := testfs.Make(t, options(256))
	i := f.NewFile()
	defer f.Put(i)
	_, err := write(f, i, []byte(strings.Repeat("x", 120)), 0)
	must(t, err)
	must(t, truncate(f, i, 10))
	_, err = write(f, i, []byte("end"), 100)
	must(t, err)
	got, err := read(i, 103)
	must(t, err)
	want := append(append([]byte("xxxxxxxxxx"), make([]byte, 90)...), "end"...)
	if !bytes.Equal(got, want) || !i.HasInline() {
		t.Errorf("got %q, inline %v", got, i.HasInline())
	}
}

// TestEmptyWrite: nothing happens, not even to a new file.
func TestEmptyWrite(t *testing.T) {
	f := testfs.Make(t, options(256))
	i := f.NewFile()
	defer f.Put(i)
	if n, err := write(f, i, nil, 100); n != 0 || err != nil || i.HasInline() || i.Size() != 0 {
		t.Errorf("%d, %v, inline %v, size %d", n, err, i.HasInline(), i.Size())
	}
}

// TestNewFileGrownByTruncate becomes an ordinary one.
func TestNewFileGrownByTruncate(t *testing.T) {
	f := testfs.Make(t, options(256))
	i := f.NewFile()
	defer f.Put(i)
	must(t, truncate(f, i, 50))
	if i.HasInline() || i.MayInline.Load() {
		t.Error("inline")
	}
	got, err := read(i, 50)
	if err != nil || !bytes.Equal(got, make([]byte, 50)) {
		t.Errorf("%q, %v", got, err)
	}
}

// TestNoRoomForTheEntry: attributes that fill the inode leave no inline data at all.
func TestNoRoomForTheEntry(t *testing.T) {
	f := testfs.Make(t, options(256))
	i := f.NewFile()
	defer f.Put(i)
	for n := 84; n > 0 && inline.Max(i) > 0; n -= 4 {
		if err := setXattr(f, i, fmt.Sprintf("n%d", n), pattern(n, n)); err != nil {
			t.Fatal(err)
		}
		i.Mu.Lock()
		blocked := i.Raw.FileACL() != 0
		i.Mu.Unlock()
		if blocked {
			break
		}
	}
	p := pattern(3, 60)
	if _, err := write(f, i, p, 0); err != nil {
		t.Fatal(err)
	}
	got, err := read(i, 60)
	if err != nil || !bytes.Equal(got, p) {
		t.Errorf("%q, %v", got, err)
	}
}

// TestDamagedInline: an inline file without its entry, or with a broken one, is refused and changes nothing.
func TestDamagedInline(t *testing.T) {
	f := testfs.Open(t, testimage.Make(t, options(256)), testfs.Options{Damaged: true})
	i := f.NewFile()
	defer f.Put(i)
	_, err := write(f, i, pattern(1, 100), 0)
	must(t, err)
	i.Mu.Lock()
	x := ondisk.GoodOldInode + i.Raw.ExtraIsize()
	clear(i.Raw[x : x+4]) // h_magic
	i.Mu.Unlock()
	var c *ondisk.CorruptError
	if _, err := read(i, 100); !errors.As(err, &c) {
		t.Errorf("read: %v, want a corruption", err)
	}
	i.Rw.Lock()
	err = f.Engine.Convert(f.Task, i)
	i.Rw.Unlock()
	if !errors.As(err, &c) {
		t.Errorf("conversion: %v, want a corruption", err)
	}
	if err := truncate(f, i, 10); !errors.As(err, &c) {
		t.Errorf("truncate: %v, want a corruption", err)
	}
	if !i.HasInline() || f.ErrorCount() == 0 {
		t.Errorf("inline %v, %d errors recorded", i.HasInline(), f.ErrorCount())
	}
}
