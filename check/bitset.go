package check

import "math/bits"

// bitset is a set of small numbers.
type bitset []uint64

func newBitset(n uint64) bitset { return make(bitset, (n+63)/64) }

func (s bitset) has(i uint64) bool { return s[i/64]>>(i%64)&1 != 0 }
func (s bitset) set(i uint64)      { s[i/64] |= 1 << (i % 64) }

// mask is the bits of the word of i that are in [i, end), and one past the last of them.
func mask(i, end uint64) (m, next uint64) {
	next = min(end, i&^63+64)
	m = ^uint64(0) << (i % 64)
	if next%64 != 0 {
		m &= 1<<(next%64) - 1
	}
	return m, next
}

// setRange sets [from, from+n).
func (s bitset) setRange(from, n uint64) {
	for i, end := from, from+n; i < end; {
		m, next := mask(i, end)
		s[i/64] |= m
		i = next
	}
}

// firstIn is the first member of [from, from+n).
func (s bitset) firstIn(from, n uint64) (uint64, bool) {
	for i, end := from, from+n; i < end; {
		m, next := mask(i, end)
		if w := s[i/64] & m; w != 0 {
			return i&^63 + uint64(bits.TrailingZeros64(w)), true
		}
		i = next
	}
	return 0, false
}

// count is the number of members in [from, from+n).
func (s bitset) count(from, n uint64) uint64 {
	c := 0
	for i, end := from, from+n; i < end; {
		m, next := mask(i, end)
		c += bits.OnesCount64(s[i/64] & m)
		i = next
	}
	return uint64(c)
}

// diskBit is bit i of a bitmap block.
func diskBit(b []byte, i uint64) bool { return b[i/8]>>(i%8)&1 != 0 }
