package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// workNames lists the workloads in their order.
var workNames = []string{"new file+fsync, 1", "new file+fsync, 4", "append+fsync, 1", "append+fsync, 4", "create, 100 bytes", "unlink"}

// workloads runs all of them below mnt and tells each one's rate.
func workloads(o *options, mnt string, tell func(name string, rate float64)) error {
	work := []struct {
		count int
		run   func(dir string) error
	}{
		{o.syncs, func(d string) error { return threads(1, o.syncs, d, newSynced) }},
		{o.syncs * 2, func(d string) error { return threads(4, o.syncs*2, d, newSynced) }},
		{o.syncs, func(d string) error { return threads(1, o.syncs, d, appendSynced) }},
		{o.syncs * 2, func(d string) error { return threads(4, o.syncs*2, d, appendSynced) }},
		{o.files, func(d string) error { return storm(d, o.files) }},
		{o.files, func(d string) error { return unlinkAll(filepath.Join(filepath.Dir(d), "w4"), o.files) }},
	}
	for k, w := range work {
		dir := filepath.Join(mnt, fmt.Sprint("w", k))
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
		start := time.Now()
		if err := w.run(dir); err != nil {
			return fmt.Errorf("%s: %w", workNames[k], err)
		}
		tell(workNames[k], float64(w.count)/time.Since(start).Seconds())
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
			err = unix.Fsync(fd)
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
		err = unix.Fsync(fd)
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
