package crash

import (
	"fmt"
	"math/rand"
	"strings"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// conversions are the ways out of the inode, each applied to a durable inline file of 100 bytes.
var conversions = []struct {
	name string
	run  func(w *worker, p string) error
}{
	{"write that does not fit", func(w *worker, p string) error {
		f := w.m.names[p]
		return w.op("write "+p, func() error { return w.store(f, w.bytes(700), 60) })
	}},
	{"page fault", func(w *worker, p string) error {
		f := w.m.names[p]
		return w.op("store by mmap "+p, func() error { return w.mappedStore(f) })
	}},
	{"truncate up", func(w *worker, p string) error {
		f := w.m.names[p]
		return w.op("truncate "+p, func() error { return w.resize(f, 2500) })
	}},
	{"fallocate", func(w *worker, p string) error {
		f := w.m.names[p]
		return w.op("fallocate "+p, func() error {
			if st := w.s.fallocate(f.node, 1, 0, 3000); st != fuse.OK && !noSpace(st) {
				return failed("fallocate", st)
			}
			return nil
		})
	}},
}

// TestConversionWindows is about the kernel's own crash windows: ext4_convert_inline_data_to_extent and the writepages path destroy the
// inline data before they have a block, the latter in a transaction of its own, so that a crash (or a failure) between leaves a file of
// zeros. Here the power is cut at every write of conversions that work and of some that find no space, with transactions committed as fast
// as can be: the file is inline with all its bytes or in its block with all its bytes, check (and e2fsck, on a sample) find nothing.
func TestConversionWindows(t *testing.T) {
	first := seed(t)
	if err := Usable(); err != nil {
		t.Skip(err)
	}
	dir, points := t.TempDir(), 0
	for _, v := range Variants()[:2] {
		base, err := v.Make(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, full := range []bool{false, true} {
			for _, c := range conversions {
				for _, strategy := range []bool{false, true} { // the strategy of the mount, or the one that destroys first and restores
					v := v
					v.Observe = strategy
					name := fmt.Sprintf("%s/%s/full %v/restoring %v", v.Name, c.name, full, strategy)
					t.Run(strings.ReplaceAll(name, " ", "_"), func(t *testing.T) {
						for s := range int64(2) {
							r, err := record(v, base, first+s, func(w *worker) error { return convertOne(w, full, c.run) })
							if err != nil {
								t.Fatal(err)
							}
							points += everyPoint(t, r, dir)
						}
					})
				}
			}
		}
	}
	t.Logf("%d crash points", points)
}

// convertOne makes an inline file durable, converts it, and makes that durable.
func convertOne(w *worker, full bool, convert func(w *worker, p string) error) error {
	steps := []func() error{
		func() error {
			return w.op("create /f", func() error {
				node, st := w.s.create(fuse.FUSE_ROOT_ID, "f")
				w.named("", "f", node, regular, st)
				return failed("create", st)
			})
		},
		func() error {
			return w.op("write /f", func() error { return w.store(w.m.names["/f"], w.bytes(100), 0) })
		},
		func() error {
			if full {
				return w.fill("filler")
			}
			return nil
		},
		func() error { return w.syncFile("fsync /f", w.m.names["/f"], false) },
		func() error { w.eager = true; return convert(w, "/f") },
		func() error { w.eager = false; return w.syncFile("fsync /f", w.m.names["/f"], false) },
	}
	for _, s := range steps {
		if err := s(); err != nil {
			return err
		}
	}
	// The workload is what it says it is.
	if ok, no := w.s.super.Live.Conversions.Load(), w.s.super.Live.ConversionsFailed.Load(); full && no == 0 || !full && ok == 0 {
		return fmt.Errorf("full %v: %d conversions worked and %d did not", full, ok, no)
	}
	return nil
}

// everyPoint tries each point of a run, and some losses of writes at each; e2fsck judges one in twelve, package check every one. It returns
// how many there were.
func everyPoint(t *testing.T, r *Run, dir string) int {
	t.Helper()
	sw, err := newSweeper(r, dir, 12)
	if err != nil {
		t.Fatal(err)
	}
	from := 0
	for n, e := range r.Log { // the conversion and what follows
		if strings.HasPrefix(string(e.Data), "begin 3 ") || strings.HasPrefix(string(e.Data), "begin 4 ") {
			from = n
		}
	}
	rng := rand.New(rand.NewSource(r.Seed))
	for _, n := range r.Points() {
		if n < from {
			continue
		}
		for _, mix := range []int{0, 1 + rng.Intn(1000)} {
			if mix > 0 && flushed(r.Log, n) == n {
				continue
			}
			if err := sw.try(Point{n, mix}); err != nil {
				t.Fatalf("seed %d, after entry %d (mix %d): %v", r.Seed, n, mix, err)
			}
		}
	}
	return sw.tried
}
