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

// dropPage has the kernel drop the page at byte off, so that the next touch fills it anew. No lock of the inode is held: the kernel waits for a
// fill and for a write-back of the page, which are served meanwhile.
func (f *FileSystem) dropPage(node uint64, off uint64) {
	f.notify("a page is not dropped", node, int64(off), func(n Notifier) fuse.Status { return n.InodeNotify(node, int64(off), 1) })
}

// raise has the kernel raise i_size before it hears that its write, which stored data behind the old size, is done: it would do so itself only
// some time after the answer (fuse_write_update_attr), and a page that is filled and written back in between is zeroed behind the old i_size.
// FUSE_NOTIFY_STORE of what the file has there does it. It is enough to raise it to the end of the page of the old size: no page behind can
// be touched before. That page is dropped first: a cached reader must not see one that was filled before the write, by the new size.
// No lock of the inode is held, as in dropPage.
func (f *FileSystem) raise(in *fuse.WriteIn, data []byte, old uint64) {
	end := min(in.Offset+uint64(len(data)), (old+mm.PageSize-1)/mm.PageSize*mm.PageSize)
	if len(data) == 0 || end <= old {
		return
	}
	f.dropPage(in.NodeId, old)
	b := data
	if in.Offset != old || end != old+uint64(len(data)) {
		b = make([]byte, end-old) // a hole before the bytes, or what they wrote over
		if in.Offset < end {
			copy(b[max(in.Offset, old)-old:], data[max(in.Offset, old)-in.Offset:])
		}
	}
	f.notify("i_size is not raised", in.NodeId, int64(old), func(n Notifier) fuse.Status {
		return n.InodeNotifyStoreCache(in.NodeId, int64(old), b)
	})
}
