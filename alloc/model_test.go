package alloc_test

import (
	"errors"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"inlinefs/alloc"
	"inlinefs/blockdev"
	"inlinefs/inode"
	"inlinefs/internal/fserr"
	"inlinefs/internal/testfs"
	"inlinefs/internal/testimage"
	"inlinefs/journal"
	"inlinefs/ondisk"
)

// shapes are those of the table that a write without a log understands; with -short a few of them.
func shapes(t *testing.T) []testimage.Shape {
	all := slices.DeleteFunc(testimage.Shapes(), func(s testimage.Shape) bool { return s.Journal || s.Name == "large-dir-ea-inode" })
	if testing.Short() {
		short := []string{"b1024-i128", "b4096-i256", "uninit-bg", "no-csum", "meta-bg", "many-groups"}
		all = slices.DeleteFunc(all, func(s testimage.Shape) bool { return !slices.Contains(short, s.Name) })
	}
	if len(all) == 0 {
		t.Fatal("no shapes")
	}
	return all
}

// model remembers who owns which block.
type model struct {
	f    *testfs.FS
	file *inode.Inode
	runs []run
	own  map[uint64]bool
	free int64
}

type run struct {
	start uint64
	n     uint32
}

func newModel(f *testfs.FS) *model {
	return &model{f: f, file: f.BlockFile(), own: map[uint64]bool{}, free: f.FreeBlocks()}
}

func (m *model) take(t *rapid.T) {
	want := rapid.Uint32Range(1, 300).Draw(t, "want")
	goal := rapid.Uint64Range(0, m.f.Blocks+10).Draw(t, "goal")
	var at uint64
	var n uint32
	err := m.f.With(m.f.Task, 64, func(h *journal.Handle) (err error) {
		at, n, err = alloc.NewBlocks(h, m.file, goal, want)
		return err
	})
	if errors.Is(err, fserr.NoSpace) && m.free == 0 {
		return
	}
	if err != nil {
		t.Fatalf("%d blocks at %d with %d free: %v", want, goal, m.free, err)
	}
	if n == 0 || n > want || !m.f.ValidBlocks(at, uint64(n)) {
		t.Fatalf("got %d blocks at %d, want 1 to %d data blocks", n, at, want)
	}
	for b := at; b < at+uint64(n); b++ {
		if m.own[b] {
			t.Fatalf("block %d was given out twice", b)
		}
		m.own[b] = true
	}
	m.runs = append(m.runs, run{at, n})
	m.free -= int64(n)
}

// give frees a part of a run.
func (m *model) give(t *rapid.T) {
	if len(m.runs) == 0 {
		t.Skip("nothing is taken")
	}
	k := rapid.IntRange(0, len(m.runs)-1).Draw(t, "run")
	r := m.runs[k]
	lo := rapid.Uint32Range(0, r.n-1).Draw(t, "from")
	n := rapid.Uint32Range(1, r.n-lo).Draw(t, "count")
	meta := rapid.Bool().Draw(t, "metadata")
	if err := m.release(r.start+uint64(lo), n, meta); err != nil {
		t.Fatal(err)
	}
	m.runs = slices.Delete(m.runs, k, k+1)
	if lo > 0 {
		m.runs = append(m.runs, run{r.start, lo})
	}
	if lo+n < r.n {
		m.runs = append(m.runs, run{r.start + uint64(lo+n), r.n - lo - n})
	}
}

func (m *model) release(at uint64, n uint32, meta bool) error {
	err := m.f.With(m.f.Task, 16, func(h *journal.Handle) error { return alloc.FreeBlocks(h, m.file, at, n, meta) })
	if err == nil {
		for b := at; b < at+uint64(n); b++ {
			delete(m.own, b)
		}
		m.free += int64(n)
	}
	return err
}

func (m *model) check(t *rapid.T) {
	if got := m.f.FreeBlocks(); got != m.free {
		t.Fatalf("%d blocks are free, want %d", got, m.free)
	}
	var sum int64
	for n := range m.f.Groups() {
		g := m.f.Group(n)
		g.Mu.Lock()
		sum += int64(g.Desc.FreeBlocks())
		g.Mu.Unlock()
	}
	if sum != m.free {
		t.Fatalf("the descriptors have %d free blocks, want %d", sum, m.free)
	}
}

// empty gives everything back, so that the next case begins where this one did.
func (m *model) empty(t *rapid.T) {
	for _, r := range m.runs {
		if err := m.release(r.start, r.n, false); err != nil {
			t.Fatal(err)
		}
	}
	m.runs = nil
}

// TestBlocksModel takes and frees runs against a set of owned blocks, on every shape; e2fsck counts at the end.
func TestBlocksModel(t *testing.T) {
	for _, s := range shapes(t) {
		t.Run(s.Name, func(t *testing.T) {
			f := testfs.Make(t, s.Options)
			m := newModel(f)
			defer f.Put(m.file)
			rapid.Check(t, func(t *rapid.T) {
				t.Repeat(map[string]func(*rapid.T){"take": m.take, "give": m.give, "": m.check})
				m.empty(t)
			})
			if f.ErrorCount() != 0 {
				t.Errorf("%d errors were recorded", f.ErrorCount())
			}
		})
	}
}

// TestFull takes the last block and gives all back.
func TestFull(t *testing.T) {
	for _, name := range []string{"b1024-i256", "many-groups", "uninit-bg"} {
		t.Run(name, func(t *testing.T) {
			s := shape(t, name)
			f := testfs.Make(t, s.Options)
			m := newModel(f)
			defer f.Put(m.file)
			for m.free > 0 {
				var at uint64
				var n uint32
				err := f.With(f.Task, 64, func(h *journal.Handle) (err error) {
					at, n, err = alloc.NewBlocks(h, m.file, 0, 1000)
					return err
				})
				if err != nil {
					t.Fatalf("with %d free: %v", m.free, err)
				}
				m.runs, m.free = append(m.runs, run{at, n}), m.free-int64(n)
			}
			err := f.With(f.Task, 16, func(h *journal.Handle) error {
				_, err := alloc.NewBlock(h, m.file, 0)
				return err
			})
			if !errors.Is(err, fserr.NoSpace) {
				t.Errorf("a block of a full file system: %v, want %v", err, fserr.NoSpace)
			}
			for _, r := range m.runs {
				if err := m.release(r.start, r.n, false); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

func shape(t *testing.T, name string) testimage.Shape {
	t.Helper()
	for _, s := range testimage.Shapes() {
		if s.Name == name {
			return s
		}
	}
	t.Fatalf("no shape %s", name)
	return testimage.Shape{}
}

// TestReserved: the last blocks are for root alone.
func TestReserved(t *testing.T) {
	f := testfs.Make(t, shape(t, "b4096-i256").Options)
	if f.Reserved == 0 {
		t.Skip("mkfs.ext4 reserved no blocks")
	}
	m := newModel(f)
	defer f.Put(m.file)
	user := f.Journal.NewTask("user", 1)
	user.UID = 1000
	take := func(task *journal.Task, want uint32) error {
		return f.With(task, 64, func(h *journal.Handle) error {
			at, n, err := alloc.NewBlocks(h, m.file, 0, want)
			if err == nil {
				m.runs, m.free = append(m.runs, run{at, n}), m.free-int64(n)
			}
			return err
		})
	}
	for m.free > int64(f.Reserved) {
		if err := take(user, 1<<20); err != nil {
			t.Fatalf("with %d free, %d reserved: %v", m.free, f.Reserved, err)
		}
	}
	if m.free != int64(f.Reserved) {
		t.Errorf("%d blocks are free, want the %d reserved ones", m.free, f.Reserved)
	}
	if err := take(user, 1); !errors.Is(err, fserr.NoSpace) {
		t.Errorf("a user gets a reserved block: %v", err)
	}
	if err := take(f.Task, 1); err != nil {
		t.Errorf("root does not get a reserved block: %v", err)
	}
	for _, r := range m.runs {
		if err := m.release(r.start, r.n, false); err != nil {
			t.Fatal(err)
		}
	}
	if err := user.End(); err != nil {
		t.Fatal(err)
	}
}

// TestDoubleFree: a block that is free, or the file system's own, is not freed; the group is not trusted any more.
func TestDoubleFree(t *testing.T) {
	img := testimage.Make(t, shape(t, "b4096-i256").Options)
	for _, tc := range []struct {
		name    string
		corrupt bool // the group is out of use afterwards
		at      func(m *model) uint64
	}{
		{"free block", true, func(m *model) uint64 {
			var at uint64
			err := m.f.With(m.f.Task, 16, func(h *journal.Handle) (err error) {
				at, err = alloc.NewBlock(h, m.file, 0)
				return err
			})
			if err == nil {
				err = m.f.With(m.f.Task, 16, func(h *journal.Handle) error { return alloc.FreeBlocks(h, m.file, at, 1, false) })
			}
			if err != nil {
				m.f.T.Fatal(err)
			}
			return at
		}},
		{"superblock", false, func(*model) uint64 { return 0 }},
		{"inode table", false, func(m *model) uint64 { return m.f.Group(0).Desc.InodeTable() }},
		{"beyond the device", false, func(m *model) uint64 { return m.f.Blocks }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := testfs.Open(t, testimage.Copy(t, img), testfs.Options{ErrorsWanted: true})
			m := newModel(f)
			defer f.Put(m.file)
			at, free := tc.at(m), f.FreeBlocks()
			var c *ondisk.CorruptError
			if err := m.release(at, 1, false); !errors.As(err, &c) {
				t.Fatalf("free of block %d: %v, want a corruption", at, err)
			}
			if f.FreeBlocks() != free || f.ErrorCount() != 1 {
				t.Errorf("%d blocks free after %d, %d errors", f.FreeBlocks(), free, f.ErrorCount())
			}
			err := f.With(f.Task, 16, func(h *journal.Handle) error {
				at, err := alloc.NewBlock(h, m.file, 0)
				if err != nil {
					return err
				}
				return alloc.FreeBlocks(h, m.file, at, 1, false)
			})
			if (err != nil) != tc.corrupt {
				t.Errorf("allocation afterwards: %v, want an error: %v", err, tc.corrupt)
			}
		})
	}
}

// TestSeedImage: the planted descriptor makes every allocation a lack of space, as in the kernel; the first one finds and records it.
func TestSeedImage(t *testing.T) {
	f := testfs.Open(t, testimage.Seed(t), testfs.Options{Damaged: true})
	file := f.NewFile()
	defer f.Put(file)
	one := func() error {
		return f.With(f.Task, 16, func(h *journal.Handle) error {
			_, err := alloc.NewBlock(h, file, 0)
			return err
		})
	}
	if err := one(); !errors.Is(err, fserr.NoSpace) || f.ErrorCount() != 1 {
		t.Fatalf("the first allocation: %v, %d errors recorded; want %v and 1", err, f.ErrorCount(), fserr.NoSpace)
	}
	g := f.Group(0)
	g.Mu.Lock()
	bad := g.BlocksCorrupt
	g.Mu.Unlock()
	if !bad {
		t.Error("the group is still in use")
	}
	for range 3 {
		if err := one(); !errors.Is(err, fserr.NoSpace) {
			t.Errorf("a later allocation: %v, want %v", err, fserr.NoSpace)
		}
	}
	if f.ErrorCount() != 1 {
		t.Errorf("%d errors are recorded, want the first only", f.ErrorCount())
	}
}

// TestBitmapUnreadable: an unreadable bitmap takes its group out of use and no other.
func TestBitmapUnreadable(t *testing.T) {
	o := shape(t, "many-groups").Options
	o.Features = "^metadata_csum,^uninit_bg,64bit" // no bitmap is made up from the layout
	f := testfs.Open(t, testimage.Make(t, o), testfs.Options{ErrorsWanted: true})
	file := f.BlockFile()
	defer f.Put(file)
	at := int64(f.Group(2).Desc.BlockBitmap()) * int64(f.BlockSize)
	f.Bufs.Drop()
	f.Faults.Add(blockdev.Rule{Op: blockdev.OpRead, Start: at, End: at + int64(f.BlockSize), Err: fserr.IO})
	err := f.With(f.Task, 16, func(h *journal.Handle) error {
		blk, err := alloc.NewBlock(h, file, f.GroupFirst(2)+100)
		if err != nil {
			return err
		}
		if g, _ := f.GroupOf(blk); g == 2 {
			t.Errorf("block %d is in the group whose bitmap cannot be read", blk)
		}
		return alloc.FreeBlocks(h, file, blk, 1, false)
	})
	if err != nil {
		t.Fatal(err)
	}
	if f.ErrorCount() != 1 {
		t.Errorf("%d errors are recorded, want 1", f.ErrorCount())
	}
}
