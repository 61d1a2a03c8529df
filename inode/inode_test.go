package inode_test

import (
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"inlinefs/inode"
	"inlinefs/internal/fserr"
	"inlinefs/internal/testfs"
	"inlinefs/internal/testimage"
	"inlinefs/journal"
	"inlinefs/ondisk"
)

func options() testimage.Options {
	return testimage.Options{BlockSize: 4096, InodeSize: 256, Inodes: 64, SizeMiB: 8, Features: "inline_data,metadata_csum,64bit,^has_journal"}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestGetAndPut: one inode in core per number, gone with its last reference, its content stored and read again.
func TestGetAndPut(t *testing.T) {
	f := testfs.Make(t, options())
	i := f.NewFile()
	ino := i.Ino
	when := time.Date(2033, 5, 18, 3, 33, 20, 123456789, time.UTC)
	i.Touch(when, ondisk.Mtime)
	must(t, f.With(f.Task, 1, i.MarkDirty))
	again, err := f.Inodes.Get(ino)
	must(t, err)
	if again != i || f.Inodes.Peek(ino) != i {
		t.Fatal("two inodes in core for one number")
	}
	f.Inodes.PutN(i, 2)
	if f.Inodes.Len() != 1 {
		t.Errorf("%d inodes in core, want 1", f.Inodes.Len())
	}
	f.Put(i)
	if f.Inodes.Len() != 0 || f.Inodes.Peek(ino) != nil {
		t.Error("the inode stays in core without a reference")
	}
	must(t, f.Sync())
	f.Bufs.Drop()
	i, err = f.Inodes.Get(ino)
	must(t, err)
	defer f.Put(i)
	i.Mu.Lock()
	got := i.Raw.Time(ondisk.Mtime)
	i.Mu.Unlock()
	if !got.Equal(when) || !i.IsReg() || i.IsDir() || i.Links() != 1 || i.Mode() != ondisk.ModeReg|0o644 {
		t.Errorf("mtime %v, mode 0%o, %d links", got, i.Mode(), i.Links())
	}
}

// TestNumbers that are no inodes for files, or free ones.
func TestNumbers(t *testing.T) {
	f := testfs.Open(t, testimage.Make(t, options()), testfs.Options{ErrorsWanted: true})
	var c *ondisk.CorruptError
	for _, ino := range []uint32{0, 1, ondisk.JournalIno, f.SB.FirstIno() - 1, f.FS.Inodes + 1, ^uint32(0)} {
		if _, err := f.Inodes.Get(ino); !errors.As(err, &c) {
			t.Errorf("inode %d: %v, want a corruption", ino, err)
		}
	}
	if _, err := f.Inodes.GetSystem(0); !errors.As(err, &c) {
		t.Errorf("system inode 0: %v", err)
	}
	if _, err := f.Inodes.Get(f.FS.Inodes); !errors.Is(err, fserr.Stale) {
		t.Errorf("a free inode: %v, want %v", err, fserr.Stale)
	}
}

// TestDamaged inodes are refused and reported.
func TestDamaged(t *testing.T) {
	img := testimage.Make(t, options())
	for name, damage := range map[string]func(ondisk.Inode){
		"mode":                     func(r ondisk.Inode) { r.SetMode(0o644) },
		"extra size":               func(r ondisk.Inode) { r.SetExtraIsize(400) },
		"extra size odd":           func(r ondisk.Inode) { r.SetExtraIsize(30) },
		"inline data and extents":  func(r ondisk.Inode) { r.SetFlags(r.Flags() | ondisk.FlInlineData | ondisk.FlExtents) },
		"inline data, no entry":    func(r ondisk.Inode) { r.SetFlags(r.Flags()&^ondisk.FlExtents | ondisk.FlInlineData) },
		"size":                     func(r ondisk.Inode) { r.SetSize(1 << 63) },
		"directory size":           func(r ondisk.Inode) { r.SetMode(ondisk.ModeDir | 0o755); r.SetSize(100) },
		"attribute block":          func(r ondisk.Inode) { r.SetFileACL(1) },
		"attribute block, far off": func(r ondisk.Inode) { r.SetFileACL(1 << 40) },
	} {
		t.Run(name, func(t *testing.T) {
			f := testfs.Open(t, testimage.Copy(t, img), testfs.Options{Damaged: true})
			i := f.NewFile()
			ino := i.Ino
			i.Mu.Lock()
			damage(i.Raw)
			i.Mu.Unlock()
			must(t, f.With(f.Task, 1, i.MarkDirty))
			f.Put(i)
			var c *ondisk.CorruptError
			if _, err := f.Inodes.Get(ino); !errors.As(err, &c) || f.ErrorCount() != 1 {
				t.Errorf("%v, %d errors recorded; want a corruption", err, f.ErrorCount())
			}
		})
	}
	t.Run("checksum", func(t *testing.T) {
		f := testfs.Open(t, testimage.Copy(t, img), testfs.Options{Damaged: true})
		g := f.Group(0)
		b, err := f.Bufs.Read(g.Desc.InodeTable())
		must(t, err)
		b.Data()[f.InodeSize+20] ^= 1 // the root's
		b.Release()
		var c *ondisk.CorruptError
		if _, err := f.Inodes.Get(ondisk.RootIno); !errors.As(err, &c) || !c.Checksum {
			t.Errorf("%v, want a wrong checksum", err)
		}
	})
}

// TestSectors counts in units of 512 bytes and not below zero.
func TestSectors(t *testing.T) {
	f := testfs.Make(t, options())
	i := f.NewFile()
	defer f.Put(i)
	sectors := func() uint64 {
		i.Mu.Lock()
		defer i.Mu.Unlock()
		return i.Raw.Sectors(f.HugeFile, f.BlockSize)
	}
	must(t, i.AddSectors(24))
	must(t, i.AddSectors(-16))
	if sectors() != 8 {
		t.Errorf("%d sectors, want 8", sectors())
	}
	var c *ondisk.CorruptError
	if err := i.AddSectors(-16); !errors.As(err, &c) || sectors() != 0 {
		t.Errorf("%v, %d sectors; want a corruption and 0", err, sectors())
	}
}

// TestEvictOnce: eviction runs with the number still taken; whoever asks meanwhile waits and reads anew.
func TestEvictOnce(t *testing.T) {
	f := testfs.Make(t, options())
	i := f.NewFile()
	ino := i.Ino
	entered, leave := make(chan struct{}), make(chan struct{})
	var first atomic.Bool
	f.Inodes.Evict = func(*inode.Inode) {
		if !first.Swap(true) {
			close(entered)
			<-leave
		}
	}
	var wg sync.WaitGroup
	wg.Go(func() { f.Put(i) })
	<-entered
	if f.Inodes.Peek(ino) != nil {
		t.Error("an inode that is being evicted is found")
	}
	got := make(chan *inode.Inode, 1)
	wg.Go(func() {
		n, err := f.Inodes.Get(ino)
		if err != nil {
			t.Error(err)
		}
		got <- n
	})
	close(leave)
	wg.Wait()
	n := <-got
	if n == i {
		t.Error("the evicted inode came back")
	}
	f.Put(n)
}

// TestParallel gets, changes and puts inodes at once; every change is there in the end.
func TestParallel(t *testing.T) {
	f := testfs.Make(t, options())
	var inos []uint32
	for range 8 {
		i := f.NewFile()
		inos = append(inos, i.Ino)
		f.Put(i)
	}
	const workers, rounds = 4, 200
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			task := f.Journal.NewTask("test", uint32(w))
			for n := range rounds {
				if err := bump(f, task, inos[(n+w)%len(inos)]); err != nil {
					t.Error(err)
					return
				}
			}
			if err := task.End(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	var sum int64
	f.Inodes.Each(func(*inode.Inode) { t.Error("an inode is still in core") })
	for _, ino := range inos {
		i, err := f.Inodes.Get(ino)
		must(t, err)
		i.Mu.Lock()
		sum += i.Raw.Time(ondisk.Atime).Unix()
		i.Mu.Unlock()
		f.Put(i)
	}
	if sum != workers*rounds {
		t.Errorf("%d changes are there, want %d", sum, workers*rounds)
	}
}

// bump counts in the access time of an inode, which begins at 0.
func bump(f *testfs.FS, task *journal.Task, ino uint32) error {
	i, err := f.Inodes.Get(ino)
	if err != nil {
		return err
	}
	defer f.Put(i)
	i.Rw.Lock()
	defer i.Rw.Unlock()
	i.Mu.Lock()
	old := i.Raw.Time(ondisk.Atime).Unix()
	if old > 1<<30 { // the time it was made
		old = 0
	}
	i.Raw.SetTime(ondisk.Atime, time.Unix(old+1, 0))
	i.Mu.Unlock()
	return f.With(task, 1, i.MarkDirty)
}
