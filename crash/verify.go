package crash

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"sort"
	"strings"

	"github.com/hanwen/go-fuse/v2/fuse"

	"inlinefs/blockdev"
	"inlinefs/check"
)

// found is one name of the tree as a crash left it.
type found struct {
	path   string
	node   uint64
	kind   kind
	inline bool
	data   []byte
	xattr  map[string]string
	target string
}

// walk reads the whole tree below path.
func (s *session) walk(path string, node uint64, tree map[string]*found) error {
	e, err := s.stat(path, node)
	if err != nil {
		return fmt.Errorf("%q: %w", path, err)
	}
	tree[path] = e
	if e.kind != directory {
		return nil
	}
	names, err := s.readdir(node)
	if err != nil {
		return fmt.Errorf("%q: %w", path, err)
	}
	for _, n := range names {
		if n == "." || n == ".." || path == "" && n == "lost+found" {
			continue
		}
		var out fuse.EntryOut
		if st := s.lookup(node, n, &out); st != fuse.OK || out.NodeId == 0 {
			return fmt.Errorf("%q: listed as %q, looked up as node %d, %s", path, n, out.NodeId, st)
		}
		if _, twice := tree[path+"/"+n]; twice {
			return fmt.Errorf("%q: %q is listed twice", path, n)
		}
		if err := s.walk(path+"/"+n, out.NodeId, tree); err != nil {
			return err
		}
	}
	return nil
}

// stat reads all there is of one file.
func (s *session) stat(path string, node uint64) (*found, error) {
	e := &found{path: path, node: node}
	var out fuse.AttrOut
	if st := s.fs.GetAttr(nil, &fuse.GetAttrIn{InHeader: header(node)}, &out); st != fuse.OK {
		return nil, failed("getattr", st)
	}
	var err error
	if e.xattr, err = s.xattrs(node); err != nil {
		return nil, err
	}
	if e.inline, err = s.isInline(node); err != nil {
		return nil, err
	}
	switch out.Mode & 0o170000 {
	case 0o040000:
		e.kind = directory
	case 0o120000:
		e.kind = symlink
		h := header(node)
		b, st := s.fs.Readlink(nil, &h)
		if st != fuse.OK {
			return nil, failed("readlink", st)
		}
		e.target = string(b)
	case 0o100000:
		if out.Size > 1<<24 {
			return nil, fmt.Errorf("size %d", out.Size)
		}
		e.data, err = s.read(node, int(out.Size))
	default:
		err = fmt.Errorf("mode 0%o", out.Mode)
	}
	return e, err
}

// readdir lists a directory by its answer to READDIR.
func (s *session) readdir(node uint64) ([]string, error) {
	var names []string
	for off := uint64(0); ; {
		buf := make([]byte, 8192)
		list := fuse.NewDirEntryList(buf, off)
		if st := s.fs.ReadDir(nil, &fuse.ReadIn{InHeader: header(node), Offset: off, Size: uint32(len(buf))}, list); st != fuse.OK {
			return nil, failed("readdir", st)
		}
		b := list.Bytes()
		if len(b) == 0 {
			return names, nil
		}
		for len(b) >= 24 {
			off = binary.NativeEndian.Uint64(b[8:])
			n := int(binary.NativeEndian.Uint32(b[16:]))
			names = append(names, string(b[24:24+n]))
			b = b[min((24+n+7)&^7, len(b)):]
		}
	}
}

// verify mounts what a crash left and holds it against the model: begun and ended are the last operations that had begun and ended.
func (r *Run) verify(dev blockdev.Device, begun, ended int) error {
	s, err := mount(dev, r.Variant, false)
	if err != nil {
		return err
	}
	tree := map[string]*found{}
	err = s.walk("", fuse.FUSE_ROOT_ID, tree)
	if e := s.stop(); err == nil && e != nil {
		err = fmt.Errorf("unmount after recovery: %w", e)
	}
	if err != nil {
		return err
	}
	rep, err := check.Image(dev, check.Options{})
	if err != nil {
		return fmt.Errorf("check after recovery: %w", err)
	}
	if !rep.Clean() {
		var lines []string
		for _, f := range rep.Findings[:min(len(rep.Findings), 10)] {
			lines = append(lines, f.String())
		}
		return fmt.Errorf("check after recovery: %d findings:\n  %s", len(rep.Findings), strings.Join(lines, "\n  "))
	}
	return r.match(tree, begun, ended)
}

// match finds the operation whose state the tree is.
func (r *Run) match(tree map[string]*found, begun, ended int) error {
	first := r.model.durable(ended)
	var errs []string
	for k := min(begun, len(r.model.states)-1); k >= first; k-- {
		err := r.matchAt(tree, k, begun, ended)
		if err == nil {
			return nil
		}
		errs = append(errs, fmt.Sprintf("not the tree after operation %d (%s): %v", k, r.model.log[k], err))
	}
	return fmt.Errorf("the tree is that of no operation from %d, which is durable, to %d, which had begun:\n  %s", first, begun, strings.Join(errs, "\n  "))
}

// matchAt says why the tree is not that of state k.
func (r *Run) matchAt(tree map[string]*found, k, begun, ended int) error {
	want := r.model.states[k]
	for p := range tree {
		if want[p] == nil {
			return fmt.Errorf("%q should not be there", p)
		}
	}
	nodes := map[uint64]*file{}
	for p, f := range want {
		e := tree[p]
		if e == nil {
			return fmt.Errorf("%q is missing", p)
		}
		if other := nodes[e.node]; other != nil && other != f {
			return fmt.Errorf("%q and another file are both node %d", p, e.node)
		}
		nodes[e.node] = f
		if err := r.matchFile(e, f, k, begun, ended); err != nil {
			return fmt.Errorf("%q: %w", p, err)
		}
	}
	return nil
}

func (r *Run) matchFile(e *found, f *file, k, begun, ended int) error {
	v := f.at(k)
	switch {
	case e.kind != f.kind:
		return fmt.Errorf("kind %d, want %d", e.kind, f.kind)
	case e.target != f.target:
		return fmt.Errorf("target %q, want %q", e.target, f.target)
	case !maps.Equal(e.xattr, v.xattr):
		return fmt.Errorf("%s", attrsDiffer(e.xattr, v.xattr))
	case f.kind != regular:
		return nil
	}
	size := len(v.data)
	if next := f.at(k + 1); k+1 <= begun && next != v && len(e.data) > size && len(e.data) < len(next.data) && len(next.data) > size {
		size = len(e.data) // a write stopped half-way
	}
	if len(e.data) != size {
		return fmt.Errorf("%d bytes, want %d", len(e.data), size)
	}
	synced := r.model.syncedAt(f, ended)
	if e.inline {
		// The bytes are in the inode: exactly those of one moment.
		if want := f.at(max(k, synced)).data; !bytes.Equal(e.data, want) {
			return fmt.Errorf("inline, %s", differ(e.data, want))
		}
		return nil
	}
	return matchBytes(e.data, f, max(synced, 0), k, begun)
}

// attrsDiffer describes how attributes differ, briefly.
func attrsDiffer(got, want map[string]string) string {
	for n, v := range want {
		if g, ok := got[n]; !ok {
			return "attribute " + n + " is missing"
		} else if g != v {
			return fmt.Sprintf("attribute %s has %d bytes, want other %d", n, len(g), len(v))
		}
	}
	return fmt.Sprintf("%d attributes, want %d", len(got), len(want))
}

// matchBytes holds the bytes of a file in blocks against all versions since its last fsync.
func matchBytes(got []byte, f *file, synced, k, begun int) error {
	if bytes.Equal(got, f.at(k).data) && k >= synced {
		return nil
	}
	from := sort.Search(len(f.versions), func(n int) bool { return f.versions[n].op > synced })
	window := f.versions[max(from-1, 0):]
	for n, b := range got {
		ok := false
		for _, v := range window {
			if v.op > begun {
				break
			}
			if n < len(v.data) && v.data[n] == b || b == 0 && v.op > synced && v.zero.from <= n && n < v.zero.to {
				ok = true
				break
			}
		}
		if !ok {
			return fmt.Errorf("in blocks, byte %d of %d is 0x%02x, which it never was since operation %d; %s", n, len(got), b, synced, differ(got, f.at(k).data))
		}
	}
	return nil
}

// differ describes how got differs from want.
func differ(got, want []byte) string {
	first, count, zeros := -1, 0, 0
	for n := range min(len(got), len(want)) {
		if got[n] != want[n] {
			if count++; first < 0 {
				first = n
			}
			if got[n] == 0 {
				zeros++
			}
		}
	}
	return fmt.Sprintf("%d of %d bytes (want %d) differ from the last version, the first at %d; %d of them are zero", count, len(got), len(want), first, zeros)
}
