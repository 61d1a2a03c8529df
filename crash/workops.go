package crash

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
)

func (w *worker) rename() error {
	k := regular
	if w.rng.Intn(4) == 0 {
		k = directory
	}
	from := w.pick(k)
	if from == "" {
		return nil
	}
	d, n := w.dir(), w.name()
	to := w.join(d, n)
	if k == regular && w.rng.Intn(2) == 0 {
		if to = w.pick(regular); to == from {
			return nil
		}
		d, n = split(to)
	}
	if d == from || strings.HasPrefix(d, from+"/") {
		return nil
	}
	f, old := w.m.names[from], w.m.names[to]
	return w.op("rename "+from+" to "+to, func() error {
		od, on := split(from)
		st := w.s.fs.Rename(nil, &fuse.RenameIn{InHeader: header(w.m.names[od].node), Newdir: w.m.names[d].node}, on, n)
		if noSpace(st) {
			return nil
		}
		if st != fuse.OK || f == old { // two names of one file: nothing happens
			return failed("rename", st)
		}
		w.m.names[od].touched, w.m.names[d].touched, f.touched = w.m.op, w.m.op, w.m.op
		w.m.move(from, to)
		if old != nil {
			w.gone(old)
		}
		return nil
	})
}

// gone takes a name off a file; without names it stays open for a while or is let go.
func (w *worker) gone(f *file) {
	f.touched = w.m.op
	if f.links--; f.links > 0 {
		return
	}
	if w.rng.Intn(3) == 0 && f.kind == regular {
		w.open = append(w.open, f)
		return
	}
	w.letGo(f)
}

func (w *worker) letGo(f *file) {
	w.s.fs.Forget(f.node, f.lookups)
	f.lookups, f.node = 0, 0
}

func (w *worker) unlink() error {
	k := regular
	if w.rng.Intn(8) == 0 {
		k = symlink
	}
	p := w.pick(k)
	if p == "" || w.m.names[p] == w.filler {
		return nil
	}
	return w.op("unlink "+p, func() error {
		d, n := split(p)
		h := header(w.m.names[d].node)
		if st := w.s.fs.Unlink(nil, &h, n); st != fuse.OK {
			return failed("unlink", st)
		}
		f := w.m.names[p]
		w.m.edit(func(names map[string]*file) { delete(names, p) })
		w.m.names[d].touched = w.m.op
		w.gone(f)
		return nil
	})
}

func (w *worker) mkdir() error {
	d, n := w.dir(), w.name()
	if strings.Count(d, "/") > 3 || len(w.m.paths(directory)) > 12 {
		return nil
	}
	return w.op("mkdir "+w.join(d, n), func() error {
		node, st := w.s.mkdir(w.m.names[d].node, n)
		if noSpace(st) {
			return nil
		}
		w.named(d, n, node, directory, st)
		return failed("mkdir", st)
	})
}

func (w *worker) rmdir() error {
	p := w.pick(directory)
	if p == "" || !w.m.empty(p) {
		return nil
	}
	return w.op("rmdir "+p, func() error {
		d, n := split(p)
		h := header(w.m.names[d].node)
		if st := w.s.fs.Rmdir(nil, &h, n); st != fuse.OK {
			return failed("rmdir", st)
		}
		f := w.m.names[p]
		w.m.edit(func(names map[string]*file) { delete(names, p) })
		w.m.names[d].touched = w.m.op
		w.gone(f)
		return nil
	})
}

func (w *worker) link() error {
	p := w.pick(regular)
	if p == "" {
		return nil
	}
	f := w.m.names[p]
	d, n := w.dir(), w.name()
	return w.op("link "+p+" to "+w.join(d, n), func() error {
		st := w.s.link(f.node, w.m.names[d].node, n)
		if noSpace(st) {
			return nil
		}
		if st == fuse.OK {
			f.lookups++
			f.links++
			f.touched, w.m.names[d].touched = w.m.op, w.m.op
			w.m.edit(func(names map[string]*file) { names[w.join(d, n)] = f })
		}
		return failed("link", st)
	})
}

func (w *worker) symlink() error {
	d, n := w.dir(), w.name()
	target := strings.Repeat("t", 1+w.rng.Intn(120))
	if len(target) > 60 && w.rng.Intn(2) == 0 {
		target = "\xc0\x3b\x39\x98" + target // a block that looks like one of the log's own
	}
	return w.op("symlink "+w.join(d, n), func() error {
		node, st := w.s.symlink(w.m.names[d].node, n, target)
		if noSpace(st) {
			return nil
		}
		if f := w.named(d, n, node, symlink, st); f != nil {
			f.target = target
		}
		return failed("symlink", st)
	})
}

// attrPath picks what gets attributes: mostly files.
func (w *worker) attrPath() string {
	if w.rng.Intn(5) == 0 {
		return w.pick(directory)
	}
	return w.pick(regular)
}

func (w *worker) setxattr() error {
	p := w.attrPath()
	if p == "" {
		return nil
	}
	f := w.m.names[p]
	name, value := fmt.Sprintf("user.a%d", w.rng.Intn(4)), string(w.bytes(w.rng.Intn(70)))
	if w.rng.Intn(6) == 0 {
		value = string(w.bytes(200 + w.rng.Intn(300)))
	}
	return w.attribute(p, f, name, value)
}

func (w *worker) attribute(p string, f *file, name, value string) error {
	return w.op(fmt.Sprintf("setxattr %s %s %d bytes", p, name, len(value)), func() error {
		st := w.s.setxattr(f.node, name, value)
		if noSpace(st) {
			return nil
		}
		if st == fuse.OK {
			f.change(w.m.op, func(v *version) {
				x := maps.Clone(v.xattr)
				if x == nil {
					x = map[string]string{}
				}
				x[name] = value
				v.xattr = x
			})
		}
		return failed("setxattr", st)
	})
}

func (w *worker) removexattr() error {
	p := w.attrPath()
	if p == "" {
		return nil
	}
	f := w.m.names[p]
	keys := slices.Sorted(maps.Keys(f.last().xattr))
	if len(keys) == 0 {
		return nil
	}
	name := keys[w.rng.Intn(len(keys))]
	return w.op(fmt.Sprintf("removexattr %s %s", p, name), func() error {
		h := header(f.node)
		st := w.s.fs.RemoveXAttr(nil, &h, name)
		if noSpace(st) {
			return nil
		}
		if st == fuse.OK {
			f.change(w.m.op, func(v *version) {
				v.xattr = maps.Clone(v.xattr)
				delete(v.xattr, name)
			})
		}
		return failed("removexattr", st)
	})
}

func (w *worker) fsync() error {
	p := w.pick(regular)
	if p == "" {
		return nil
	}
	return w.syncFile("fsync "+p, w.m.names[p], false)
}

func (w *worker) fsyncDir() error {
	d := w.dir()
	return w.syncFile("fsyncdir "+d+"/", w.m.names[d], true)
}

func (w *worker) syncFile(what string, f *file, dir bool) error {
	return w.op(what, func() error {
		if st := w.s.fsync(f.node, dir); st != fuse.OK {
			return failed("fsync", st)
		}
		w.m.promises = append(w.m.promises, promise{op: w.m.op, file: f, touched: f.touched})
		return nil
	})
}

// forget lets go of files that were open without a name.
func (w *worker) forget() error {
	if len(w.open) == 0 {
		return nil
	}
	return w.op("forget", func() error {
		for _, f := range w.open {
			w.letGo(f)
		}
		w.open = nil
		return nil
	})
}

// openWrite changes a file that has no name any more.
func (w *worker) openWrite() error {
	if len(w.open) == 0 {
		return nil
	}
	f := w.open[w.rng.Intn(len(w.open))]
	off, n := w.rng.Intn(len(f.last().data)+1), w.length()
	return w.op("write to a deleted file", func() error { return w.store(f, w.bytes(n), off) })
}

// stop unmounts.
func (s *session) stop() error {
	err := s.fs.Stop()
	if v := s.fs.Report().Violations; len(v) > 0 {
		err = errors.Join(err, fmt.Errorf("violations: %v", v))
	}
	if n := s.super.ErrorCount(); n > 0 {
		err = errors.Join(err, fmt.Errorf("%d file system errors", n))
	}
	return err
}

// remount unmounts and mounts again: the log is emptied, the sequence goes on.
func (w *worker) remount() error {
	if w.m.op < 100 || w.v.Storm && w.rng.Intn(3) > 0 {
		return nil
	}
	return w.op("remount", func() (err error) {
		if err := w.s.stop(); err != nil {
			return err
		}
		w.open = nil
		if w.s, err = mount(w.rec, w.v, false); err != nil {
			return err
		}
		// After an unmount everything is durable.
		for _, f := range w.m.files {
			f.lookups = 0
		}
		w.m.promises = append(w.m.promises, promise{op: w.m.op, touched: w.m.op - 1})
		return w.find("", fuse.FUSE_ROOT_ID)
	})
}

// find looks up everything below dir.
func (w *worker) find(dir string, node uint64) error {
	for p, f := range w.m.names {
		if p == "" || parent(p) != dir {
			continue
		}
		_, n := split(p)
		var out fuse.EntryOut
		if st := w.s.lookup(node, n, &out); st != fuse.OK || out.NodeId == 0 {
			return fmt.Errorf("%s after a remount: node %d, %s", p, out.NodeId, st)
		}
		f.node = out.NodeId
		f.lookups++
		if f.kind == directory {
			if err := w.find(p, f.node); err != nil {
				return err
			}
		}
	}
	return nil
}

// mapped stores through a shared mapping: a fault, which converts an inline file, then the page comes back.
func (w *worker) mapped() error {
	p := w.pick(regular)
	if p == "" || !w.v.Observe {
		return nil
	}
	f := w.m.names[p]
	return w.op("store by mmap "+p, func() error { return w.mappedStore(f) })
}

func (w *worker) mappedStore(f *file) error {
	page, st := w.s.fault(f.node)
	if st != fuse.OK {
		if noSpace(st) {
			return nil
		}
		return failed("fault", st)
	}
	size := min(len(f.last().data), 4096)
	if size == 0 {
		return nil
	}
	page = append(append([]byte(nil), page...), make([]byte, 4096-len(page))...)
	at := w.rng.Intn(size)
	b := w.bytes(min(1+w.rng.Intn(100), size-at))
	copy(page[at:], b)
	st = w.s.store(f.node, page)
	if st != fuse.OK && !noSpace(st) {
		return failed("writepage", st)
	}
	data := slices.Clone(f.last().data)
	copy(data[at:], b)
	if noSpace(st) { // into a hole, perhaps in part
		var err error
		if data, err = w.s.read(f.node, len(data)); err != nil {
			return err
		}
	}
	touched := f.touched
	f.change(w.m.op, func(v *version) { v.data = data })
	if noSpace(st) {
		f.touched = touched // a store that failed need not be in any transaction
	}
	return nil
}

// full takes all space, has conversions fail in page faults and writes, and gives the space back.
func (w *worker) full() error {
	if !w.v.Observe {
		return nil
	}
	if err := w.fill("full" + w.name()); err != nil || w.filler == nil {
		return err
	}
	for range 4 {
		steps := []func() error{w.mapped, w.mapped, w.grow, w.overwrite, w.fsync, w.create}
		if err := steps[w.rng.Intn(len(steps))](); err != nil {
			return err
		}
	}
	f := w.filler
	w.filler = nil
	return w.op("give the space back", func() error { return w.resize(f, 0) })
}

// fill takes all space with a new file, filler.
func (w *worker) fill(n string) error {
	return w.op("fill /"+n, func() error {
		node, st := w.s.create(fuse.FUSE_ROOT_ID, n)
		if st != fuse.OK {
			if noSpace(st) {
				return nil
			}
			return failed("create", st)
		}
		w.filler = w.named("", n, node, regular, st)
		at := uint64(0)
		for chunk := uint64(1 << 20); chunk >= uint64(w.v.BlockSize); {
			st := w.s.fallocate(node, 1, at, chunk)
			if st == fuse.OK {
				at += chunk
				continue
			}
			if st != fuse.Status(syscall.ENOSPC) {
				return failed("fill", st)
			}
			chunk /= 2
		}
		return nil
	})
}

// storm changes every file in each of several transactions: what the next one has changed again cannot be checkpointed, and the log
// fills up.
func (w *worker) storm() error {
	if !w.v.Storm {
		return nil
	}
	for len(w.m.names) < 120 {
		if err := w.create(); err != nil {
			return err
		}
	}
	for range 3 + w.rng.Intn(8) {
		for _, p := range w.m.paths(regular) {
			f, value := w.m.names[p], string(w.bytes(w.v.BlockSize*3/4))
			if err := w.attribute(p, f, "user.storm", value); err != nil {
				return err
			}
		}
		if err := w.fsync(); err != nil {
			return err
		}
	}
	return nil
}
