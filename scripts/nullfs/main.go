// Command nullfs is the floor of scripts/bench.sh: a FUSE file system in memory that does as little for a request as go-fuse allows, so
// that its figures are the price of FUSE and of go-fuse alone. Nothing is kept when it is unmounted.
//
//	nullfs DIR
package main

import (
	"fmt"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// valid is how long the kernel may keep names and attributes: nobody else changes them.
const valid = time.Hour

// chunk is the unit in which a file's memory grows, in bytes.
const chunk = 1 << 20

// object is a file or a directory.
type object struct {
	id   uint64      // immutable
	mode uint32      // immutable
	gone atomic.Bool // it has lost its name

	mu       sync.RWMutex
	size     uint64             // guarded by mu
	chunks   [][]byte           // guarded by mu
	children map[string]*object // guarded by mu; of a directory
	names    []string           // guarded by mu; children in the order made, "" where one was removed
	place    map[string]int     // guarded by mu; name -> index in names
}

// memory is the file system.
type memory struct {
	fuse.RawFileSystem
	objects sync.Map // id -> *object
	lastID  atomic.Uint64
}

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: nullfs DIR")
		os.Exit(2)
	}
	m := &memory{RawFileSystem: fuse.NewDefaultRawFileSystem()}
	m.add(syscall.S_IFDIR | 0o755)
	server, err := fuse.NewServer(m, os.Args[1], &fuse.MountOptions{
		FsName: "nullfs", Name: "nullfs", MaxWrite: 1 << 20, DisableSplice: true, ExplicitDataCacheControl: true, DirectMount: true,
		DisableXAttrs: true,
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, "nullfs:", err)
		os.Exit(1)
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGINT, syscall.SIGTERM)
	go func() {
		for range stop {
			if err := server.Unmount(); err != nil {
				fmt.Fprintln(os.Stderr, "nullfs:", err)
			}
		}
	}()
	server.Serve()
}

// add makes an object; the first one is the root.
func (m *memory) add(mode uint32) *object {
	o := &object{id: m.lastID.Add(1), mode: mode}
	if mode&syscall.S_IFMT == syscall.S_IFDIR {
		o.children, o.place = map[string]*object{}, map[string]int{}
	}
	m.objects.Store(o.id, o)
	return o
}

// get is the object of a node id; the kernel asks only for those it was given.
func (m *memory) get(id uint64) *object {
	o, ok := m.objects.Load(id)
	if !ok {
		return &object{id: id}
	}
	return o.(*object)
}

// attr fills in the attributes.
func (o *object) attr(a *fuse.Attr) {
	o.mu.RLock()
	a.Size = o.size
	o.mu.RUnlock()
	a.Ino, a.Mode, a.Nlink, a.Blksize = o.id, o.mode, 1, 4096
	a.Blocks = (a.Size + 511) / 512
}

// entry fills in what a name leads to.
func (o *object) entry(out *fuse.EntryOut) {
	out.NodeId = o.id
	out.SetEntryTimeout(valid)
	out.SetAttrTimeout(valid)
	o.attr(&out.Attr)
}

// link puts a child in; it replaces one of the same name.
func (o *object) link(name string, child *object) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if _, ok := o.children[name]; !ok {
		o.place[name] = len(o.names)
		o.names = append(o.names, name)
	}
	o.children[name] = child
}

// unlink takes a child out, nil when there is none of the name.
func (o *object) unlink(name string) *object {
	o.mu.Lock()
	defer o.mu.Unlock()
	child := o.children[name]
	if child != nil {
		o.names[o.place[name]] = ""
		delete(o.place, name)
		delete(o.children, name)
	}
	return child
}

// resize sets the size; what is beyond it reads as zeros later.
func (o *object) resize(size uint64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if size < o.size {
		keep := (size + chunk - 1) / chunk
		clear(o.chunks[keep:])
		o.chunks = o.chunks[:keep]
		if rest := size % chunk; rest != 0 {
			clear(o.chunks[keep-1][rest:])
		}
	}
	o.grow(size)
	o.size = size
}

// grow makes memory for size bytes; mu is held. A file's only chunk is as short as its content, to keep small files small.
func (o *object) grow(size uint64) {
	want := int((size + chunk - 1) / chunk)
	for len(o.chunks) < want {
		o.chunks = append(o.chunks, nil)
	}
	for i := range o.chunks {
		need := chunk
		if want == 1 && size < chunk {
			need = int(size)
		}
		if len(o.chunks[i]) >= need {
			continue
		}
		if need < cap(o.chunks[i]) {
			o.chunks[i] = o.chunks[i][:need]
			continue
		}
		bigger := make([]byte, need, min(chunk, need*2))
		copy(bigger, o.chunks[i])
		o.chunks[i] = bigger
	}
}
