package crash

import (
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"inlinefs/blockdev"
	"inlinefs/fs"
	"inlinefs/inode"
	"inlinefs/super"
)

var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

// session is a mounted file system that is called as go-fuse would call it.
type session struct {
	fs    *fs.FileSystem
	super *super.FS
}

// mount replays the journal and starts the file system. Transactions are committed when an fsync asks for it, and by nothing else.
func mount(dev blockdev.Device, v Variant, readOnly bool) (*session, error) {
	dev, err := fs.Recover(dev, readOnly, quiet)
	if err != nil {
		return nil, fmt.Errorf("recovery: %w", err)
	}
	o := fs.Options{Log: quiet, Mmap: fs.MmapCached, Commit: time.Hour, HangAfter: time.Hour}
	if v.Observe {
		o.Mmap, o.Strategy = fs.MmapObserve, "mkwrite"
	}
	cache := int64(v.CacheKiB) << 10
	if cache == 0 {
		cache = 16 << 20
	}
	s, err := super.Open(dev, super.Options{Log: quiet, ReadOnly: readOnly, Strategy: o.Strategy, CacheSize: cache})
	if err != nil {
		return nil, fmt.Errorf("mount: %w", err)
	}
	f, err := fs.New(s, o)
	if err != nil {
		return nil, fmt.Errorf("mount: %w", err)
	}
	if err := f.Start(); err != nil {
		return nil, fmt.Errorf("mount: %w", err)
	}
	return &session{fs: f, super: s}, nil
}

// failed turns an answer into an error.
func failed(what string, st fuse.Status) error {
	if st == fuse.OK {
		return nil
	}
	return fmt.Errorf("%s: %s", what, st)
}

func header(node uint64) fuse.InHeader {
	return fuse.InHeader{NodeId: node, Caller: fuse.Caller{Pid: 1}}
}

func (s *session) create(dir uint64, name string) (uint64, fuse.Status) {
	var out fuse.CreateOut
	st := s.fs.Create(nil, &fuse.CreateIn{InHeader: header(dir), Mode: 0o100644, Flags: 2}, name, &out)
	return out.NodeId, st
}

func (s *session) mkdir(dir uint64, name string) (uint64, fuse.Status) {
	var out fuse.EntryOut
	st := s.fs.Mkdir(nil, &fuse.MkdirIn{InHeader: header(dir), Mode: 0o40755}, name, &out)
	return out.NodeId, st
}

func (s *session) symlink(dir uint64, name, target string) (uint64, fuse.Status) {
	var out fuse.EntryOut
	h := header(dir)
	st := s.fs.Symlink(nil, &h, target, name, &out)
	return out.NodeId, st
}

func (s *session) link(node, dir uint64, name string) fuse.Status {
	var out fuse.EntryOut
	return s.fs.Link(nil, &fuse.LinkIn{InHeader: header(dir), Oldnodeid: node}, name, &out)
}

// lookup returns the node id of a name, 0 for none.
func (s *session) lookup(dir uint64, name string, out *fuse.EntryOut) fuse.Status {
	h := header(dir)
	return s.fs.Lookup(nil, &h, name, out)
}

func (s *session) write(node uint64, p []byte, off int64) (int, fuse.Status) {
	n, st := s.fs.Write(nil, &fuse.WriteIn{InHeader: header(node), Offset: uint64(off), Size: uint32(len(p)), Flags: 2}, p)
	return int(n), st
}

// fault fills the page at the head of a file as a first touch through a mapping does.
func (s *session) fault(node uint64) ([]byte, fuse.Status) {
	buf := make([]byte, 4096)
	r, st := s.fs.Read(nil, &fuse.ReadIn{InHeader: header(node), Fh: 1, Size: 4096}, buf)
	if st != fuse.OK {
		return nil, st
	}
	return r.Bytes(buf)
}

// store brings back a page that was changed through a mapping.
func (s *session) store(node uint64, p []byte) fuse.Status {
	_, st := s.fs.Write(nil, &fuse.WriteIn{InHeader: header(node), Fh: 1, Size: uint32(len(p)), WriteFlags: fuse.WRITE_CACHE}, p)
	return st
}

func (s *session) read(node uint64, size int) ([]byte, error) {
	buf := make([]byte, size)
	for at := 0; at < size; {
		r, st := s.fs.Read(nil, &fuse.ReadIn{InHeader: header(node), Offset: uint64(at), Size: uint32(size - at), ReadFlags: fuse.READ_LOCKOWNER}, buf[at:])
		if st != fuse.OK {
			return nil, failed("read", st)
		}
		b, st := r.Bytes(nil)
		if st != fuse.OK || len(b) == 0 {
			return nil, fmt.Errorf("read at byte %d of %d: %d bytes, %s", at, size, len(b), st)
		}
		at += len(b)
	}
	return buf, nil
}

func (s *session) truncate(node uint64, size uint64) fuse.Status {
	var out fuse.AttrOut
	in := fuse.SetAttrIn{}
	in.InHeader, in.Valid, in.Size = header(node), fuse.FATTR_SIZE, size
	return s.fs.SetAttr(nil, &in, &out)
}

func (s *session) fallocate(node uint64, mode uint32, off, n uint64) fuse.Status {
	return s.fs.Fallocate(nil, &fuse.FallocateIn{InHeader: header(node), Mode: mode, Offset: off, Length: n})
}

func (s *session) fsync(node uint64, dir bool) fuse.Status {
	in := &fuse.FsyncIn{InHeader: header(node)}
	if dir {
		return s.fs.FsyncDir(nil, in)
	}
	return s.fs.Fsync(nil, in)
}

func (s *session) setxattr(node uint64, name, value string) fuse.Status {
	return s.fs.SetXAttr(nil, &fuse.SetXAttrIn{InHeader: header(node), Size: uint32(len(value))}, name, []byte(value))
}

func (s *session) xattrs(node uint64) (map[string]string, error) {
	h := header(node)
	buf := make([]byte, 1<<16)
	n, st := s.fs.ListXAttr(nil, &h, buf)
	if st != fuse.OK {
		return nil, failed("listxattr", st)
	}
	var out map[string]string
	val := make([]byte, 1<<16)
	for b := buf[:n]; len(b) > 0; {
		k := 0
		for b[k] != 0 {
			k++
		}
		name := string(b[:k])
		b = b[k+1:]
		c, st := s.fs.GetXAttr(nil, &h, name, val)
		if st != fuse.OK {
			return nil, failed("getxattr "+name, st)
		}
		if out == nil {
			out = map[string]string{}
		}
		out[name] = string(val[:c])
	}
	return out, nil
}

// isInline says whether the file's bytes are in its inode. The file system must be at rest.
func (s *session) isInline(node uint64) (bool, error) {
	ino := uint32(node)
	if node == fuse.FUSE_ROOT_ID {
		ino = 2
	}
	i, err := inode.NewCache(s.super).Get(ino)
	if err != nil {
		return false, err
	}
	return i.HasInline(), nil
}
