package alloc_test

import (
	"errors"
	"os"
	"testing"

	"inlinefs/alloc"
	"inlinefs/inode"
	"inlinefs/internal/fserr"
	"inlinefs/internal/testfs"
	"inlinefs/internal/testimage"
	"inlinefs/journal"
	"inlinefs/ondisk"
	"inlinefs/super"
)

// TestInodesUntilFull makes files until no inode is left, frees every second one and makes them again.
func TestInodesUntilFull(t *testing.T) {
	for _, name := range []string{"b1024-i256", "uninit-bg", "no-csum", "no-flex-bg", "many-groups"} {
		t.Run(name, func(t *testing.T) {
			o := shape(t, name).Options
			o.Inodes = 256
			f := testfs.Make(t, o)
			held := map[uint32]*inode.Inode{}
			fill := func() {
				t.Helper()
				for f.FreeInodes() > 0 {
					i := f.NewFile()
					if held[i.Ino] != nil {
						t.Fatalf("inode %d was given out twice", i.Ino)
					}
					held[i.Ino] = i
				}
			}
			fill()
			if _, err := f.TryFile(ondisk.ModeReg | 0o600); !errors.Is(err, fserr.NoSpace) {
				t.Errorf("a file without a free inode: %v, want %v", err, fserr.NoSpace)
			}
			n := 0
			for ino, i := range held {
				if n++; n%2 == 0 {
					continue
				}
				if err := f.Unlink(i); err != nil {
					t.Fatal(err)
				}
				f.Put(i)
				delete(held, ino)
			}
			if got := f.FreeInodes(); got != int64((n+1)/2) {
				t.Errorf("%d inodes are free, want %d", got, (n+1)/2)
			}
			fill()
			for _, i := range held {
				f.Put(i)
			}
		})
	}
}

// TestSpread: directories of the root go to different groups, files to the group of their parent.
func TestSpread(t *testing.T) {
	f := testfs.Make(t, shape(t, "many-groups").Options)
	group := func(i *inode.Inode) uint32 { return (i.Ino - 1) / f.InodesPerGroup }
	seen := map[uint32]bool{}
	for range f.Groups() {
		d, err := f.TryFile(ondisk.ModeDir | 0o755)
		if err != nil {
			t.Fatal(err)
		}
		seen[group(d)] = true
		var file *inode.Inode
		err = f.With(f.Task, 32, func(h *journal.Handle) (err error) {
			file, err = alloc.NewInode(h, f.Inodes, alloc.New{Mode: ondisk.ModeReg | 0o644, Parent: d})
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		if group(file) != group(d) {
			t.Errorf("a file of inode %d in group %d is in group %d", d.Ino, group(d), group(file))
		}
		f.Put(file) // it has no link: freed again
		f.Put(d)
	}
	// Groups with a superblock copy have fewer free blocks than the average and are passed over.
	if len(seen) < 2 {
		t.Errorf("%d directories of the root are in %d groups, want several", f.Groups(), len(seen))
	}
}

// TestNewInode: owner, mode, inherited flags, extra size and the empty map.
func TestNewInode(t *testing.T) {
	for _, name := range []string{"b4096-i256", "b1024-i128", "no-extent", "b4096-i1024"} {
		t.Run(name, func(t *testing.T) {
			f := testfs.Make(t, shape(t, name).Options)
			root := f.Root()
			defer f.Put(root)
			root.ChangeFlags(ondisk.FlNoAtime|ondisk.FlDirSync, 0)
			defer root.ChangeFlags(0, ondisk.FlNoAtime|ondisk.FlDirSync)
			var i *inode.Inode
			err := f.With(f.Task, 32, func(h *journal.Handle) (err error) {
				i, err = alloc.NewInode(h, f.Inodes, alloc.New{Mode: ondisk.ModeReg | 0o640, UID: 70000, GID: 80000, Parent: root})
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			defer f.Put(i)
			i.Mu.Lock()
			defer i.Mu.Unlock()
			r := i.Raw
			if r.Mode() != ondisk.ModeReg|0o640 || r.UID() != 70000 || r.GID() != 80000 || r.Size() != 0 || r.Links() != 0 {
				t.Errorf("mode 0%o, owner %d:%d, size %d, %d links", r.Mode(), r.UID(), r.GID(), r.Size(), r.Links())
			}
			if want := f.SB.Incompat(ondisk.IncompatExtents); r.Has(ondisk.FlExtents) != want {
				t.Errorf("extents %v, want %v", !want, want)
			}
			if !r.Has(ondisk.FlNoAtime) || r.Has(ondisk.FlDirSync) {
				t.Errorf("flags 0x%x: want noatime inherited, dirsync not", r.Flags())
			}
			if x := r.ExtraIsize(); (f.InodeSize > 128) != (x >= 32) {
				t.Errorf("i_extra_isize %d in an inode of %d bytes", x, f.InodeSize)
			}
			if r.Time(ondisk.Mtime).IsZero() || r.Time(ondisk.Ctime).Unix() == 0 {
				t.Error("times are not set")
			}
		})
	}
}

// TestInodeDoubleFree: the bit is checked; the group's inodes are out of use afterwards.
func TestInodeDoubleFree(t *testing.T) {
	f := testfs.Open(t, testimage.Make(t, shape(t, "b4096-i256").Options), testfs.Options{Damaged: true})
	i := f.NewFile()
	free := func() error {
		return f.With(f.Task, 8, func(h *journal.Handle) error { return alloc.FreeInode(h, i, false) })
	}
	if err := free(); err != nil {
		t.Fatal(err)
	}
	var c *ondisk.CorruptError
	if err := free(); !errors.As(err, &c) {
		t.Errorf("second free: %v, want a corruption", err)
	}
	f.Put(i)
	if _, err := f.TryFile(ondisk.ModeReg | 0o600); err == nil && f.Groups() == 1 {
		t.Error("the corrupt group still gives inodes")
	}
}

// TestDamagedBitmaps: a flipped bit is found by checksum or by count, and the group is refused. Only the checksum of a block bitmap is told
// to who finds it.
func TestDamagedBitmaps(t *testing.T) {
	for _, tc := range []struct {
		name, shape string
		inodes      bool
		told        bool
	}{
		{"block bitmap, checksum", "b4096-i256", false, true},
		{"inode bitmap, checksum", "b4096-i256", true, false},
		{"block bitmap, count", "no-csum", false, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			img := testimage.Make(t, shape(t, tc.shape).Options)
			flip(t, img, tc.inodes)
			f := testfs.Open(t, img, testfs.Options{Damaged: true})
			var err error
			if tc.inodes {
				_, err = f.TryFile(ondisk.ModeReg | 0o600)
			} else {
				i := f.BlockFile()
				err = f.With(f.Task, 16, func(h *journal.Handle) error {
					_, err := alloc.NewBlock(h, i, 0)
					return err
				})
				f.Put(i)
			}
			var c *ondisk.CorruptError
			if told := errors.As(err, &c); told != tc.told || !told && !errors.Is(err, fserr.NoSpace) || f.ErrorCount() != 1 {
				t.Errorf("allocation from a damaged bitmap: %v, %d errors recorded; want a corruption: %v, and one record", err, f.ErrorCount(), tc.told)
			}
		})
	}
}

// flip changes a bit in the middle of group 0's bitmap.
func flip(t *testing.T, img string, inodes bool) {
	t.Helper()
	f, err := testfs.Try(t, img, testfs.Options{Damaged: true, Super: super.Options{ReadOnly: true}})
	if err != nil {
		t.Fatal(err)
	}
	at, bs := f.Group(0).Desc.BlockBitmap(), int64(f.BlockSize)
	if inodes {
		at = f.Group(0).Desc.InodeBitmap()
	}
	f.Close()
	file, err := os.OpenFile(img, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	var b [1]byte
	off := int64(at)*bs + 70
	_, e1 := file.ReadAt(b[:], off)
	b[0] ^= 0x10
	_, e2 := file.WriteAt(b[:], off)
	if err := errors.Join(e1, e2, file.Close()); err != nil {
		t.Fatal(err)
	}
}

// TestBig uses a sparse image of 2 GiB with flexible groups: runs in uninitialized groups and inodes far away.
func TestBig(t *testing.T) {
	if testing.Short() {
		t.Skip("not with -short: e2fsck reads the whole layout")
	}
	f := testfs.Make(t, testimage.Options{SizeMiB: 2048, BlockSize: 4096, InodeSize: 256, Inodes: 4096, Features: "inline_data,metadata_csum,64bit,flex_bg,^has_journal"})
	if f.GroupsPerFlex < 2 || f.Groups() < 16 {
		t.Fatalf("%d groups in clusters of %d, want 16 or more in larger ones", f.Groups(), f.GroupsPerFlex)
	}
	m := newModel(f)
	defer f.Put(m.file)
	for n := range f.Groups() {
		var at uint64
		var got uint32
		err := f.With(f.Task, 64, func(h *journal.Handle) (err error) {
			at, got, err = alloc.NewBlocks(h, m.file, f.GroupFirst(n)+uint64(f.BlocksPerGroup)/2, 5000)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		if g, _ := f.GroupOf(at); g != n || got != 5000 {
			t.Errorf("a run for group %d: %d blocks in group %d", n, got, g)
		}
		m.runs, m.free = append(m.runs, run{at, got}), m.free-int64(got)
	}
	var dirs []*inode.Inode
	for range 32 {
		d, err := f.TryFile(ondisk.ModeDir | 0o755)
		if err != nil {
			t.Fatal(err)
		}
		dirs = append(dirs, d)
	}
	for _, d := range dirs {
		f.Put(d)
	}
	for _, r := range m.runs {
		if err := m.release(r.start, r.n, false); err != nil {
			t.Fatal(err)
		}
	}
}
