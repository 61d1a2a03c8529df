package fs

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"inlinefs/internal/control"
	"inlinefs/internal/testimage"
	"inlinefs/super"
)

func observe(t *testing.T, strategy string, c config) *mounted {
	t.Helper()
	if c.fs.Strategy = strategy; c.fs.Mmap == "" {
		c.fs.Mmap = MmapObserve
	}
	if c.img == "" {
		testimage.FuseUsable(t)
		c.img = testimage.Make(t, plain())
	}
	m, err := tryMount(t, c)
	if err != nil && strings.Contains(err.Error(), "FUSE_DIRECT_IO_ALLOW_MMAP") {
		t.Skip(err)
	}
	must(t, err)
	if c.races { // the lock-checking build reports an inversion as well
		t.Cleanup(m.f.LockReports())
	}
	return m
}

func TestFaultConvertsWithMkwrite(t *testing.T) {
	m := observe(t, "mkwrite", config{})
	p := m.path("f")
	write(t, p, pattern(100, 1))
	c := newClient(t)
	c.ok("open "+p, "announce", "map 100")
	if r := m.f.Report().Counters; r.Faults != 0 || r.Announced != 1 || r.Conversions != 0 || !m.inline(p) {
		t.Errorf("before the fault: %+v", r)
	}
	c.ok("store 5 65 3")
	if r := m.f.Report().Counters; r.Faults != 1 || r.Conversions != 1 || m.inline(p) {
		t.Errorf("after the fault: %+v, inline %v", r, m.inline(p))
	}
	c.ok("msync", "unmap", "close")
	if got, want := read(t, p), pattern(100, 1)[:5]+"AAA"+pattern(100, 1)[8:]; got != want {
		t.Errorf("content %q, want %q", got, want)
	}
	if r := m.f.Report().Counters; r.Writepages == 0 {
		t.Errorf("no write-back was counted: %+v", r)
	}
}

func TestAnnounceConvertsWithMmap(t *testing.T) {
	m := observe(t, "mmap", config{races: true})
	p := m.path("f")
	write(t, p, pattern(100, 1))
	c := newClient(t)
	c.ok("open "+p, "announce")
	if r := m.f.Report().Counters; r.Faults != 0 || r.Conversions != 1 || m.inline(p) {
		t.Errorf("after the announcement: %+v", r)
	}
	c.ok("map 100", "store 5 65 3", "unmap", "close")
	if got, want := read(t, p), pattern(100, 1)[:5]+"AAA"+pattern(100, 1)[8:]; got != want {
		t.Errorf("content %q, want %q", got, want)
	}
	if r := m.f.Report().Counters; r.Conversions != 1 || r.ConversionsFailed != 0 {
		t.Errorf("at the end: %+v", r)
	}
}

// TestUnannouncedFault: with strategy mmap nobody converts, and nothing is lost.
func TestUnannouncedFault(t *testing.T) {
	m := observe(t, "mmap", config{})
	p := m.path("f")
	write(t, p, pattern(100, 1))
	c := newClient(t)
	c.ok("open "+p, "map 100", "store 0 66 10", "msync")
	if !m.inline(p) {
		t.Error("an unannounced fault converted the file")
	}
	if got, want := read(t, p), strings.Repeat("B", 10)+pattern(100, 1)[10:]; got != want {
		t.Errorf("content %q, want %q", got, want)
	}
	// Mapped bytes that are dirty while another outgrows the inode.
	c.ok("store 20 67 10")
	f, err := os.OpenFile(p, os.O_WRONLY|os.O_APPEND, 0)
	must(t, err)
	_, err = f.WriteString(pattern(500, 2))
	must(t, err)
	must(t, f.Close())
	c.ok("unmap", "close")
	if got, want := read(t, p), strings.Repeat("B", 10)+pattern(100, 1)[10:20]+strings.Repeat("C", 10)+pattern(100, 1)[30:]+pattern(500, 2); got != want {
		t.Errorf("content %q, want %q", got, want)
	}
}

// keeping are the strategies that lose no store; TestDestroyLoses is about the other one.
func keeping() []string {
	return slices.DeleteFunc(Strategies(), func(s string) bool { return s == "writepages_destroy" })
}

// inverts says that the strategy takes i_rwsem under mmap_lock: the mount reports that.
func inverts(strategy string) bool { return strategy == "mmap" || strategy == "mkwrite_ilock" }

// TestDestroyLoses: write-back under writepages_destroy loses the stores and the file's bytes, as its head comment says.
func TestDestroyLoses(t *testing.T) {
	m := observe(t, "writepages_destroy", config{})
	p := m.path("f")
	write(t, p, pattern(120, 1))
	c := newClient(t)
	c.ok("open "+p, "map 120", "store 0 65 10", "msync", "unmap", "close")
	f, err := os.OpenFile(p, os.O_RDWR, 0) // observed: past the page cache
	must(t, err)
	defer f.Close()
	got := make([]byte, 120)
	if _, err := f.ReadAt(got, 0); err != nil || string(got) != string(make([]byte, 120)) || m.inline(p) {
		t.Errorf("content %q, %v, inline %v, want zeros in an ordinary file", got, err, m.inline(p))
	}
}

// TestDisjointBytesMeet: one process stores through a mapping and another writes, each its own bytes; the two are merged.
func TestDisjointBytesMeet(t *testing.T) {
	for _, strategy := range keeping() {
		for _, announce := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s-announced-%v", strategy, announce), func(t *testing.T) { disjoint(t, strategy, announce) })
		}
	}
}

func disjoint(t *testing.T, strategy string, announce bool) {
	m := observe(t, strategy, config{races: inverts(strategy)})
	p := m.path("f")
	const n, half, rounds = 120, 60, 40
	write(t, p, strings.Repeat(".", n))
	mapper, writer := newClient(t), newClient(t)
	mapper.ok("open " + p)
	writer.ok("open " + p)
	if announce {
		mapper.ok("announce")
	}
	mapper.ok(fmt.Sprintf("map %d", n))
	if strategy == "mkwrite" || strategy == "flip" {
		mapper.ok("store 0 46 1") // its conversion in the fault is not to meet a write: that is the race of the other tests
	}
	for k := range rounds {
		b, w := 'a'+k%26, 'A'+k%26
		// Both at the same time, then the write-back.
		mapper.send("store 0 %d %d", b, half)
		writer.send("pwrite %d %d %d", half, w, n-half)
		if a, b := mapper.answer(), writer.answer(); a != "ok" || b != "ok" {
			t.Fatalf("round %d: %s, %s", k, a, b)
		}
		mapper.ok("msync")
		if got, want := read(t, p), strings.Repeat(string(rune(b)), half)+strings.Repeat(string(rune(w)), n-half); got != want {
			t.Fatalf("round %d: %q, want %q", k, got, want)
		}
	}
	mapper.ok("unmap", "close")
	writer.ok("close")
}

// TestStoreAndTruncate: what is cut off by a truncate does not come back with a write-back.
func TestStoreAndTruncate(t *testing.T) {
	for _, strategy := range keeping() {
		t.Run(strategy, func(t *testing.T) {
			m := observe(t, strategy, config{races: inverts(strategy)})
			p := m.path("f")
			write(t, p, pattern(120, 1))
			c := newClient(t)
			c.ok("open "+p, "map 120", "store 0 65 120")
			must(t, os.Truncate(p, 40))
			must(t, os.Truncate(p, 120))
			c.ok("unmap", "close")
			got := read(t, p)
			if len(got) != 120 || got[40:] != string(make([]byte, 80)) {
				t.Errorf("after cut and growth: %q", got)
			}
			for k := range 40 {
				if got[k] != 'A' && got[k] != pattern(120, 1)[k] {
					t.Errorf("byte %d is %q", k, got[k])
				}
			}
		})
	}
}

// seedImage is the image on which no conversion succeeds, with one inline file "f".
func seedImage(t *testing.T) string {
	t.Helper()
	testimage.FuseUsable(t)
	img := testimage.Seed(t)
	m := mountConfig(t, config{img: img, broken: true, super: super.Options{Errors: 1}})
	write(t, m.path("f"), pattern(100, 1))
	m.unmount()
	return img
}

func TestAnnounceFailsOnTheSeedImage(t *testing.T) {
	m := observe(t, "mmap", config{img: seedImage(t), broken: true, super: super.Options{Errors: 1}})
	p := m.path("f")
	f, err := os.OpenFile(p, os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	want(t, "announcement", control.AnnounceMmap(int(f.Fd())), syscall.ENOSPC)
	if got := read(t, p); got != pattern(100, 1) || !m.inline(p) {
		t.Errorf("content %q inline %v", got, m.inline(p))
	}
	if r := m.f.Report(); r.Counters.ConversionsFailed != 1 || len(r.Violations) != 0 {
		t.Errorf("report %+v", r)
	}
}

func TestFaultFailsOnTheSeedImage(t *testing.T) {
	m := observe(t, "mkwrite", config{img: seedImage(t), broken: true, super: super.Options{Errors: 1}})
	p := m.path("f")
	c := newClient(t)
	c.ok("open "+p, "announce", "map 100")
	if got := c.do("store 0 65 1"); got != "sigbus" {
		t.Errorf("store: %s, want sigbus", got)
	}
	c.ok("unmap", "close")
	if got := read(t, p); got != pattern(100, 1) || !m.inline(p) {
		t.Errorf("content %q inline %v", got, m.inline(p))
	}
	if r := m.f.Report(); r.Counters.Restores == 0 || r.Counters.Restores != r.Counters.Faults || len(r.Violations) != 0 {
		t.Errorf("report %+v", r)
	}
}

// race runs writes of this process against mappings of another on the seed image until enough returns true, or a minute has gone.
func race(t *testing.T, m *mounted, announce bool, enough func(writes int) bool) (writes int) {
	t.Helper()
	p := m.path("f")
	var wg sync.WaitGroup
	quit := make(chan struct{})
	c := newClient(t)
	c.ok("open " + p)
	wg.Go(func() {
		for {
			select {
			case <-quit:
				return
			default:
			}
			if announce {
				c.send("announce")
				c.answer() // ENOSPC
			}
			c.send("rounds 50 100")
			c.answer()
		}
	})
	f, err := os.OpenFile(p, os.O_WRONLY, 0)
	must(t, err)
	for deadline := time.Now().Add(time.Minute); !enough(writes) && time.Now().Before(deadline); writes++ {
		// The write that meets the race fails, as the kernel would stop there.
		_, _ = f.WriteAt([]byte(pattern(20+writes%60, writes)), 0)
	}
	close(quit)
	wg.Wait()
	must(t, f.Close())
	return writes
}

// TestSoundSurvivesTheRace: on the seed image, where every conversion is tried and fails, these break no rule; but mmap takes its locks
// in the wrong order.
func TestSoundSurvivesTheRace(t *testing.T) {
	for _, strategy := range []string{"mmap", "premmap", "flip_folio"} {
		t.Run(strategy, func(t *testing.T) { survive(t, strategy) })
	}
}

func survive(t *testing.T, strategy string) {
	m := observe(t, strategy, config{img: seedImage(t), broken: true, super: super.Options{Errors: 1}, fs: Options{Window: 100 * time.Microsecond}})
	n := 2000
	if testing.Short() {
		n = 300
	}
	writes := race(t, m, true, func(k int) bool {
		r := m.f.Report().Counters
		return k >= n && r.ConversionsFailed > 0 && r.Faults > 0
	})
	r := m.f.Report()
	t.Logf("%d writes, %+v", writes, r.Counters)
	cycles := r.Violations["lock-cycle"]
	delete(r.Violations, "lock-cycle")
	if len(r.Violations) != 0 || r.Counters.Flips != 0 || (cycles > 0) != (strategy == "mmap") {
		t.Errorf("violations %v, %d lock cycles, first %+v", r.Violations, cycles, r.First)
	}
	if r.Counters.ConversionsFailed == 0 || r.Counters.Faults == 0 {
		t.Errorf("there was no race: %+v", r.Counters)
	}
}

// TestMkwriteIsConvicted: with the window held open the write that ends a handle it never began is met within a few rounds.
func TestMkwriteIsConvicted(t *testing.T) {
	m := observe(t, "mkwrite", config{img: seedImage(t), broken: true, super: super.Options{Errors: 1}, fs: Options{Window: time.Millisecond}})
	seen := func() bool { return m.f.Report().Violations["nil-handle"] > 0 }
	writes := race(t, m, false, func(int) bool { return seen() })
	r := m.f.Report()
	t.Logf("%d writes, violations %v, %+v", writes, r.Violations, r.Counters)
	if !seen() {
		t.Log("no nil-handle in a minute: this machine is too busy to race on")
		return
	}
	if v := r.First; v == nil || v.Strategy != "mkwrite" || v.Ino != stat(t, m.path("f")).Ino || len(v.Breaker) == 0 || len(v.Events) == 0 {
		t.Errorf("first violation %+v", v)
	}
	if b, err := os.ReadFile(m.path("f")); err != nil || len(b) != 100 {
		t.Errorf("the file reads %d bytes, %v", len(b), err)
	}
}

// TestObserveOnlyWhatIsInline: a file opened for reading only, or that is in blocks, is cached as ever.
func TestObserveOnlyWhatIsInline(t *testing.T) {
	m := observe(t, "mmap", config{})
	write(t, m.path("inline"), pattern(100, 1))
	write(t, m.path("block"), pattern(5000, 1))
	for name, flags := range map[string]int{"inline": unix.O_RDONLY, "block": unix.O_RDWR} {
		before := m.f.Report().Counters.Faults
		f, err := os.OpenFile(m.path(name), flags, 0)
		must(t, err)
		b := make([]byte, 50)
		_, err = f.ReadAt(b, 0)
		must(t, err)
		must(t, f.Close())
		if m.f.Report().Counters.Faults != before {
			t.Errorf("%s: a read counted as a fault", name)
		}
	}
	f, err := os.OpenFile(m.path("inline"), os.O_RDWR, 0)
	must(t, err)
	b := make([]byte, 100)
	if _, err := f.ReadAt(b, 0); err != nil || string(b) != pattern(100, 1) {
		t.Errorf("direct read: %q, %v", b, err)
	}
	if m.f.Report().Counters.Faults != 0 {
		t.Error("read(2) counted as a fault")
	}
	_, err = f.WriteAt([]byte("direct"), 0)
	must(t, err)
	must(t, f.Close())
	if got := read(t, m.path("inline")); got[:6] != "direct" {
		t.Errorf("a cached reader sees %q", got[:6])
	}
}
