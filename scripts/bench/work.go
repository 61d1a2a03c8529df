package main

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
)

// small is the size of a small file, in bytes: it fits an inode of 256 bytes.
const small = 100

// dirs is the number of directories the small files are spread over.
const dirs = 20

// page is the unit of random I/O, in bytes.
const page = 4096

// workload is one thing to time.
type workload struct {
	name   string
	unit   string
	amount int  // units of work
	cold   bool // the mount is made cold first
	setup  bool // later workloads use its files
	run    func() error
}

// workloads is everything, in order.
func (c *config) workloads() []workload {
	n, mib := c.files, c.big
	pages := min(n, mib<<20/page)
	syncs := max(n/10, 20)
	return []workload{
		{name: "create 100 B", unit: "/s", amount: n, setup: true, run: c.create},
		{name: "open+read+close warm", unit: "/s", amount: n, run: c.each(readWhole)},
		{name: "stat warm", unit: "/s", amount: 4 * n, run: c.stat},
		{name: "overwrite 100 B", unit: "/s", amount: n, run: c.each(overwrite)},
		{name: "rewrite one inline file", unit: "/s", amount: 4 * n, run: c.rewrite},
		{name: "rename", unit: "/s", amount: n, run: c.rename},
		{name: "stat cold", unit: "/s", amount: n, cold: true, run: c.statOnce},
		{name: "open+read+close cold", unit: "/s", amount: n, cold: true, run: c.each(readWhole)},
		{name: "unlink", unit: "/s", amount: n, run: c.each(os.Remove)},
		{name: "write+fsync, 1 thread", unit: "/s", amount: syncs, run: func() error { return c.sync(1, syncs) }},
		{name: "write+fsync, 4 threads", unit: "/s", amount: syncs, run: func() error { return c.sync(4, syncs) }},
		{name: "sequential write", unit: "MiB/s", amount: mib, setup: true, run: c.writeBig},
		{name: "sequential read cold", unit: "MiB/s", amount: mib, cold: true, run: c.readBig},
		{name: "random 4k write", unit: "/s", amount: pages, run: func() error { return c.random(pages, true) }},
		{name: "random 4k read warm", unit: "/s", amount: pages, run: func() error { return c.random(pages, false) }},
		{name: "random 4k read cold", unit: "/s", amount: pages, cold: true, run: func() error { return c.random(pages, false) }},
	}
}

// path is the name of small file i.
func (c *config) path(i int) string {
	return filepath.Join(c.dir, fmt.Sprintf("d%02d", i%dirs), fmt.Sprintf("f%06d", i))
}

// each is the work f done to each small file.
func (c *config) each(f func(path string) error) func() error {
	return func() error {
		for i := range c.files {
			if err := f(c.path(i)); err != nil {
				return err
			}
		}
		return nil
	}
}

// create makes the directories and small files.
func (c *config) create() error {
	data := make([]byte, small)
	for d := range dirs {
		if err := os.Mkdir(filepath.Join(c.dir, fmt.Sprintf("d%02d", d)), 0o755); err != nil {
			return err
		}
	}
	return c.each(func(path string) error { return os.WriteFile(path, data, 0o644) })()
}

// readWhole opens, reads and closes.
func readWhole(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	var buf [small + 1]byte
	n, err := f.Read(buf[:])
	if err == nil && n != small {
		err = fmt.Errorf("%s: read %d bytes, want %d", path, n, small)
	}
	return errors.Join(err, f.Close())
}

// overwrite writes the file's bytes again, in place.
func overwrite(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	var data [small]byte
	_, err = f.WriteAt(data[:], 0)
	return errors.Join(err, f.Close())
}

// stat asks four times for each file's attributes.
func (c *config) stat() error {
	for range 4 {
		if err := c.statOnce(); err != nil {
			return err
		}
	}
	return nil
}

// statOnce asks for each file's attributes.
func (c *config) statOnce() error {
	return c.each(func(path string) error {
		_, err := os.Lstat(path)
		return err
	})()
}

// rewrite writes one open small file over and over.
func (c *config) rewrite() error {
	f, err := os.OpenFile(filepath.Join(c.dir, "one"), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	var data [small]byte
	for i := range 4 * c.files {
		data[0] = byte(i)
		if _, err := f.WriteAt(data[:], 0); err != nil {
			return errors.Join(err, f.Close())
		}
	}
	return f.Close()
}

// rename gives each small file another name, and every second round its own again.
func (c *config) rename() error {
	for i := range c.files {
		from, to := c.path(i), c.path(i)+"x"
		if i%2 == 1 {
			from, to = c.path(i-1)+"x", c.path(i-1)
		}
		if err := os.Rename(from, to); err != nil {
			return err
		}
	}
	if c.files%2 == 1 {
		return os.Rename(c.path(c.files-1)+"x", c.path(c.files-1))
	}
	return nil
}

// sync appends 100 bytes and fsyncs, n times in all, each thread on its own file.
func (c *config) sync(threads, n int) error {
	errs := make([]error, threads)
	var wg sync.WaitGroup
	for t := range threads {
		wg.Go(func() { errs[t] = c.syncOne(fmt.Sprintf("sync%d-%d", threads, t), n/threads) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// syncOne is one thread of sync.
func (c *config) syncOne(name string, n int) error {
	f, err := os.OpenFile(filepath.Join(c.dir, name), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	var data [small]byte
	for range n {
		if _, err := f.Write(data[:]); err != nil {
			return errors.Join(err, f.Close())
		}
		if err := f.Sync(); err != nil {
			return errors.Join(err, f.Close())
		}
	}
	return f.Close()
}

// writeBig writes the large file and fsyncs it.
func (c *config) writeBig() error {
	f, err := os.OpenFile(filepath.Join(c.dir, "big"), os.O_WRONLY|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	data := make([]byte, 1<<20)
	rng := rand.New(rand.NewPCG(1, 1))
	for range c.big {
		// Not the same bytes each time, so that nothing can be elided; not all of them, so that making them costs nothing.
		for i := 0; i < len(data); i += page {
			data[i] = byte(rng.Uint32())
		}
		if _, err := f.Write(data); err != nil {
			return errors.Join(err, f.Close())
		}
	}
	return errors.Join(f.Sync(), f.Close())
}

// readBig reads the large file.
func (c *config) readBig() error {
	f, err := os.Open(filepath.Join(c.dir, "big"))
	if err != nil {
		return err
	}
	n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{f}, make([]byte, 1<<20))
	if err == nil && n != int64(c.big)<<20 {
		err = fmt.Errorf("%s: read %d bytes, want %d MiB", f.Name(), n, c.big)
	}
	return errors.Join(err, f.Close())
}

// random reads or writes n pages of the large file in an order that is always the same.
func (c *config) random(n int, write bool) error {
	f, err := os.OpenFile(filepath.Join(c.dir, "big"), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	rng := rand.New(rand.NewPCG(2, 2))
	var buf [page]byte
	for range n {
		off := rng.Int64N(int64(c.big)<<20/page) * page
		if write {
			_, err = f.WriteAt(buf[:], off)
		} else {
			_, err = f.ReadAt(buf[:], off)
		}
		if err != nil {
			return errors.Join(err, f.Close())
		}
	}
	if write {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}
