package extent_test

import (
	"errors"
	"math/rand/v2"
	"syscall"
	"testing"

	"inlinefs/blockdev"
	"inlinefs/extent"
	"inlinefs/inode"
	"inlinefs/internal/fserr"
	"inlinefs/internal/testfs"
	"inlinefs/internal/testimage"
	"inlinefs/ondisk"
)

// depth is that of the extent tree.
func depth(i *inode.Inode) int {
	i.Mu.Lock()
	defer i.Mu.Unlock()
	return ondisk.ExtentNode(i.Raw.Block()).Depth()
}

func small(features string, sizeMiB int) testimage.Options {
	return testimage.Options{BlockSize: 1024, InodeSize: 256, Inodes: 64, SizeMiB: sizeMiB, Features: "^has_journal," + features}
}

func newRand(t *testing.T) *rand.Rand {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// big is a file of the model with room for more blocks.
func big(f *testfs.FS, blocks int) *file {
	m := newFile(f)
	m.blocks = make([]uint8, blocks+1)
	return m
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestFragmented writes every other block in random order, so that the tree is two levels deep, and fills and cuts the holes.
func TestFragmented(t *testing.T) {
	for _, features := range []string{"metadata_csum,64bit", "^metadata_csum,^uninit_bg,64bit", "metadata_csum,^64bit,^extent"} {
		t.Run(features, func(t *testing.T) {
			rng := newRand(t)
			f := testfs.Make(t, small(features, 16))
			free := f.FreeBlocks()
			const n = 1000
			m := big(f, 2*n)
			for _, k := range rng.Perm(n) {
				must(t, m.write(2*k*1024, 1024))
			}
			if m.extents() && depth(m.i) < 2 {
				t.Errorf("%d fragments in a tree of depth %d, want 2 or more", n, depth(m.i))
			}
			must(t, m.check())
			reopen(t, m)
			must(t, m.check())
			for _, k := range rng.Perm(n)[:n/2] {
				must(t, m.write((2*k+1)*1024, 1024))
			}
			must(t, m.check())
			for range 100 {
				a, b := rng.IntN(len(m.data)), rng.IntN(len(m.data))
				if a = min(a, b); b-a > 40*1024 {
					b = a + 40*1024
				}
				must(t, m.punch(min(a, b), max(a, b)))
			}
			must(t, m.check())
			must(t, m.truncate(len(m.data)/3))
			must(t, m.check())
			must(t, m.truncate(0))
			if m.extents() && depth(m.i) != 0 {
				t.Errorf("an empty tree has depth %d", depth(m.i))
			}
			must(t, m.free())
			if got := f.FreeBlocks(); got != free {
				t.Errorf("%d blocks are free in the end, want %d", got, free)
			}
		})
	}
}

// reopen drops the inode and all cached blocks, so that they are read and verified anew.
func reopen(t *testing.T, m *file) {
	t.Helper()
	must(t, m.f.Sync())
	ino := m.i.Ino
	m.f.Put(m.i)
	m.f.Bufs.Drop()
	i, err := m.f.Inodes.Get(ino)
	must(t, err)
	m.i = i
}

// TestAscending appends blocks that do not join, the usual way for a tree to grow.
func TestAscending(t *testing.T) {
	f := testfs.Make(t, small("metadata_csum,64bit", 16))
	m, other := big(f, 2000), big(f, 2000)
	for k := range 600 {
		must(t, m.write(k*1024, 1024))
		must(t, other.write(k*1024, 1024))
		m.i.Goal, other.i.Goal = 0, 0
	}
	must(t, m.check())
	must(t, other.check())
	must(t, m.free())
	must(t, other.check())
	must(t, other.free())
}

// TestIndirectLevels reaches every level of the indirect map and its end.
func TestIndirectLevels(t *testing.T) {
	for _, bs := range []uint64{1024, 4096} {
		o := small("metadata_csum,^64bit,^extent,large_file", 16)
		o.BlockSize = int(bs)
		f := testfs.Make(t, o)
		free := f.FreeBlocks()
		i := f.BlockFile()
		n := bs / 4
		at := []uint64{0, 11, 12, 12 + n - 1, 12 + n, 12 + n + n*n - 1, 12 + n + n*n}
		for k, b := range at {
			i.Rw.Lock()
			_, _, err := extent.Write(f.Task, i, []byte{byte(k + 1)}, b*bs+5)
			i.Rw.Unlock()
			must(t, err)
		}
		for k, b := range at {
			got := make([]byte, 2)
			must(t, extent.Read(i, got, b*bs+5))
			if got[0] != byte(k+1) || got[1] != 0 {
				t.Errorf("block size %d, logical block %d reads %v, want %d and 0", bs, b, got, k+1)
			}
		}
		if _, _, err := extent.Write(f.Task, i, []byte{1}, extent.MaxBlocks(i)*bs); !errors.Is(err, fserr.TooBig) {
			t.Errorf("write past the map: %v, want %v", err, fserr.TooBig)
		}
		// Cutting in the middle of each level keeps what is below.
		for k := len(at) - 1; k > 0; k-- {
			must(t, extent.Remove(f.Task, i, uint32(at[k]), uint32(extent.MaxBlocks(i))))
			r, err := extent.Map(i, uint32(at[k-1]), 1)
			if err != nil || r.State != extent.Mapped {
				t.Errorf("block %d after a cut at %d: %+v, %v", at[k-1], at[k], r, err)
			}
		}
		must(t, f.Unlink(i))
		f.Put(i)
		if got := f.FreeBlocks(); got != free {
			t.Errorf("%d blocks are free in the end, want %d", got, free)
		}
		f.Close()
	}
}

// TestFarBlocks: the last blocks that an extent can name, and one beyond.
func TestFarBlocks(t *testing.T) {
	f := testfs.Make(t, small("metadata_csum,64bit,huge_file", 16))
	i := f.BlockFile()
	defer f.Put(i)
	bs := uint64(f.BlockSize)
	last := extent.MaxBlocks(i) - 1
	for _, b := range []uint64{1 << 31, last} {
		i.Rw.Lock()
		_, _, err := extent.Write(f.Task, i, []byte("far"), b*bs)
		i.Rw.Unlock()
		must(t, err)
		got := make([]byte, 3)
		must(t, extent.Read(i, got, b*bs))
		if string(got) != "far" {
			t.Errorf("block %d reads %q", b, got)
		}
	}
	i.Rw.Lock()
	_, _, err := extent.Write(f.Task, i, []byte("!"), (last+1)*bs)
	i.Rw.Unlock()
	if !errors.Is(err, fserr.TooBig) {
		t.Errorf("write past the last block: %v, want %v", err, fserr.TooBig)
	}
}

// fill takes all but keep blocks.
func fill(t *testing.T, f *testfs.FS, keep int64) *inode.Inode {
	t.Helper()
	i := f.BlockFile()
	buf := make([]byte, 1<<20)
	for at := uint64(0); f.FreeBlocks() > keep; {
		n := min(len(buf), int(f.FreeBlocks()-keep)*f.BlockSize)
		if n > 16*f.BlockSize {
			n /= 2 // the map takes blocks too
		} else if n > f.BlockSize {
			n = f.BlockSize
		}
		i.Rw.Lock()
		got, _, err := extent.Write(f.Task, i, buf[:n], at)
		i.Rw.Unlock()
		if err != nil && !errors.Is(err, fserr.NoSpace) {
			t.Fatal(err)
		}
		at += uint64(got)
		if got == 0 {
			break
		}
	}
	return i
}

// TestNoSpace runs out of blocks at every point of growing trees. What was stored stays, what was not is not there; e2fsck judges.
func TestNoSpace(t *testing.T) {
	for _, features := range []string{"metadata_csum,64bit", "metadata_csum,^64bit,^extent"} {
		img := testimage.Make(t, small(features, 8))
		for _, keep := range []int64{1, 2, 3, 5, 6, 7, 90, 171, 345} {
			if testing.Short() && keep > 7 {
				continue
			}
			f := testfs.Open(t, testimage.Copy(t, img), testfs.Options{})
			m := big(f, 4000)
			// A tree that is nearly full, so that the next extents split it.
			for k := range 86 * 4 {
				must(t, m.write(4*k*1024, 1024))
			}
			filler := fill(t, f, keep)
			var err error
			for k := 0; err == nil && k < 900; k++ {
				err = m.write((4*k+2)*1024, 1500)
			}
			if !errors.Is(err, fserr.NoSpace) {
				t.Errorf("%s, %d blocks kept: %v, want %v", features, keep, err, fserr.NoSpace)
			}
			must(t, m.check())
			// Holes in what is there may need a block for the map.
			for k := range 20 {
				if err := m.punch(4*k*1024, 4*k*1024+1024); err != nil && !errors.Is(err, fserr.NoSpace) {
					t.Error(err)
				}
			}
			must(t, f.Unlink(filler))
			f.Put(filler)
			must(t, m.write(3900*1024, 3000))
			must(t, m.check())
			f.Put(m.i)
			f.Close()
		}
	}
}

// TestNoSpaceToSplit: punching and zeroing in the middle of extents needs room in the map; without it nothing changes.
func TestNoSpaceToSplit(t *testing.T) {
	f := testfs.Make(t, small("metadata_csum,64bit", 8))
	m := big(f, 2000)
	must(t, m.write(0, 1200*1024))
	filler := fill(t, f, 0)
	failed := 0
	for k := 1; k < 400; k++ {
		var err error
		if k > 100 && k%2 == 0 { // a hole makes room for later ones
			err = m.punch(2*k*1024, 2*k*1024+1024)
		} else {
			err = m.zero(2*k, 2*k+1)
		}
		if err != nil {
			if failed++; !errors.Is(err, fserr.NoSpace) {
				t.Fatal(err)
			}
			must(t, m.check())
		}
	}
	must(t, m.check())
	if failed == 0 {
		t.Error("no change failed on a full file system")
	}
	f.Put(filler)
	f.Put(m.i)
}

// TestWriteErrors: data that does not reach the device is not in the map, and its blocks are free again.
func TestWriteErrors(t *testing.T) {
	for _, features := range []string{"metadata_csum,64bit", "metadata_csum,^64bit,^extent"} {
		f := testfs.Open(t, testimage.Make(t, small(features, 8)), testfs.Options{ErrorsWanted: true})
		m := big(f, 100)
		must(t, m.write(0, 10*1024))
		free := f.FreeBlocks()
		f.Faults.Add(blockdev.Rule{Op: blockdev.OpWrite, Start: int64(f.BaseMeta(0)+2) * 1024, Err: syscall.EIO})
		m.i.Rw.Lock()
		n, _, err := extent.Write(f.Task, m.i, make([]byte, 2048), 20*1024)
		m.i.Rw.Unlock()
		if n != 0 || !errors.Is(err, syscall.EIO) {
			t.Errorf("write on a failing device: %d, %v", n, err)
		}
		f.Faults.Clear()
		if got := f.FreeBlocks(); got != free {
			t.Errorf("%d blocks are free after a failed write, want %d", got, free)
		}
		must(t, m.check())
		if f.ErrorCount() == 0 {
			t.Error("the error was not recorded")
		}
		f.Faults.Add(blockdev.Rule{Op: blockdev.OpRead, Err: syscall.EIO})
		if err := extent.Read(m.i, make([]byte, 10), 0); !errors.Is(err, syscall.EIO) {
			t.Errorf("read on a failing device: %v", err)
		}
		f.Faults.Clear()
		must(t, m.check())
		f.Put(m.i)
	}
}

// TestGarbageBehindTheEnd: bytes behind i_size in its block, as foreign images have them, do not appear when the file grows.
func TestGarbageBehindTheEnd(t *testing.T) {
	f := testfs.Make(t, small("metadata_csum,64bit", 8))
	m := big(f, 100)
	must(t, m.write(0, 700))
	r, err := extent.Map(m.i, 0, 1)
	must(t, err)
	_, err = f.Dev.WriteAt([]byte{1, 2, 3, 4, 5, 6, 7, 8}, int64(r.Physical)*1024+900)
	must(t, err)
	must(t, m.write(2000, 10))
	must(t, m.check())
	f.Put(m.i)
}
