// Command appendrace appends to files by write(2) while another thread maps their last page, stores into it and unmaps it, and counts the
// appended bytes that are not there afterwards. scripts/appendrace.sh runs it on several file systems.
package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

const (
	old, stored, appended = 'o', 's', 'A'
	piece                 = 8 // bytes of one append
)

func main() {
	dir := flag.String("dir", "", "directory of the file system to try")
	rounds := flag.Int("rounds", 100, "files")
	appends := flag.Int("appends", 100, "appends to each")
	start := flag.Int("start", 42, "size of the files before, bytes")
	prepare := flag.Bool("prepare", false, "make the files, and do no more")
	flag.Parse()
	if *dir == "" || *rounds < 1 || *appends < 1 || *start < piece || flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	var t total
	for n := range *rounds {
		path := filepath.Join(*dir, fmt.Sprintf("f%d", n))
		var err error
		if *prepare {
			err = os.WriteFile(path, bytes.Repeat([]byte{old}, *start), 0o600)
		} else {
			err = t.round(path, *start, *appends)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "appendrace:", err)
			os.Exit(1)
		}
	}
	if !*prepare {
		fmt.Printf("%d %d %d %d %d\n", *rounds, t.appends, t.maps, t.lost, t.bytes)
	}
}

// total is the outcome so far.
type total struct {
	appends, maps int64
	lost, bytes   int // files and appended bytes that are not as they should be
}

// round races on one file.
func (t *total) round(path string, start, appends int) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	var stop atomic.Bool
	maps, mapped := make(chan int64, 1), make(chan error, 1)
	first := make(chan struct{})
	go func() {
		n, err := mapAndStore(path, start, &stop, first)
		maps <- n
		mapped <- err
	}()
	<-first
	var werr error
	for range appends {
		if _, werr = f.Write(bytes.Repeat([]byte{appended}, piece)); werr != nil {
			break
		}
		t.appends++
	}
	stop.Store(true)
	t.maps += <-maps
	if err := errors.Join(werr, <-mapped); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	got := make([]byte, start+appends*piece+1)
	n, _ := f.ReadAt(got, 0) // the end of the file is an error, and expected
	missing := appends*piece - strings.Count(string(got[min(start, n):n]), string(rune(appended)))
	if missing > 0 {
		t.lost++
		t.bytes += missing
	}
	return nil
}

// mapAndStore maps the page that holds the old end of the file, stores a byte before that end and unmaps, again and again.
func mapAndStore(path string, start int, stop *atomic.Bool, first chan struct{}) (n int64, err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		close(first)
		return 0, fmt.Errorf("open: %w", err)
	}
	defer unix.Close(fd)
	size := os.Getpagesize()
	off := (start - 1) / size * size
	for n = 0; !stop.Load(); n++ {
		mem, err := unix.Mmap(fd, int64(off), size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		if err == nil {
			mem[int(n)%(start-off)] = stored
			err = unix.Munmap(mem)
		}
		if n == 0 {
			close(first)
		}
		if err != nil {
			return n, fmt.Errorf("mapping: %w", err)
		}
	}
	return n, nil
}
