package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// workNames lists the workloads in their order. Those of fsync alone are parts of the one before: how often the threads could have called it
// in the time that they spent in it.
var workNames = []string{"new file+fsync, 1", onlySync(0), "new file+fsync, 4", onlySync(1), "append+fsync, 1", onlySync(2), "append+fsync, 4", onlySync(3),
	"create, 100 bytes", "unlink"}

func onlySync(work int) string {
	return [...]string{"  new file's fsync, 1", "  new file's fsync, 4", "  append's fsync, 1", "  append's fsync, 4"}[work]
}

// inSync is the time that threads have spent in fsync(2) since the workload began, in nanoseconds.
var inSync atomic.Int64

func fsync(fd int) error {
	start := time.Now()
	err := unix.Fsync(fd)
	inSync.Add(time.Since(start).Nanoseconds())
	return err
}

// workloads runs all of them below mnt and tells each one's rate.
func workloads(o *options, mnt string, tell func(name string, rate float64)) error {
	work := []struct {
		name    string
		count   int
		threads float64
		run     func(dir string) error
	}{
		{"new file+fsync, 1", o.syncs, 1, func(d string) error { return threads(1, o.syncs, d, newSynced) }},
		{"new file+fsync, 4", o.syncs * 2, 4, func(d string) error { return threads(4, o.syncs*2, d, newSynced) }},
		{"append+fsync, 1", o.syncs, 1, func(d string) error { return threads(1, o.syncs, d, appendSynced) }},
		{"append+fsync, 4", o.syncs * 2, 4, func(d string) error { return threads(4, o.syncs*2, d, appendSynced) }},
		{"create, 100 bytes", o.files, 1, func(d string) error { return storm(d, o.files) }},
		{"unlink", o.files, 1, func(d string) error { return unlinkAll(filepath.Join(filepath.Dir(d), "w4"), o.files) }},
	}
	for k, w := range work {
		dir := filepath.Join(mnt, fmt.Sprint("w", k))
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
		inSync.Store(0)
		start := time.Now()
		if err := w.run(dir); err != nil {
			return fmt.Errorf("%s: %w", w.name, err)
		}
		tell(w.name, float64(w.count)/time.Since(start).Seconds())
		if ns := inSync.Load(); ns > 0 {
			tell(onlySync(k), float64(w.count)*w.threads*1e9/float64(ns))
		}
	}
	return nil
}

// threads runs count steps, shared by n threads that each work in a directory of their own.
func threads(n, count int, dir string, step func(dir string, from, to int) error) error {
	var wg sync.WaitGroup
	errs := make([]error, n)
	for k := range n {
		d := filepath.Join(dir, fmt.Sprint("t", k))
		if err := os.Mkdir(d, 0o755); err != nil {
			return err
		}
		wg.Go(func() { errs[k] = step(d, 0, count/n) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

var content = []byte(fmt.Sprintf("%0100d", 7))

// newSynced makes files of 100 bytes, each durable before the next one.
func newSynced(dir string, from, to int) error {
	for k := from; k < to; k++ {
		if err := put(filepath.Join(dir, fmt.Sprint("f", k)), unix.O_CREAT|unix.O_WRONLY, true); err != nil {
			return err
		}
	}
	return nil
}

// appendSynced appends 100 bytes to one file, again and again.
func appendSynced(dir string, from, to int) error {
	fd, err := unix.Open(filepath.Join(dir, "log"), unix.O_CREAT|unix.O_WRONLY|unix.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	for k := from; k < to && err == nil; k++ {
		if _, err = unix.Write(fd, content); err == nil {
			err = fsync(fd)
		}
	}
	return errors.Join(err, unix.Close(fd))
}

func put(path string, flags int, durable bool) error {
	fd, err := unix.Open(path, flags, 0o644)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	_, err = unix.Write(fd, content)
	if err == nil && durable {
		err = fsync(fd)
	}
	return errors.Join(err, unix.Close(fd))
}

// storm makes files without asking for anything to be durable.
func storm(dir string, n int) error {
	for k := range n {
		if err := put(filepath.Join(dir, fmt.Sprint("f", k)), unix.O_CREAT|unix.O_WRONLY, false); err != nil {
			return err
		}
	}
	return nil
}

func unlinkAll(dir string, n int) error {
	for k := range n {
		if err := unix.Unlink(filepath.Join(dir, fmt.Sprint("f", k))); err != nil {
			return err
		}
	}
	return nil
}
