package stress

import (
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// TestSiblingTable holds what the workers and the judge rely on.
func TestSiblingTable(t *testing.T) {
	seen := map[string]bool{}
	for _, s := range Siblings() {
		if seen[s.Name] || s.Mirrors == "" || s.Here == "" || s.Base == "" || s.Turns < 1 || len(s.actors) > maxWorkers {
			t.Errorf("%+v", s)
		}
		seen[s.Name] = true
		if n := len(s.cells); n == 0 || n > maxCells {
			t.Errorf("%s: %d cells", s.Name, n)
		}
		if !slices.IsSortedFunc(s.actors, func(a, b actor) int { return boolInt(a.maps) - boolInt(b.maps) }) {
			t.Errorf("%s: those that map do not come last", s.Name)
		}
		if s.leaders() == 0 {
			t.Errorf("%s: nobody leads", s.Name)
		}
		lay := s.layout()
		var ends []int64
		for i, c := range s.cells {
			if c.owner < 0 || c.owner >= len(s.actors) {
				t.Errorf("%s: cell %d of actor %d", s.Name, i, c.owner)
			}
			if !c.gone && !lay.inside(i) {
				t.Errorf("%s: cell %d at %d is not in the new file of %d bytes", s.Name, i, c.off, s.size)
			}
			if c.owner != 0 && c.gone {
				t.Errorf("%s: cell %d may go, but actor %d does not change the size", s.Name, i, c.owner)
			}
			if s.actors[c.owner].maps && c.off+cellSize > 4096 {
				t.Errorf("%s: cell %d is stored to beyond the first page", s.Name, i)
			}
			if slices.ContainsFunc(ends, func(e int64) bool { return c.off < e && e < c.off+2*cellSize }) {
				t.Errorf("%s: cell %d at %d overlaps another", s.Name, i, c.off)
			}
			ends = append(ends, c.off+cellSize)
		}
		for id := range s.actors {
			first, n := lay.chunk(id)
			for i := first; i < first+n; i++ {
				if lay.owner[i] != id {
					t.Errorf("%s: cells of actor %d are not together", s.Name, id)
				}
			}
		}
	}
}

func boolInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

func TestListSiblings(t *testing.T) {
	var b strings.Builder
	if err := ListSiblings(&b); err != nil {
		t.Fatal(err)
	}
	for _, s := range Siblings() {
		if !strings.Contains(b.String(), "\n"+s.Name+" (image: ") && !strings.HasPrefix(b.String(), s.Name+" (") {
			t.Errorf("%s is not in the list:\n%s", s.Name, b.String())
		}
	}
	for line := range strings.Lines(b.String()) {
		if utf8.RuneCountInString(line) > timelineWidth+1 {
			t.Errorf("line too wide: %s", line)
		}
	}
}

func TestPlausible(t *testing.T) {
	const round = 5
	stay, gone := siblingCell{owner: 1}, siblingCell{owner: 1, gone: true}
	at := func(seq uint32) uint64 { return stamp(1, round, seq) }
	for _, tt := range []struct {
		name string
		c    siblingCell
		low  uint64
		high uint32
		v    uint64
		want bool
	}{
		{"as acknowledged", stay, at(20), 20, at(20), true},
		{"issued meanwhile", stay, at(20), 22, at(22), true},
		{"not yet issued", stay, at(20), 22, at(23), false},
		{"older", stay, at(20), 22, at(19), false},
		{"zero", stay, at(20), 22, 0, false},
		{"another's", stay, at(20), 22, stamp(2, round, 21), false},
		{"of another round", stay, at(20), 22, stamp(1, round+1, 21), false},
		{"no stamp", stay, at(20), 22, 0x11, false},
		{"gone", gone, at(20), 22, 0, true},
		{"gone, older", gone, 0, 22, at(19), true},
		{"gone, not yet issued", gone, 0, 22, at(23), false},
	} {
		if got := plausible(tt.c, round, tt.low, tt.high, tt.v); got != tt.want {
			t.Errorf("%s: %t, want %t", tt.name, got, tt.want)
		}
	}
}

// TestPulse: one that waits is not stuck, one that neither waits nor moves is.
func TestPulse(t *testing.T) {
	var p pulse
	now := time.Now()
	for _, s := range []struct {
		after time.Duration
		beat  uint64
		idle  bool
		want  time.Duration
	}{
		{0, 0, false, 0}, {time.Second, 0, false, time.Second}, {2 * time.Second, 1, false, 0}, {5 * time.Second, 1, false, 3 * time.Second},
		{6 * time.Second, 1, true, 0}, {90 * time.Second, 1, true, 0}, {91 * time.Second, 1, false, time.Second},
	} {
		if got := p.look(now.Add(s.after), s.beat, s.idle); got != s.want {
			t.Errorf("after %s with beat %d, idle %t: %s, want %s", s.after, s.beat, s.idle, got, s.want)
		}
	}
}

func TestFirsts(t *testing.T) {
	f := firsts{at: map[string]float64{}}
	f.note("a", 3)
	f.note("a", 2)
	f.note("a", 4)
	f.note("b", 1)
	if got := f.all(); got["a"] != 2 || got["b"] != 1 || len(got) != 2 {
		t.Errorf("firsts %v", got)
	}
	if !f.has(nil) || !f.has([]string{"a", "b"}) || f.has([]string{"a", "c"}) {
		t.Error("has is wrong")
	}
}

// TestWatchSeesOneOfTwo: a worker that moves does not excuse one that is stuck, and one that waits is none.
func TestWatchSeesOneOfTwo(t *testing.T) {
	sh, f, err := newShared()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	aborted := make(chan struct{})
	g := &campaign{c: &Config{HangAfter: 2 * watchEvery}, p: params{Writers: 2, Mappers: 1, Files: 1}, dir: t.TempDir(), sh: sh,
		abort: func() { close(aborted) }, hangSeen: make(chan struct{})}
	sh.idle.Store(1)
	sh.slots[2].idle.Store(1)
	done := make(chan struct{})
	defer close(done)
	go g.watch(done)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for end := time.After(time.Minute); ; {
		select {
		case <-tick.C:
			sh.slots[0].beat.Add(1)
			continue
		case <-end:
			t.Fatal("nothing seen")
		case <-aborted:
		}
		break
	}
	<-g.hangSeen
	if who := g.stuck.Load(); !g.hung.Load() || who == nil || *who != "worker 1" || sh.broken.Load() == 0 {
		t.Errorf("hung %t, stuck %v, broken %d", g.hung.Load(), who, sh.broken.Load())
	}
}
