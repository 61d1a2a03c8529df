package dir

import (
	"errors"
	"io"
	"log/slog"
	"testing"

	"inlinefs/alloc"
	"inlinefs/blockdev"
	"inlinefs/inode"
	"inlinefs/internal/testimage"
	"inlinefs/journal"
	"inlinefs/ondisk"
	"inlinefs/super"
)

// tester is what the helpers need of testing.TB and of rapid's T.
type tester interface {
	Helper()
	Fatal(...any)
	Fatalf(string, ...any)
	Errorf(string, ...any)
}

// env is an image opened by the packages below dir, without a mount.
type env struct {
	t     tester
	img   string // path of the image
	mem   []byte // or the image itself
	dev   blockdev.Device
	fs    *super.FS
	cache *inode.Cache
	task  *journal.Task
	root  *inode.Inode
}

func openEnv(t tester, img string) *env {
	t.Helper()
	e := &env{t: t, img: img}
	e.open()
	return e
}

// openMem opens an image in memory, which changes.
func openMem(t tester, mem []byte) *env {
	t.Helper()
	e := &env{t: t, mem: mem}
	e.open()
	return e
}

func (e *env) open() {
	e.t.Helper()
	var err error
	// No flock: a tool that a parallel test is just starting keeps it for a moment.
	if e.mem != nil {
		e.dev = blockdev.NewMem(e.mem)
	} else if e.dev, err = blockdev.OpenFile(e.img, blockdev.FileOptions{NoLock: true}); err != nil {
		e.t.Fatal(err)
	}
	if e.fs, err = super.Open(e.dev, super.Options{Log: slog.New(slog.NewTextHandler(io.Discard, nil))}); err != nil {
		e.t.Fatal(err)
	}
	if err = e.fs.Begin(); err != nil {
		e.t.Fatal(err)
	}
	e.cache = inode.NewCache(e.fs)
	e.task = e.fs.Journal.NewTask("test", 0)
	if e.root, err = e.cache.Get(ondisk.RootIno); err != nil {
		e.t.Fatal(err)
	}
}

// close writes everything back and lets go of the image.
func (e *env) close() {
	e.t.Helper()
	e.cache.Put(e.root)
	if err := errors.Join(e.task.End(), e.fs.Close(), e.dev.Close()); err != nil {
		e.t.Fatal(err)
	}
}

// with runs fn under a handle of that many credits.
func (e *env) with(credits int, fn func(h *journal.Handle) error) error {
	h, err := e.fs.Journal.Start(e.task, journal.Dir, credits)
	if err != nil {
		return err
	}
	return errors.Join(fn(h), h.Stop())
}

// make makes an inode of that mode and enters it in parent; a directory gets its content.
func (e *env) make(parent *inode.Inode, name string, mode uint16) *inode.Inode {
	e.t.Helper()
	parent.Rw.Lock()
	defer parent.Rw.Unlock()
	var i *inode.Inode
	err := e.with(AddCredits(parent)+100, func(h *journal.Handle) (err error) {
		if i, err = alloc.NewInode(h, e.cache, alloc.New{Mode: mode, Parent: parent}); err != nil {
			return err
		}
		setLinks(i, 1)
		if mode&ondisk.ModeFmt == ondisk.ModeDir {
			setLinks(i, 2)
			if err := Init(h, i, parent.Ino); err != nil {
				return err
			}
			setLinks(parent, parent.Links()+1)
		}
		if err := i.MarkDirty(h); err != nil {
			return err
		}
		return Add(h, parent, []byte(name), i.Ino, ondisk.FtOfMode(mode))
	})
	if err != nil {
		e.t.Fatal(err)
	}
	return i
}

func (e *env) mkdir(name string) *inode.Inode { return e.make(e.root, name, ondisk.ModeDir|0o755) }

func (e *env) mkfile(name string) *inode.Inode { return e.make(e.root, name, ondisk.ModeReg|0o644) }

func setLinks(i *inode.Inode, n uint16) {
	i.Mu.Lock()
	i.Raw.SetLinks(n)
	i.Mu.Unlock()
}

// relink stores the number of names that a file has in the end.
func (e *env) relink(i *inode.Inode, n int) {
	e.t.Helper()
	setLinks(i, uint16(n))
	if err := e.with(1, i.MarkDirty); err != nil {
		e.t.Fatal(err)
	}
}

// dirAs says what form a directory has.
func dirAs(d *inode.Inode) string {
	switch {
	case d.HasInline():
		return "inline"
	case isIndexed(d):
		return "htree"
	}
	return "linear"
}

func (e *env) add(d *inode.Inode, name string, ino uint32) error {
	d.Rw.Lock()
	defer d.Rw.Unlock()
	return e.with(AddCredits(d), func(h *journal.Handle) error { return Add(h, d, []byte(name), ino, ondisk.FtReg) })
}

func (e *env) remove(d *inode.Inode, name string, ino uint32) error {
	d.Rw.Lock()
	defer d.Rw.Unlock()
	return e.with(RemoveCredits(d), func(h *journal.Handle) error { return Remove(h, d, []byte(name), ino) })
}

func (e *env) replace(d *inode.Inode, name string, ino uint32) error {
	d.Rw.Lock()
	defer d.Rw.Unlock()
	return e.with(RemoveCredits(d), func(h *journal.Handle) error { return Replace(h, d, []byte(name), ino, ondisk.FtReg) })
}

// list reads at most n entries from cookie on (all with n < 0) and returns the cookie after them.
func list(t tester, d *inode.Inode, cookie uint64, n int, into func(Entry)) (next uint64, more bool) {
	t.Helper()
	d.Rw.RLock()
	defer d.Rw.RUnlock()
	err := Read(d, cookie, func(e Entry) bool {
		if n == 0 {
			more = true
			return false
		}
		n--
		into(e)
		cookie = e.Cookie
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	return cookie, more
}

// image makes an image whose options are a shape's.
func image(t testing.TB, block, inodeSize int, features string) string {
	t.Helper()
	return testimage.Make(t, testimage.Options{BlockSize: block, InodeSize: inodeSize, Inodes: 256, Features: "^has_journal," + features})
}
