package mm

import (
	"bytes"
	"testing"

	"pgregory.net/rapid"
)

// lagging is a file of one page and a client that learns of its size late: the kernel's i_size is raised somewhere between the write and its
// return, and write-back has two looks at it, one to zero the page behind it and one to cut the request (fuse-in-go.md, C3).
type lagging struct {
	t      *rapid.T
	m      Mapping
	budget *Budget
	file   []byte
	want   []byte // with what the mapping has stored
	isize  int    // as the client has it

	writing, told  bool // a write that grows the file is under way, and the client has its size
	from           int  // the size before it
	present, dirty bool
	zeroed         bool // write-back has begun: nobody touches the page
	page           [PageSize]byte
}

func (l *lagging) begin() {
	if l.present && l.dirty && !l.zeroed {
		clear(l.page[l.isize:])
		l.zeroed = true
	}
}

func (l *lagging) send() {
	if !l.zeroed {
		return
	}
	l.zeroed, l.dirty = false, false
	err := l.m.Merge(0, l.page[:l.isize], func(off int64, p []byte) error {
		copy(l.file[off:], p)
		return nil
	})
	if err != nil {
		l.t.Fatal(err)
	}
}

// drop is what write(2) does with the page before and after its request.
func (l *lagging) drop() {
	l.begin()
	l.send()
	l.present = false
}

func (l *lagging) write(n int) {
	if l.writing || len(l.file)+n >= PageSize {
		return
	}
	l.drop()
	l.writing, l.told, l.from = true, false, len(l.file)
	l.m.Grow(int64(l.from))
	b := bytes.Repeat([]byte{'a'}, n)
	l.file, l.want = append(l.file, b...), append(l.want, b...)
}

func (l *lagging) tell() {
	if l.writing && !l.told {
		l.isize, l.told = len(l.file), true
		l.m.Grown()
	}
}

func (l *lagging) done() {
	if l.told {
		l.drop()
		l.writing, l.told = false, false
	}
}

func (l *lagging) store(off int, b byte) {
	if l.zeroed || off >= l.isize || l.writing && off >= l.from { // what races with the write may end either way
		return
	}
	if !l.present {
		l.m.Filled(l.budget, 0, l.file)
		clear(l.page[copy(l.page[:], l.file):])
		l.present = true
	}
	l.page[off], l.want[off], l.dirty = b, b, true
}

// TestGrow: what a write(2) appends is not lost to a page that the client zeroed by the size before it, and a store of zeros is a store.
func TestGrow(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := &lagging{t: t, budget: NewBudget(1 << 20), file: bytes.Repeat([]byte{'o'}, 8)}
		l.want, l.isize = bytes.Clone(l.file), len(l.file)
		t.Repeat(map[string]func(*rapid.T){
			"write":      func(t *rapid.T) { l.write(rapid.IntRange(1, 8).Draw(t, "n")) },
			"tell":       func(*rapid.T) { l.tell() },
			"done":       func(*rapid.T) { l.done() },
			"store":      func(t *rapid.T) { l.store(rapid.IntRange(0, 63).Draw(t, "off"), rapid.Byte().Draw(t, "byte")) },
			"write-back": func(*rapid.T) { l.begin() },
			"send":       func(*rapid.T) { l.send() },
			"": func(t *rapid.T) {
				if !l.dirty && !bytes.Equal(l.file, l.want) {
					t.Fatalf("the file is %q, want %q", l.file, l.want)
				}
			},
		})
	})
}

// TestGrown: a page that was filled while a write grew the file is to be dropped, one that was filled before is not, nor one that is not the page of
// the old size; a fill after it is a fill like any other.
func TestGrown(t *testing.T) {
	const size = PageSize + 42
	for _, c := range []struct {
		name string
		page int64
		when string
		want bool
	}{
		{"meanwhile", 1, "meanwhile", true},
		{"another page", 0, "meanwhile", false},
		{"before", 1, "before", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			var m Mapping
			b := NewBudget(1 << 20)
			data := bytes.Repeat([]byte{'o'}, 50)
			if c.when == "before" {
				m.Filled(b, c.page*PageSize, data)
			}
			m.Grow(size)
			m.Grow(size + 8) // of the same call
			if c.when == "meanwhile" {
				m.Filled(b, c.page*PageSize, data)
			}
			for range 2 {
				if got := m.Grown(); got != c.want {
					t.Errorf("to be dropped: %v, want %v", got, c.want)
				}
			}
			m.Filled(b, c.page*PageSize, data)
			data[45] = 0
			if got := applied(t, &m, c.page*PageSize, data); len(got) != 1 || got[c.page*PageSize+45] != "\x00" {
				t.Errorf("a store of zero after a later fill: %v", got)
			}
		})
	}
}
