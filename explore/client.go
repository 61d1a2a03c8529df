//go:build explore

package explore

import (
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"

	"inlinefs/internal/control"
	"inlinefs/internal/lock"
)

const pageSize = 4096

// clientFolio is the client's lock of folio 0 while the daemon serves a fill or a write-back of it. clientSize makes every look at i_size, and
// every change of it, a step; the kernel has no lock there.
var (
	clientFolio = &lock.Class{Name: "client's folio lock", Rank: 25}
	clientSize  = &lock.Class{Name: "client's i_size", Rank: 26}
)

// client is the kernel's side of the one file: its page, and the requests that a system call becomes (fuse-in-go.md, C2 and C3).
type client struct {
	w    *world // immutable
	node uint64 // immutable

	folio   lock.Mutex
	present bool           // guarded by folio
	dirty   bool           // guarded by folio
	data    [pageSize]byte // guarded by folio
	lost    bool           // guarded by folio; a write-back was answered with an error

	sizeMu lock.Mutex
	size   uint64 // guarded by sizeMu; i_size as the client knows it
}

func newClient(w *world, node, size uint64) *client {
	c := &client{w: w, node: node, size: size}
	lock.NameMutex(&c.folio, clientFolio, node)
	lock.NameMutex(&c.sizeMu, clientSize, node)
	return c
}

func (c *client) header(pid uint32) fuse.InHeader {
	return fuse.InHeader{NodeId: c.node, Caller: fuse.Caller{Pid: pid}}
}

// observed is the handle that the daemon gives to an observed open.
const observed = 1

// write is write(2) on a direct-I/O file: dirty pages in the range are laundered and dropped before the request, what was dirtied meanwhile
// after it, and only then i_size is raised (fuse_direct_write_iter).
func (c *client) write(pid uint32, off uint64, p []byte) fuse.Status {
	if st := c.launder(true); st != fuse.OK {
		return st
	}
	in := fuse.WriteIn{InHeader: c.header(pid), Fh: observed, Offset: off, Size: uint32(len(p)), WriteFlags: fuse.WRITE_LOCKOWNER}
	n, st := c.w.fs.Write(nil, &in, p)
	if st == fuse.OK && int(n) != len(p) {
		st = fuse.Status(syscall.ENOSPC)
	}
	c.launder(true)
	if st == fuse.OK {
		c.grow(off + uint64(n))
	}
	return st
}

// look asks something of the page and changes nothing: looks of several threads commute.
func (c *client) look(ask func() bool) bool {
	lock.Reading(&c.folio)
	c.folio.Lock()
	defer c.folio.Unlock()
	return ask()
}

// isize is i_size now.
func (c *client) isize() uint64 {
	lock.Reading(&c.sizeMu)
	c.sizeMu.Lock()
	defer c.sizeMu.Unlock()
	return c.size
}

func (c *client) setSize(size uint64) {
	c.sizeMu.Lock()
	c.size = size
	c.sizeMu.Unlock()
}

// grow makes i_size at least size. Nobody else changes it meanwhile: those who do hold i_rwsem.
func (c *client) grow(size uint64) {
	if c.isize() < size {
		c.setSize(size)
	}
}

// read is read(2) on a direct-I/O file.
func (c *client) read(pid uint32, n int) ([]byte, fuse.Status) {
	c.launder(false)
	return c.w.read(c.header(pid), fuse.READ_LOCKOWNER, n)
}

// launder writes the page back if it is dirty; drop says that it leaves the cache.
func (c *client) launder(drop bool) fuse.Status {
	if !c.look(func() bool { return c.present }) {
		return fuse.OK
	}
	c.folio.Lock()
	defer c.folio.Unlock()
	st := fuse.OK
	if c.present && c.dirty {
		c.dirty = false
		st = c.writepage()
	}
	if drop {
		c.present = false
	}
	return st
}

// writepage zeroes the page behind i_size (iomap_writeback_handle_eof) and sends it, cut at i_size as it is then (fuse_send_writepage): it may have
// been raised in between. The folio is locked (it is under write-back).
func (c *client) writepage() fuse.Status {
	clear(c.data[min(c.isize(), pageSize):])
	n := min(c.isize(), pageSize)
	if n == 0 {
		return fuse.OK
	}
	in := fuse.WriteIn{InHeader: c.header(0), Fh: observed, Size: uint32(n), WriteFlags: fuse.WRITE_CACHE}
	_, st := c.w.fs.Write(nil, &in, c.data[:n])
	if st != fuse.OK {
		c.lost = true
	}
	return st
}

// store is a store through a shared mapping: a fault that fills the page if it is not there, then the bytes. Beyond i_size, and when the
// fill fails, it is SIGBUS.
func (c *client) store(pid uint32, off uint64, p []byte) fuse.Status {
	c.folio.Lock()
	defer c.folio.Unlock()
	if off+uint64(len(p)) > (c.isize()+pageSize-1)&^(pageSize-1) {
		return fuse.Status(syscall.EFAULT)
	}
	if !c.present {
		b, st := c.w.read(c.header(pid), 0, pageSize)
		if st != fuse.OK {
			return st
		}
		clear(c.data[copy(c.data[:], b):])
		c.present = true
	}
	copy(c.data[off:], p)
	c.dirty = true
	return fuse.OK
}

// touch is a read through the mapping, or any other fill of the page.
func (c *client) touch(pid uint32) fuse.Status {
	c.folio.Lock()
	defer c.folio.Unlock()
	if c.present {
		return fuse.OK
	}
	b, st := c.w.read(c.header(pid), 0, pageSize)
	if st == fuse.OK {
		clear(c.data[copy(c.data[:], b):])
		c.present = true
	}
	return st
}

// announce is mmap(2) of a shared-writable mapping under the listener.
func (c *client) announce(pid uint32) fuse.Status {
	in := fuse.IoctlIn{InHeader: c.header(pid), Fh: observed, Cmd: control.IOCAnnounceMmap}
	return c.w.fs.Ioctl(nil, &in, nil, &fuse.IoctlOut{}, nil)
}

// truncate is ftruncate(2): afterwards the page beyond the new size is zeroed.
func (c *client) truncate(pid uint32, size uint64) fuse.Status {
	in := fuse.SetAttrIn{SetAttrInCommon: fuse.SetAttrInCommon{InHeader: c.header(pid), Valid: fuse.FATTR_SIZE, Size: size}}
	st := c.w.fs.SetAttr(nil, &in, &fuse.AttrOut{})
	if st != fuse.OK {
		return st
	}
	c.setSize(size)
	c.folio.Lock()
	defer c.folio.Unlock()
	if size < pageSize {
		clear(c.data[size:])
	}
	return st
}

// fallocate is fallocate(2) of mode 0.
func (c *client) fallocate(pid uint32, size uint64) fuse.Status {
	in := fuse.FallocateIn{InHeader: c.header(pid), Fh: observed, Length: size}
	st := c.w.fs.Fallocate(nil, &in)
	if st == fuse.OK {
		c.grow(size)
	}
	return st
}

// setxattr sets a user attribute, which takes room from the inline data.
func (c *client) setxattr(pid uint32, name string, value []byte) fuse.Status {
	in := fuse.SetXAttrIn{InHeader: c.header(pid), Size: uint32(len(value))}
	return c.w.fs.SetXAttr(nil, &in, name, value)
}

// fsync is fsync(2): the page, then the file.
func (c *client) fsync(pid uint32) fuse.Status {
	if st := c.launder(false); st != fuse.OK {
		return st
	}
	return c.w.fs.Fsync(nil, &fuse.FsyncIn{InHeader: c.header(pid), Fh: observed})
}

// InodeNotify is fuse_reverse_inval_inode.
func (c *client) InodeNotify(uint64, int64, int64) fuse.Status { return c.launder(true) }

// InodeNotifyStoreCache is fuse_notify_store: i_size first, then the page if it is there; one that is not stays without the rest of its bytes.
func (c *client) InodeNotifyStoreCache(_ uint64, off int64, p []byte) fuse.Status {
	c.grow(uint64(off) + uint64(len(p)))
	if !c.look(func() bool { return c.present }) {
		return fuse.OK
	}
	c.folio.Lock()
	defer c.folio.Unlock()
	if c.present {
		copy(c.data[off:], p)
	}
	return fuse.OK
}
