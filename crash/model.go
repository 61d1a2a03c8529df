package crash

import (
	"maps"
	"slices"
	"strings"
)

// kind of a file in the model.
type kind int

const (
	regular kind = iota
	directory
	symlink
)

// span is a range of bytes, [from, to).
type span struct{ from, to int }

// version is a file as one operation left it.
type version struct {
	op    int // the operation
	data  []byte
	xattr map[string]string // never changed in place
	zero  span              // bytes that the operation set to zero on the device before it changed the size
}

// file is an inode of the model, dead or alive.
type file struct {
	id       int
	kind     kind
	target   string
	versions []version // by op; the first is that of its creation
	synced   int       // the last operation that an fsync of it was, 0 for none
	node     uint64    // node id while the file is open or has a name
	lookups  uint64    // to be given back
	links    int
	touched  int // the last operation that changed it
}

// at is the version of the file that operation op left, nil before its creation.
func (f *file) at(op int) *version {
	n, found := slices.BinarySearchFunc(f.versions, op, func(v version, op int) int { return v.op - op })
	if !found {
		n--
	}
	if n < 0 {
		return nil
	}
	return &f.versions[n]
}

// last is the present version.
func (f *file) last() *version { return &f.versions[len(f.versions)-1] }

// change appends a version made from the last one.
func (f *file) change(op int, fn func(v *version)) {
	v := *f.last()
	v.op, v.zero = op, span{}
	fn(&v)
	f.touched = op
	if f.last().op == op {
		*f.last() = v
		return
	}
	f.versions = append(f.versions, v)
}

// promise is what an fsync that has ended vouches for.
type promise struct {
	op      int   // the fsync
	file    *file // of which file; nil for all
	touched int   // the operation that had changed the file last
}

// model is what the workload did. Operations are numbered from 1; state 0 is the empty file system.
type model struct {
	op       int              // the operation under way, or the last
	names    map[string]*file // path to file; "" is the root
	states   []map[string]*file
	files    []*file
	promises []promise
	log      []string // what each operation was
}

func newModel() *model {
	m := &model{names: map[string]*file{}}
	root := m.add(directory)
	m.names[""] = root
	m.states = append(m.states, m.names)
	m.log = append(m.log, "mkfs")
	return m
}

// add makes a file without a name.
func (m *model) add(k kind) *file {
	f := &file{id: len(m.files), kind: k, versions: []version{{op: m.op}}, touched: m.op, node: 1}
	m.files = append(m.files, f)
	return f
}

// begin starts an operation.
func (m *model) begin(what string) {
	m.op++
	m.log = append(m.log, what)
}

// end finishes it: the names are those of the state from now on.
func (m *model) end() { m.states = append(m.states, m.names) }

// edit changes the names; states that share the map keep theirs.
func (m *model) edit(fn func(names map[string]*file)) {
	m.names = maps.Clone(m.names)
	fn(m.names)
}

// parent is the path of the directory that path is in.
func parent(path string) string {
	d, _ := split(path)
	return d
}

// split is path's directory and last name.
func split(path string) (dir, name string) {
	k := strings.LastIndexByte(path, '/')
	return path[:max(k, 0)], path[k+1:]
}

// paths lists the names of files of the kind, in order.
func (m *model) paths(k kind) []string {
	var out []string
	for p, f := range m.names {
		if f.kind == k {
			out = append(out, p)
		}
	}
	slices.Sort(out)
	return out
}

// empty says whether the directory has no entries.
func (m *model) empty(dir string) bool {
	for p := range m.names {
		if p != "" && p != dir && parent(p) == dir {
			return false
		}
	}
	return true
}

// move renames a path, with everything below it.
func (m *model) move(from, to string) {
	m.edit(func(names map[string]*file) {
		for p, f := range m.names {
			if p == from || strings.HasPrefix(p, from+"/") {
				delete(names, p)
				names[to+p[len(from):]] = f
			}
		}
	})
}

// durable is the oldest state that a crash may leave, after operation done has ended, by the promises.
func (m *model) durable(done int) int {
	at := 0
	for _, p := range m.promises {
		if p.op <= done {
			at = max(at, p.touched)
		}
	}
	return at
}

// syncedAt is the last fsync of f that has ended with operation done, 0 for none.
func (m *model) syncedAt(f *file, done int) int {
	at := 0
	for _, p := range m.promises {
		if p.op <= done && (p.file == f || p.file == nil) {
			at = p.op
		}
	}
	return at
}
