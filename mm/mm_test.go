package mm

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"pgregory.net/rapid"
)

// page is what the client's kernel has of one page.
type page struct {
	present bool
	dirty   bool
	data    [PageSize]byte
	base    [PageSize]byte // data when it was last the same here and there
	stored  [PageSize]bool // since then
}

const pages = 3

// world is a file, the client's pages of it, and the shadow.
type world struct {
	m      Mapping
	budget *Budget
	file   []byte
	pg     [pages]page
	next   byte
}

// value is one that differs from b.
func (w *world) value(b byte) byte {
	for w.next++; w.next == b; w.next++ {
	}
	return w.next
}

func (w *world) fill(n int) {
	p := &w.pg[n]
	from := n * PageSize
	if p.present || from >= len(w.file) {
		return
	}
	*p = page{present: true}
	sent := w.file[from:min(from+PageSize, len(w.file))]
	copy(p.data[:], sent)
	p.base = p.data
	w.m.Filled(w.budget, int64(from), sent)
}

func (w *world) store(n, off, count int) {
	p := &w.pg[n]
	if !p.present {
		return
	}
	for k := off; k < min(off+count, PageSize) && n*PageSize+k < len(w.file); k++ {
		p.data[k] = w.value(p.base[k])
		p.stored[k], p.dirty = true, true
	}
}

// write is write(2) by direct I/O: the pages know nothing of it.
func (w *world) write(off, count int) {
	if end := off + count; end > len(w.file) {
		w.file = append(w.file, make([]byte, end-len(w.file))...)
	}
	for k := off; k < off+count; k++ {
		w.file[k] = w.value(w.file[k])
	}
}

// writeBack sends a page and returns what the file should hold afterwards.
func (w *world) writeBack(n int) (want []byte, err error) {
	p := &w.pg[n]
	if !p.dirty {
		return w.file, nil
	}
	from := n * PageSize
	want = bytes.Clone(w.file)
	for k, s := range p.stored {
		if s {
			want[from+k] = p.data[k]
		}
	}
	sent := p.data[:min(PageSize, len(w.file)-from)]
	err = w.m.Merge(int64(from), sent, func(off int64, b []byte) error {
		copy(w.file[off:], b)
		return nil
	})
	p.dirty, p.base, p.stored = false, p.data, [PageSize]bool{}
	return want, err
}

// cut makes [from, to) zeros, here and there.
func (w *world) cut(from, to int) {
	w.m.Drop(int64(from), int64(to))
	for n := range w.pg {
		start, end := max(from, n*PageSize), min(to, (n+1)*PageSize)
		if start >= end {
			continue
		}
		p := &w.pg[n]
		if end-start == PageSize {
			*p = page{}
			continue
		}
		start, end = start-n*PageSize, end-n*PageSize
		clear(p.data[start:end])
		clear(p.base[start:end])
		clear(p.stored[start:end])
	}
	if to >= len(w.file) {
		w.file = w.file[:min(from, len(w.file))]
	} else {
		clear(w.file[from:to])
	}
}

// TestModel: no byte of a write(2) is lost to a stale page, and every byte stored through a mapping arrives.
func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := &world{budget: NewBudget(1 << 20), file: make([]byte, rapid.IntRange(1, pages*PageSize).Draw(t, "size"))}
		which := rapid.IntRange(0, pages-1)
		t.Repeat(map[string]func(*rapid.T){
			"fill": func(t *rapid.T) { w.fill(which.Draw(t, "page")) },
			"store": func(t *rapid.T) {
				w.store(which.Draw(t, "page"), rapid.IntRange(0, PageSize-1).Draw(t, "off"), rapid.IntRange(1, 200).Draw(t, "n"))
			},
			"write": func(t *rapid.T) {
				off := rapid.IntRange(0, pages*PageSize-1).Draw(t, "off")
				w.write(off, rapid.IntRange(1, min(300, pages*PageSize-off)).Draw(t, "n"))
			},
			"write-back": func(t *rapid.T) {
				want, err := w.writeBack(which.Draw(t, "page"))
				if err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(w.file, want) {
					for k := range want {
						if w.file[k] != want[k] {
							t.Fatalf("byte %d is %d, want %d", k, w.file[k], want[k])
						}
					}
				}
			},
			"evict": func(t *rapid.T) { // the client drops a clean page
				if p := &w.pg[which.Draw(t, "page")]; !p.dirty {
					p.present = false
				}
			},
			"truncate": func(t *rapid.T) {
				w.cut(rapid.IntRange(0, len(w.file)).Draw(t, "size"), pages*PageSize)
			},
			"punch": func(t *rapid.T) {
				a, b := rapid.IntRange(0, len(w.file)).Draw(t, "from"), rapid.IntRange(0, len(w.file)).Draw(t, "to")
				if a, b = min(a, b), max(a, b); a < b && b < len(w.file) {
					w.cut(a, b)
				}
			},
			"": func(t *rapid.T) {
				if n := w.m.Pages(); n > pages || w.budget.Bytes() != int64(n)*PageSize {
					t.Fatalf("%d fills take %d bytes", n, w.budget.Bytes())
				}
			},
		})
	})
}

// applied collects what Merge applies.
func applied(t *testing.T, m *Mapping, off int64, data []byte) map[int64]string {
	t.Helper()
	out := map[int64]string{}
	err := m.Merge(off, data, func(off int64, p []byte) error {
		out[off] = string(p)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestRuns: only what differs is applied, each run once; what was never filled is applied whole.
func TestRuns(t *testing.T) {
	var m Mapping
	b := NewBudget(1 << 20)
	if got := applied(t, &m, 10, []byte("abc")); len(got) != 1 || got[10] != "abc" {
		t.Errorf("page never filled: %v", got)
	}
	m.Filled(b, 0, []byte("aaaaaaaaaa"))
	if got := applied(t, &m, 0, []byte("aaaaaaaaaa")); len(got) != 0 {
		t.Errorf("nothing stored: %v", got)
	}
	if got := applied(t, &m, 0, []byte("abbaaaaaac")); len(got) != 2 || got[1] != "bb" || got[9] != "c" {
		t.Errorf("two runs: %v", got)
	}
	if got := applied(t, &m, 4, []byte("aaxaac")); len(got) != 1 || got[6] != "x" {
		t.Errorf("part of a page: %v", got)
	}
	if got := applied(t, &m, 0, []byte("abbaaaxaac")); len(got) != 0 {
		t.Errorf("written back before: %v", got)
	}
	if got := applied(t, &m, 8, []byte("ac\x00\x00z")); len(got) != 1 || got[12] != "z" {
		t.Errorf("behind a short fill, which counts as zeros: %v", got)
	}
	two := bytes.Repeat([]byte("k"), 2*PageSize)
	m.Filled(b, PageSize, two)
	two[PageSize-1], two[PageSize] = 'l', 'm'
	if got := applied(t, &m, PageSize, two); len(got) != 2 || got[2*PageSize-1] != "l" || got[2*PageSize] != "m" {
		t.Errorf("across pages: %v", got)
	}
}

// TestMergeError is the first of apply, and ends the merge.
func TestMergeError(t *testing.T) {
	var m Mapping
	m.Filled(NewBudget(0), 0, []byte("aaaaa"))
	bad, calls := errors.New("no space"), 0
	err := m.Merge(0, []byte("babab"), func(int64, []byte) error {
		calls++
		return bad
	})
	if !errors.Is(err, bad) || calls != 1 {
		t.Errorf("%v after %d calls, want %v after 1", err, calls, bad)
	}
}

// TestBudget: the oldest fills are forgotten first, of whatever mapping; what was forgotten is applied whole.
func TestBudget(t *testing.T) {
	const max = 16
	b := NewBudget(max * PageSize)
	var first, second Mapping
	for n := range int64(max) {
		first.Filled(b, n*PageSize, []byte("f"))
	}
	for n := range int64(5) {
		second.Filled(b, n*PageSize, []byte("s"))
	}
	if b.Bytes() != max*PageSize || first.Pages() != max-5 || second.Pages() != 5 {
		t.Errorf("%d bytes, %d and %d pages", b.Bytes(), first.Pages(), second.Pages())
	}
	if got := applied(t, &first, 0, []byte("f")); len(got) != 1 {
		t.Errorf("a forgotten page: %v, want all of it applied", got)
	}
	if got := applied(t, &first, 5*PageSize, []byte("f")); len(got) != 0 {
		t.Errorf("a remembered page: %v, want nothing applied", got)
	}
	for range 3 { // filled again, it is one page still
		second.Filled(b, 0, []byte("t"))
	}
	if b.Bytes() != max*PageSize {
		t.Errorf("%d bytes", b.Bytes())
	}
	first.Drop(0, 1<<40)
	second.Drop(0, 1<<40)
	first.Drop(0, 1<<40)
	if b.Bytes() != 0 || first.Pages()+second.Pages() != 0 {
		t.Errorf("%d bytes and %d pages after all was dropped", b.Bytes(), first.Pages()+second.Pages())
	}
}

// TestParallel: the account is right whatever the order of fills, merges and drops.
func TestParallel(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	const max = 32
	b := NewBudget(max * PageSize)
	ms := make([]Mapping, 4)
	var wg sync.WaitGroup
	for g := range 6 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(seed, uint64(g)))
			buf := make([]byte, PageSize)
			for range 2000 {
				m, off := &ms[rng.IntN(len(ms))], rng.Int64N(20)*PageSize
				switch rng.IntN(4) {
				case 0, 1:
					m.Filled(b, off, buf)
				case 2:
					if err := m.Merge(off, buf[:100], func(int64, []byte) error { return nil }); err != nil {
						t.Error(err)
					}
				case 3:
					m.Drop(off, off+rng.Int64N(5)*PageSize)
				}
				if n := b.Bytes(); n > (max+6)*PageSize {
					t.Errorf("%d bytes, want at most %d", n, max*PageSize)
				}
			}
		})
	}
	wg.Wait()
	for k := range ms {
		ms[k].Drop(0, 1<<40)
	}
	if n := b.Bytes(); n != 0 {
		t.Errorf("%d bytes are accounted after all was dropped", n)
	}
}

// TestCutComesBack: a part that was punched may be written back as it was until the kernel has zeroed it; only what differs from that is a
// store.
func TestCutComesBack(t *testing.T) {
	b := NewBudget(1 << 20)
	var m Mapping
	old := bytes.Repeat([]byte{'o'}, 100)
	m.Filled(b, 0, old)
	m.Punch(10, 20)
	stored := merger(t, &m)
	stale := bytes.Clone(old)
	stale[50] = 'S'
	if got := stored(stale); !slices.Equal(got, []string{"50:S"}) {
		t.Errorf("the punched bytes come back as they were, with one store: %q", got)
	}
	zeroed := bytes.Clone(stale)
	clear(zeroed[10:20])
	if got := stored(zeroed); len(got) != 0 {
		t.Errorf("the kernel has zeroed them: %q", got)
	}
	zeroed[12] = 'N'
	if got := stored(zeroed); !slices.Equal(got, []string{"12:N"}) {
		t.Errorf("a store into the hole: %q", got)
	}
}

// merger gives the stores that a write-back of a page's first bytes is taken for, as "OFFSET:BYTES".
func merger(t *testing.T, m *Mapping) func(data []byte) []string {
	return func(data []byte) (got []string) {
		t.Helper()
		err := m.Merge(0, data, func(off int64, p []byte) error {
			got = append(got, fmt.Sprintf("%d:%s", off, p))
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
}

// TestWholePagePunched: what comes back of a page that was punched as a whole is based on its fill until it is filled anew.
func TestWholePagePunched(t *testing.T) {
	b := NewBudget(1 << 20)
	var m Mapping
	stored := merger(t, &m)
	page := bytes.Repeat([]byte{'o'}, PageSize)
	m.Filled(b, 0, page)
	m.Punch(0, 2*PageSize)
	late := bytes.Clone(page)
	late[50] = 'S'
	if got := stored(late); !slices.Equal(got, []string{"50:S"}) {
		t.Errorf("one store, and the punched bytes as they were: %.100q", got)
	}
	m.Filled(b, 0, make([]byte, PageSize))
	if got := stored(page); !slices.Equal(got, []string{"0:" + string(page)}) {
		t.Errorf("what was punched is stored again after a fill: %.100q", got)
	}
}

// TestSettle: once the kernel is known to have zeroed its page, bytes that come back as they were are stores.
func TestSettle(t *testing.T) {
	b := NewBudget(1 << 20)
	old := bytes.Repeat([]byte{'o'}, 100)
	for _, settled := range []bool{true, false} {
		var m Mapping
		stored := merger(t, &m)
		m.Filled(b, 0, old)
		m.Punch(10, 20)
		var want []string
		if settled {
			m.Settle()
			want = []string{"10:oooooooooo"}
		}
		if got := stored(old); !slices.Equal(got, want) {
			t.Errorf("settled %v: stores %q, want %q", settled, got, want)
		}
	}
}

// TestFailedStoreComesAgain: bytes that could not be stored are stores still when they are written back again.
func TestFailedStoreComesAgain(t *testing.T) {
	b := NewBudget(1 << 20)
	var m Mapping
	data := bytes.Repeat([]byte{'o'}, 100)
	m.Filled(b, 0, data)
	data[5] = 'S'
	if err := m.Merge(0, data, func(int64, []byte) error { return errors.New("no space") }); err == nil {
		t.Fatal("the error of apply is gone")
	}
	n := 0
	if err := m.Merge(0, data, func(off int64, p []byte) error { n += len(p); return nil }); err != nil || n != 1 {
		t.Errorf("%d bytes stored, %v, want the one that failed", n, err)
	}
}
