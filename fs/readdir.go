package fs

import (
	"github.com/hanwen/go-fuse/v2/fuse"

	"inlinefs/dir"
	"inlinefs/inode"
	"inlinefs/ondisk"
)

// OpenDir opens a directory; without observation the kernel is told to stop asking, and caches what it reads.
func (f *FileSystem) OpenDir(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	if f.stateless {
		return fuse.ENOSYS
	}
	out.OpenFlags = fuse.FOPEN_CACHE_DIR | fuse.FOPEN_KEEP_CACHE
	return fuse.OK
}

// ReleaseDir has nothing to give back.
func (f *FileSystem) ReleaseDir(*fuse.ReleaseIn) {}

// ReadDir lists names. The cookies are stable: a listing goes on where it stopped whatever happened meanwhile.
func (f *FileSystem) ReadDir(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	d, err := f.dir(in.NodeId)
	if err != nil {
		return errno(err)
	}
	defer f.put(d)
	d.Rw.RLock()
	defer d.Rw.RUnlock()
	return errno(dir.Read(d, in.Offset, func(e dir.Entry) bool {
		return out.AddDirEntry(fuse.DirEntry{Name: string(e.Name), Ino: uint64(e.Ino), Mode: ondisk.ModeOfFt(e.Type), Off: e.Cookie})
	}))
}

// ReadDirPlus lists names with their attributes; each but "." and ".." counts as a lookup.
func (f *FileSystem) ReadDirPlus(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	d, err := f.dir(in.NodeId)
	if err != nil {
		return errno(err)
	}
	defer f.put(d)
	d.Rw.RLock()
	defer d.Rw.RUnlock()
	return errno(dir.Read(d, in.Offset, func(e dir.Entry) bool {
		entry := fuse.DirEntry{Name: string(e.Name), Ino: uint64(e.Ino), Mode: ondisk.ModeOfFt(e.Type), Off: e.Cookie}
		o := out.AddDirLookupEntry(entry)
		if o == nil {
			return false
		}
		if entry.Name == "." || entry.Name == ".." {
			return true
		}
		// An inode that cannot be read leaves its name in the listing, without attributes.
		if i, err := f.inodes.Get(e.Ino); err == nil {
			f.entryPlus(i, o, out)
		}
		return true
	}))
}

func (f *FileSystem) entryPlus(i *inode.Inode, o *fuse.EntryOut, out *fuse.DirEntryList) {
	if i.Links() > 0 {
		f.entry(i, o)
		out.FixMode(o.Attr.Mode)
	}
	f.put(i)
}
