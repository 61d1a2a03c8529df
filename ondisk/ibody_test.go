package ondisk

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

func newIbody(size, extra int) Inode {
	raw := make(Inode, size)
	raw.SetExtraIsize(extra)
	return raw
}

// TestIbodyMaxNumbers holds the capacities of empty inodes against ext4's: 60 bytes less than the largest inline file.
func TestIbodyMaxNumbers(t *testing.T) {
	for _, c := range []struct{ size, extra, want int }{
		{256, 32, 68}, {256, 28, 72}, {512, 32, 324}, {1024, 32, 836}, {128, 0, -1}, {256, 0, -1}, {256, 96, 4}, {256, 100, -1},
		{256, 120, -1}, {256, 124, -1}, {256, 128, -1},
	} {
		raw := newIbody(c.size, c.extra)
		if got := IbodyMax(raw); got != c.want {
			t.Errorf("inode of %d, extra %d: max %d, want %d", c.size, c.extra, got, c.want)
		}
		if c.want < 0 {
			continue
		}
		if err := IbodySet(raw, XattrSystem, "data", make([]byte, c.want)); err != nil {
			t.Errorf("inode of %d, extra %d: set of %d bytes: %v", c.size, c.extra, c.want, err)
		}
		if err := IbodyResize(raw, XattrSystem, "data", c.want+1); !errors.Is(err, ErrIbodyNoSpace) {
			t.Errorf("inode of %d, extra %d: resize to %d bytes: %v, want no space", c.size, c.extra, c.want+1, err)
		}
		if got := IbodyMax(raw); got != c.want {
			t.Errorf("inode of %d, extra %d, full: max %d, want %d", c.size, c.extra, got, c.want)
		}
	}
	// A security label of 32 bytes leaves an inline file of 72 bytes.
	raw := newIbody(256, 32)
	if err := IbodySet(raw, XattrSecurity, "selinux", make([]byte, 32)); err != nil {
		t.Fatal(err)
	}
	if got := IbodyMax(raw); got != 12 {
		t.Errorf("beside a label: max %d, want 12", got)
	}
}

type ibodyKey struct {
	index uint8
	name  string
}

// ibodyModel is what the attributes of an inode must be.
type ibodyModel struct {
	room int // bytes for entries and values
	m    map[ibodyKey][]byte
}

func (m *ibodyModel) used() (n int) {
	for k, v := range m.m {
		n += XattrEntryLen(len(k.name)) + XattrValueLen(len(v))
	}
	return n
}

func (m *ibodyModel) cost(k ibodyKey, n int) int {
	was := 0
	if v, ok := m.m[k]; ok {
		was = XattrEntryLen(len(k.name)) + XattrValueLen(len(v))
	}
	return m.used() - was + XattrEntryLen(len(k.name)) + XattrValueLen(n)
}

func (m *ibodyModel) compare(raw Inode) error {
	all, err := IbodyList(raw)
	if err != nil {
		return err
	}
	if len(all) != len(m.m) {
		return fmt.Errorf("%d attributes, want %d", len(all), len(m.m))
	}
	for k, want := range m.m {
		off, n, found, err := IbodyFind(raw, k.index, k.name)
		if err != nil || !found || !bytes.Equal(raw[off:off+n], want) {
			return fmt.Errorf("attribute %v: found %v, %x, %v; want %x", k, found, raw[off:off+n], err, want)
		}
		if n > 0 && off%4 != 0 {
			return fmt.Errorf("attribute %v at byte %d", k, off)
		}
		if pad := raw[off+n : off+XattrValueLen(n)]; len(bytes.Trim(pad, "\x00")) != 0 {
			return fmt.Errorf("attribute %v: padding %x", k, pad)
		}
	}
	start := GoodOldInode + raw.ExtraIsize()
	if len(m.m) == 0 {
		if left := bytes.Trim(raw[start:], "\x00"); len(left) != 0 {
			return fmt.Errorf("no attributes, yet bytes %x", left)
		}
	}
	max := -1
	k := ibodyKey{XattrSystem, "data"}
	if _, ok := m.m[k]; ok {
		max = (m.room - m.cost(k, 0)) &^ 3
	} else if v := (m.room - m.cost(k, 0)) &^ 3; v > 3 {
		max = v
	}
	if got := IbodyMax(raw); got != max {
		return fmt.Errorf("max %d, want %d", got, max)
	}
	return nil
}

// TestIbodyModel makes random changes and compares with a map after each.
func TestIbodyModel(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))
	for round := range 60 {
		size := []int{256, 512, 1024}[rnd.IntN(3)]
		extra := []int{4, 28, 32, 64}[rnd.IntN(4)]
		raw := newIbody(size, extra)
		for n := range GoodOldInode {
			raw[n] = byte(rnd.Uint32())
		}
		m := &ibodyModel{room: size - GoodOldInode - extra - 8, m: map[ibodyKey][]byte{}}
		for step := range 300 {
			before := slices.Clone(raw)
			what, err := ibodyStep(rnd, raw, m)
			if err != nil && !bytes.Equal(before, raw) {
				t.Fatalf("round %d step %d: %s failed and changed the inode", round, step, what)
			}
			if e := m.compare(raw); e != nil {
				t.Fatalf("round %d (%d/%d) step %d: after %s: %v", round, size, extra, step, what, e)
			}
			if !bytes.Equal(before[:GoodOldInode+extra], raw[:GoodOldInode+extra]) {
				t.Fatalf("round %d step %d: %s changed the fields before the attributes", round, step, what)
			}
		}
	}
}

// ibodyStep makes one random change of raw and m. A result that the model does not expect changes the model so that compare fails.
func ibodyStep(rnd *rand.Rand, raw Inode, m *ibodyModel) (what string, err error) {
	keys := []ibodyKey{{XattrSystem, "data"}, {XattrUser, "a"}, {XattrUser, "abcd"}, {XattrTrusted, "a"}, {XattrACLAccess, ""},
		{XattrSecurity, "selinux"}, {XattrUser, "long-name-of-an-attribute"}}
	k := keys[rnd.IntN(len(keys))]
	n := rnd.IntN(40)
	if rnd.IntN(8) == 0 {
		n = rnd.IntN(m.room + 20)
	}
	old, there := m.m[k]
	fits := m.cost(k, n) <= m.room
	switch rnd.IntN(4) {
	case 0:
		delete(m.m, k)
		return fmt.Sprintf("remove %v", k), IbodyRemove(raw, k.index, k.name)
	case 1:
		err = IbodyResize(raw, k.index, k.name, n)
		if there && fits {
			v := make([]byte, n)
			copy(v, old)
			m.m[k] = v
		}
		return fmt.Sprintf("resize %v from %d to %d: %v", k, len(old), n, err), err
	default:
		v := make([]byte, n)
		for i := range v {
			v[i] = byte(rnd.Uint32())
		}
		err = IbodySet(raw, k.index, k.name, v)
		if fits {
			m.m[k] = v
		}
		return fmt.Sprintf("set %v from %d to %d: %v", k, len(old), n, err), err
	}
}

// TestIbodyDamage plants damage and expects a CorruptError from every reader, and no change by any writer.
func TestIbodyDamage(t *testing.T) {
	first := GoodOldInode + 32 + 4
	for _, c := range []struct {
		name string
		do   func(raw Inode)
	}{
		{"endless chain", func(raw Inode) {
			for n := first; n < len(raw); n++ {
				raw[n] = 1
			}
		}},
		{"name beyond the end", func(raw Inode) { raw[first] = 255 }},
		{"value beyond the end", func(raw Inode) { put16(raw, first+2, 0xFFF0) }},
		{"value longer than the inode", func(raw Inode) { put32(raw, first+8, 0xFFFFFFFF) }},
		{"value over the entries", func(raw Inode) { put16(raw, first+2, 0) }},
		{"value in an inode", func(raw Inode) { put32(raw, first+4, 12) }},
		{"zero in a name", func(raw Inode) { raw[first+XattrEntrySize] = 0 }},
		{"overlap", func(raw Inode) { put16(raw, first+20+2, le16(raw, first+2)) }},
		{"extra size", func(raw Inode) { raw.SetExtraIsize(33) }},
		{"extra size beyond the inode", func(raw Inode) { raw.SetExtraIsize(132) }},
	} {
		raw := newIbody(256, 32)
		for _, name := range []string{"data", "b"} {
			if err := IbodySet(raw, XattrSystem, name, []byte("0123456789")); err != nil {
				t.Fatal(err)
			}
		}
		c.do(raw)
		before := slices.Clone(raw)
		_, _, _, e1 := IbodyFind(raw, XattrSystem, "data")
		_, e2 := IbodyList(raw)
		for n, err := range []error{e1, e2, IbodyCheck(raw), IbodySet(raw, XattrUser, "x", nil), IbodyResize(raw, XattrSystem, "data", 1),
			IbodyRemove(raw, XattrSystem, "data")} {
			var ce *CorruptError
			if !errors.As(err, &ce) {
				t.Errorf("%s: function %d: %v, want a CorruptError", c.name, n, err)
			}
		}
		if IbodyMax(raw) != -1 {
			t.Errorf("%s: max %d, want -1", c.name, IbodyMax(raw))
		}
		if !bytes.Equal(before, raw) {
			t.Errorf("%s: the inode was changed", c.name)
		}
	}
}

// TestIbodyResizeAllocs makes sure that the hot path of inline writes makes no garbage.
func TestIbodyResizeAllocs(t *testing.T) {
	raw := newIbody(1024, 32)
	if err := IbodySet(raw, XattrSystem, "data", []byte("x")); err != nil {
		t.Fatal(err)
	}
	n := 0
	if got := testing.AllocsPerRun(100, func() {
		n = (n + 7) % 800
		if err := IbodyResize(raw, XattrSystem, "data", n); err != nil {
			t.Error(err)
		}
	}); got != 0 {
		t.Errorf("%v allocations per resize, want 0", got)
	}
}

// FuzzIbody feeds arbitrary inodes to all functions: no panic, no change on failure, and a change touches one attribute only.
func FuzzIbody(f *testing.F) {
	raw := newIbody(256, 32)
	f.Add([]byte(raw), uint8(XattrUser), "a", []byte("value"))
	for _, name := range []string{"data", "b"} {
		if err := IbodySet(raw, XattrSystem, name, []byte("0123456789")); err != nil {
			f.Fatal(err)
		}
	}
	f.Add([]byte(raw), uint8(XattrSystem), "data", []byte("a longer value than before"))
	f.Add([]byte(raw), uint8(XattrSystem), "data", []byte{})
	f.Fuzz(func(t *testing.T, in []byte, index uint8, name string, value []byte) {
		if len(in) < GoodOldInode || len(in) > 4096 || index == 0 || bytes.IndexByte([]byte(name), 0) >= 0 {
			return
		}
		for op := range 3 {
			raw := Inode(slices.Clone(in))
			before, errList := IbodyList(raw)
			at := slices.IndexFunc(before, func(e XattrEntry) bool { return e.Index == index && e.Name == name })
			var err error
			switch op {
			case 0:
				err = IbodySet(raw, index, name, value)
			case 1:
				err = IbodyResize(raw, index, name, len(value))
			case 2:
				err = IbodyRemove(raw, index, name)
			}
			if err != nil || errList != nil {
				if !bytes.Equal(raw, in) {
					t.Fatalf("operation %d failed (%v, %v) and changed the inode", op, err, errList)
				}
				continue
			}
			after, err := IbodyList(raw)
			if err != nil {
				t.Fatalf("operation %d left damage: %v", op, err)
			}
			checkOnlyChanged(t, op, before, after, at, value)
			_ = IbodyMax(raw)
		}
	})
}

// checkOnlyChanged compares the attributes before and after operation op on the one at place at.
func checkOnlyChanged(t *testing.T, op int, before, after []XattrEntry, at int, value []byte) {
	t.Helper()
	want := slices.Clone(before)
	switch {
	case op == 0 && at < 0:
		want = append(want, XattrEntry{Value: value})
		at = len(want) - 1
	case op == 0:
		want[at].Value = value
	case op == 1:
		v := make([]byte, len(value))
		copy(v, want[at].Value)
		want[at].Value = v
	case at >= 0:
		want = slices.Delete(want, at, at+1)
	}
	if len(after) != len(want) {
		t.Fatalf("operation %d: %d attributes, want %d", op, len(after), len(want))
	}
	for n := range want {
		if !bytes.Equal(after[n].Value, want[n].Value) {
			t.Fatalf("operation %d: attribute %d is %x, want %x", op, n, after[n].Value, want[n].Value)
		}
	}
}
