package main

import (
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// Lookup finds a name.
func (m *memory) Lookup(_ <-chan struct{}, h *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	dir := m.get(h.NodeId)
	dir.mu.RLock()
	child := dir.children[name]
	dir.mu.RUnlock()
	if child == nil {
		return fuse.ENOENT
	}
	child.entry(out)
	return fuse.OK
}

// GetAttr gives attributes.
func (m *memory) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	m.get(in.NodeId).attr(&out.Attr)
	out.SetTimeout(valid)
	return fuse.OK
}

// SetAttr changes the size; other attributes are taken and forgotten.
func (m *memory) SetAttr(_ <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	o := m.get(in.NodeId)
	if size, ok := in.GetSize(); ok {
		o.resize(size)
	}
	o.attr(&out.Attr)
	out.SetTimeout(valid)
	return fuse.OK
}

// Mkdir makes a directory.
func (m *memory) Mkdir(_ <-chan struct{}, in *fuse.MkdirIn, name string, out *fuse.EntryOut) fuse.Status {
	o := m.add(syscall.S_IFDIR | in.Mode&0o7777)
	m.get(in.NodeId).link(name, o)
	o.entry(out)
	return fuse.OK
}

// Create makes a file and opens it.
func (m *memory) Create(_ <-chan struct{}, in *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	o := m.add(syscall.S_IFREG | in.Mode&0o7777)
	m.get(in.NodeId).link(name, o)
	o.entry(&out.EntryOut)
	out.OpenFlags = fuse.FOPEN_KEEP_CACHE
	return fuse.OK
}

// Open opens a file; its pages stay in the kernel's cache.
func (m *memory) Open(_ <-chan struct{}, _ *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	out.OpenFlags = fuse.FOPEN_KEEP_CACHE
	return fuse.OK
}

// Read copies from the chunks.
func (m *memory) Read(_ <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	o := m.get(in.NodeId)
	o.mu.RLock()
	defer o.mu.RUnlock()
	off, n := in.Offset, 0
	for off < o.size && n < len(buf) {
		part := o.chunks[off/chunk][off%chunk:]
		if left := o.size - off; uint64(len(part)) > left {
			part = part[:left]
		}
		c := copy(buf[n:], part)
		n += c
		off += uint64(c)
	}
	return fuse.ReadResultData(buf[:n]), fuse.OK
}

// Write copies into the chunks.
func (m *memory) Write(_ <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	o := m.get(in.NodeId)
	o.mu.Lock()
	defer o.mu.Unlock()
	if end := in.Offset + uint64(len(data)); end > o.size {
		o.grow(end)
		o.size = end
	}
	off := in.Offset
	for n := 0; n < len(data); {
		c := copy(o.chunks[off/chunk][off%chunk:], data[n:])
		n += c
		off += uint64(c)
	}
	return uint32(len(data)), fuse.OK
}

// Fsync has nothing to do.
func (m *memory) Fsync(_ <-chan struct{}, _ *fuse.FsyncIn) fuse.Status { return fuse.OK }

// OpenDir opens a directory.
func (m *memory) OpenDir(_ <-chan struct{}, _ *fuse.OpenIn, _ *fuse.OpenOut) fuse.Status {
	return fuse.OK
}

// ReadDirPlus lists a directory with attributes; the offset is the index of the next name.
func (m *memory) ReadDirPlus(_ <-chan struct{}, in *fuse.ReadIn, l *fuse.DirEntryList) fuse.Status {
	dir := m.get(in.NodeId)
	dir.mu.RLock()
	defer dir.mu.RUnlock()
	for i := in.Offset; i < uint64(len(dir.names)); i++ {
		child := dir.children[dir.names[i]]
		if child == nil {
			continue
		}
		out := l.AddDirLookupEntry(fuse.DirEntry{Name: dir.names[i], Mode: child.mode, Ino: child.id, Off: i + 1})
		if out == nil {
			break
		}
		child.entry(out)
	}
	return fuse.OK
}

// Rename moves a name; the flags that exchange or refuse are not known here.
func (m *memory) Rename(_ <-chan struct{}, in *fuse.RenameIn, oldName, newName string) fuse.Status {
	if in.Flags != 0 {
		return fuse.EINVAL
	}
	child := m.get(in.NodeId).unlink(oldName)
	if child == nil {
		return fuse.ENOENT
	}
	m.get(in.Newdir).link(newName, child)
	return fuse.OK
}

// Unlink takes a file out; its memory goes with the last reference of the kernel.
func (m *memory) Unlink(_ <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	child := m.get(h.NodeId).unlink(name)
	if child == nil {
		return fuse.ENOENT
	}
	child.gone.Store(true)
	return fuse.OK
}

// Rmdir takes an empty directory out.
func (m *memory) Rmdir(c <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	dir := m.get(h.NodeId)
	dir.mu.RLock()
	child := dir.children[name]
	dir.mu.RUnlock()
	if child == nil {
		return fuse.ENOENT
	}
	child.mu.RLock()
	n := len(child.children)
	child.mu.RUnlock()
	if n != 0 {
		return fuse.Status(syscall.ENOTEMPTY)
	}
	return m.Unlink(c, h, name)
}

// Forget drops an object that has no name left. One that has keeps its node id until the end.
func (m *memory) Forget(id, _ uint64) {
	if m.get(id).gone.Load() {
		m.objects.Delete(id)
	}
}

// StatFs reports plenty of space.
func (m *memory) StatFs(_ <-chan struct{}, _ *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	out.Bsize, out.Blocks, out.Bfree, out.Bavail, out.Files, out.Ffree, out.NameLen = 4096, 1<<24, 1<<23, 1<<23, 1<<24, 1<<23, 255
	return fuse.OK
}
