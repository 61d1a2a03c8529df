package fs

import (
	"github.com/hanwen/go-fuse/v2/fuse"

	"inlinefs/mm"
)

// Notifier takes what the client's kernel is told without having asked; a fuse.Server is one.
type Notifier interface {
	// InodeNotify drops the pages of length bytes from off on (FUSE_NOTIFY_INVAL_INODE), after it has written back the dirty ones.
	InodeNotify(node uint64, off, length int64) fuse.Status
	// InodeNotifyStoreCache puts data into the page at byte off, and raises i_size to its end (FUSE_NOTIFY_STORE).
	InodeNotifyStoreCache(node uint64, off int64, data []byte) fuse.Status
}

// SetNotifier gives the file system its client, as Init does on a mount.
func (f *FileSystem) SetNotifier(n Notifier) { f.client.Store(&n) }

// notify tells the client something, if there is one. An inode that it does not know any more has nothing to be told of.
func (f *FileSystem) notify(what string, node uint64, off int64, tell func(n Notifier) fuse.Status) {
	n := f.client.Load()
	if n == nil {
		return
	}
	if st := tell(*n); st != fuse.OK && st != fuse.ENOENT {
		f.log.Debug(what, "inode", node, "offset", off, "status", st.String())
	}
}

// refill has the kernel drop the page at byte off, which may lack bytes of the file, so that the next touch fills it anew. The kernel waits for
// a fill or a write-back of it that is being served, and so nobody here waits for the kernel. 6.12.y and 6.18.y drop it in write(2) as well.
func (f *FileSystem) refill(node uint64, off int64) {
	go f.notify("a page that lacks bytes is not dropped", node, off, func(n Notifier) fuse.Status { return n.InodeNotify(node, off, 1) })
}

var zero [1]byte

// raise has the kernel raise i_size before it hears that its write, which stored data behind the old size, is done: it would do so itself only
// some time after the answer (fuse_write_update_attr), and a page that is filled and written back in between is zeroed behind the old i_size.
// FUSE_NOTIFY_STORE of a byte that the file has anyway does it. It is enough to raise it to the end of the page of the old size: no page
// behind can be touched before. No lock of the inode is held: the kernel waits for the page, which a fault may have locked.
func (f *FileSystem) raise(in *fuse.WriteIn, data []byte, old uint64) {
	last := min(in.Offset+uint64(len(data)), (old+mm.PageSize-1)/mm.PageSize*mm.PageSize) - 1
	if len(data) == 0 || last < old {
		return
	}
	b := zero[:] // of the hole before the bytes
	if last >= in.Offset {
		b = data[last-in.Offset:][:1]
	}
	f.notify("i_size is not raised", in.NodeId, int64(last), func(n Notifier) fuse.Status {
		return n.InodeNotifyStoreCache(in.NodeId, int64(last), b)
	})
}
