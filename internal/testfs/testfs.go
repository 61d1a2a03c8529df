// Package testfs opens ext4 images by the packages below fs, without a mount: tests of alloc, extent, inline, inode and super make and
// change files through it. When a test ends the image is closed and judged by e2fsck and by package check.
package testfs

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"inlinefs/alloc"
	"inlinefs/blockdev"
	"inlinefs/check"
	"inlinefs/dir"
	"inlinefs/extent"
	"inlinefs/inline"
	"inlinefs/inode"
	"inlinefs/internal/testimage"
	"inlinefs/journal"
	"inlinefs/mm"
	"inlinefs/ondisk"
	"inlinefs/super"
	"inlinefs/xattr"
)

// FS is an open image.
type FS struct {
	// What stands here is immutable once Open has returned.
	*super.FS
	T      testing.TB
	Image  string // path of the image
	Inodes *inode.Cache
	Engine *inline.Engine
	Faults *blockdev.Faulty // between the file system and the image
	Task   *journal.Task    // the test's own task
	hook   *hooked
	dev    blockdev.Device
	o      Options

	mu     sync.Mutex
	names  int  // guarded by mu
	closed bool // guarded by mu
}

// Options say how an image is opened and judged.
type Options struct {
	Super super.Options
	// Strategy of the inline engine; empty is the build's default.
	Strategy string
	// Damaged says that the image is expected to be unsound at the end: it is not judged.
	Damaged bool
	// ErrorsWanted says that the mount is expected to record errors in the superblock, which checkers point out: only what e2fsck says
	// beside that counts.
	ErrorsWanted bool
	// Mem keeps the image in memory while it is open and writes nothing back: for images that must stay as they are. Implies Damaged.
	Mem []byte
}

// Open opens the image at path and registers its closing and judgement with t.
func Open(t testing.TB, path string, o Options) *FS {
	t.Helper()
	f, err := Try(t, path, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Close)
	return f
}

// Make makes an image of options m and opens it.
func Make(t testing.TB, m testimage.Options) *FS {
	t.Helper()
	return Open(t, testimage.Make(t, m), Options{})
}

// Try is Open that returns why the image is not mounted; the caller closes what it returns.
func Try(t testing.TB, path string, o Options) (*FS, error) {
	t.Helper()
	if o.Super.Log == nil {
		o.Super.Log = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	f := &FS{T: t, Image: path, o: o}
	var err error
	if o.Mem != nil {
		f.dev, f.o.Damaged = blockdev.NewMem(o.Mem), true
	} else if f.dev, err = blockdev.OpenFile(path, blockdev.FileOptions{ReadOnly: o.Super.ReadOnly}); err != nil {
		return nil, err
	}
	f.hook = &hooked{Device: f.dev}
	f.Faults = blockdev.NewFaulty(f.hook)
	s, err := inline.ByName(o.Strategy)
	if err != nil {
		return nil, errors.Join(err, f.dev.Close())
	}
	o.Super.Strategy = s.Name()
	var cache *inode.Cache
	if f.FS, err = super.Open(f.Faults, o.Super); err != nil {
		return nil, errors.Join(err, f.dev.Close())
	}
	if err = f.Begin(); err != nil {
		return nil, errors.Join(err, f.FS.Close(), f.dev.Close())
	}
	cache = inode.NewCache(f.FS)
	cache.Observe = true
	cache.Evict = f.evict
	f.Inodes = cache
	f.Engine = &inline.Engine{FS: f.FS, Strategy: s, Budget: mm.NewBudget(1 << 20)}
	f.Task = f.Journal.NewTask("test", 0)
	return f, nil
}

// hooked calls a function of the test's before a request.
type hooked struct {
	blockdev.Device
	fn atomic.Pointer[func(op blockdev.Op, off int64) error]
}

func (d *hooked) call(op blockdev.Op, off int64) error {
	if fn := d.fn.Load(); fn != nil {
		return (*fn)(op, off)
	}
	return nil
}

// ReadAt reads unless the function objects.
func (d *hooked) ReadAt(p []byte, off int64) (int, error) {
	if err := d.call(blockdev.OpRead, off); err != nil {
		return 0, err
	}
	return d.Device.ReadAt(p, off)
}

// WriteAt writes unless the function objects.
func (d *hooked) WriteAt(p []byte, off int64) (int, error) {
	if err := d.call(blockdev.OpWrite, off); err != nil {
		return 0, err
	}
	return d.Device.WriteAt(p, off)
}

// Once runs fn before the next read or write that begins in a block which match accepts; an error of fn fails the request. fn may issue
// requests of its own: it runs on another goroutine, as what it plays would, while the request waits.
func (f *FS) Once(op blockdev.Op, match func(block uint64) bool, fn func() error) {
	var done atomic.Bool
	h := func(o blockdev.Op, off int64) error {
		if o != op || !match(uint64(off)/uint64(f.BlockSize)) || done.Swap(true) {
			return nil
		}
		err := errors.New("the test's function did not return")
		end := make(chan struct{})
		go func() {
			defer close(end)
			err = fn()
		}()
		<-end
		return err
	}
	f.hook.fn.Store(&h)
}

// Close closes the image once and judges it.
func (f *FS) Close() {
	f.T.Helper()
	f.mu.Lock()
	done := f.closed
	f.closed = true
	f.mu.Unlock()
	if done {
		return
	}
	f.Faults.Clear()
	f.hook.fn.Store(nil)
	if n := f.Inodes.Len(); n != 0 {
		f.T.Errorf("%d inodes are still held at the end", n)
	}
	if err := errors.Join(f.Task.End(), f.FS.Close(), f.dev.Close()); err != nil {
		f.T.Errorf("close of %s: %v", f.Image, err)
	}
	if !f.o.Damaged {
		f.judge()
	}
}

// judge holds the closed image against e2fsck and package check.
func (f *FS) judge() {
	f.T.Helper()
	if !f.o.ErrorsWanted {
		testimage.Fsck(f.T, f.Image)
	}
	dev, err := blockdev.OpenFile(f.Image, blockdev.FileOptions{ReadOnly: true})
	if err != nil {
		f.T.Error(err)
		return
	}
	defer func() {
		if err := dev.Close(); err != nil {
			f.T.Error(err)
		}
	}()
	r, err := check.Image(dev, check.Options{})
	if err != nil {
		f.T.Error(err)
		return
	}
	for _, x := range r.Findings {
		if !f.o.ErrorsWanted || x.Class != check.ClassState {
			f.T.Errorf("check of %s: %v", f.Image, x)
		}
	}
}

// With runs fn under a handle of that many credits in task t.
func (f *FS) With(t *journal.Task, credits int, fn func(h *journal.Handle) error) error {
	h, err := f.Journal.Start(t, journal.Misc, credits)
	if err != nil {
		return err
	}
	return errors.Join(fn(h), h.Stop())
}

// Root is the root directory with a reference; give it back with Put.
func (f *FS) Root() *inode.Inode {
	f.T.Helper()
	r, err := f.Inodes.Get(ondisk.RootIno)
	if err != nil {
		f.T.Fatal(err)
	}
	return r
}

// Put gives a reference back.
func (f *FS) Put(i *inode.Inode) { f.Inodes.Put(i) }

// NewFile makes an empty regular file with a name of its own in the root and returns it with a reference; fs.Create does the same.
func (f *FS) NewFile() *inode.Inode {
	f.T.Helper()
	i, err := f.TryFile(ondisk.ModeReg | 0o644)
	if err != nil {
		f.T.Fatal(err)
	}
	return i
}

// TryFile makes an inode of that mode in the root, a directory with its content, or says why it cannot.
func (f *FS) TryFile(mode uint16) (*inode.Inode, error) {
	f.mu.Lock()
	f.names++
	name := fmt.Sprintf("file%d", f.names)
	f.mu.Unlock()
	root := f.Root()
	defer f.Put(root)
	root.Rw.Lock()
	defer root.Rw.Unlock()
	var i *inode.Inode
	err := f.With(f.Task, dir.AddCredits(root)+64, func(h *journal.Handle) (err error) {
		if i, err = alloc.NewInode(h, f.Inodes, alloc.New{Mode: mode, Parent: root}); err != nil {
			return err
		}
		setLinks(i, 1)
		if mode&ondisk.ModeFmt == ondisk.ModeDir {
			setLinks(i, 2)
			if err := dir.Init(h, i, root.Ino); err != nil {
				return err
			}
			setLinks(root, root.Links()+1)
			if err := root.MarkDirty(h); err != nil {
				return err
			}
		} else {
			i.MayInline.Store(f.InlineData && mode&ondisk.ModeFmt == ondisk.ModeReg && inline.Max(i) > 0)
		}
		if err := i.MarkDirty(h); err != nil {
			return err
		}
		return dir.Add(h, root, []byte(name), i.Ino, ondisk.FtOfMode(mode))
	})
	if err == nil {
		return i, nil
	}
	if i != nil {
		// Without a name it must not stay: with no links it is freed with the last reference.
		setLinks(i, 0)
		f.Put(i)
	}
	return nil, err
}

// BlockFile is NewFile for a file that is mapped by blocks from the start.
func (f *FS) BlockFile() *inode.Inode {
	f.T.Helper()
	i := f.NewFile()
	i.MayInline.Store(false)
	return i
}

func setLinks(i *inode.Inode, n uint16) {
	i.Mu.Lock()
	i.Raw.SetLinks(n)
	i.Mu.Unlock()
}

// Unlink removes the file's name; it is freed with its last reference.
func (f *FS) Unlink(i *inode.Inode) error {
	root := f.Root()
	defer f.Put(root)
	root.Rw.Lock()
	defer root.Rw.Unlock()
	var name []byte
	err := dir.Read(root, 0, func(e dir.Entry) bool {
		if e.Ino == i.Ino && string(e.Name) != "." {
			name = append(name, e.Name...)
		}
		return true
	})
	if err != nil {
		return err
	}
	return f.With(f.Task, dir.RemoveCredits(root)+2, func(h *journal.Handle) error {
		if err := dir.Remove(h, root, name, i.Ino); err != nil {
			return err
		}
		setLinks(i, 0)
		return i.MarkDirty(h)
	})
}

// evict frees what a deleted inode owns, as fs does, without the orphan list.
func (f *FS) evict(i *inode.Inode) {
	if i.Links() != 0 || f.ReadOnly() {
		return
	}
	t := f.Journal.NewTask("evict", 0)
	err := f.free(t, i)
	if e := t.End(); err == nil {
		err = e
	}
	if err != nil {
		f.T.Errorf("%s: not freed: %v", i.Name(), err)
	}
}

func (f *FS) free(t *journal.Task, i *inode.Inode) error {
	isDir := i.IsDir()
	if !i.HasInline() && (i.IsReg() || isDir) {
		if err := extent.Remove(t, i, 0, uint32(extent.MaxBlocks(i))); err != nil {
			return err
		}
	}
	return f.With(t, alloc.Credits*2+xattr.SetCredits(i)+4, func(h *journal.Handle) error {
		if err := xattr.ReleaseBlock(h, i); err != nil {
			return err
		}
		i.Mu.Lock()
		i.Raw.SetDtime(uint32(time.Now().Unix()))
		i.Raw.SetSize(0)
		i.Mu.Unlock()
		if err := i.MarkDirty(h); err != nil {
			return err
		}
		return alloc.FreeInode(h, i, isDir)
	})
}
