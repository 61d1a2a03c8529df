package ondisk

import "math/bits"

// Hash versions of directory indexes: s_def_hash_version and dx_root_info.hash_version. On disk only the first three appear; the
// unsigned ones follow from s_flags and differ in how bytes from 0x80 on are widened.
const (
	HashLegacy          = 0
	HashHalfMD4         = 1
	HashTEA             = 2
	HashLegacyUnsigned  = 3
	HashHalfMD4Unsigned = 4
	HashTEAUnsigned     = 5
)

// hashEOF is the hash that would look like the end of the directory; it is moved one step down.
const hashEOF = 0xFFFFFFFE

// HashVersion adds the signedness that s_flags asks for to an on-disk hash version. Without either flag bytes are signed, as on the
// machines where such file systems were made.
func (s Super) HashVersion(disk uint8) uint8 {
	if disk <= HashTEA && s.Flags()&FlagUnsignedHash != 0 {
		return disk + HashLegacyUnsigned
	}
	return disk
}

// DirHash hashes a name for the directory index (ext4fs_dirhash): the major hash, whose low bit is always clear, and the minor one,
// which orders readdir only and is 0 for legacy hashes. A seed of zeros stands for the default one. False: the version is unknown.
func DirHash(version uint8, seed *[4]uint32, name []byte) (major, minor uint32, ok bool) {
	buf := [4]uint32{0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476}
	if *seed != [4]uint32{} {
		buf = *seed
	}
	signed := version < HashLegacyUnsigned
	switch version {
	case HashLegacy, HashLegacyUnsigned:
		major = legacyHash(name, signed)
	case HashHalfMD4, HashHalfMD4Unsigned:
		var in [8]uint32
		for p := name; len(p) > 0; p = p[min(len(p), 4*len(in)):] {
			hashWords(p, in[:], signed)
			halfMD4(&buf, &in)
		}
		major, minor = buf[1], buf[2]
	case HashTEA, HashTEAUnsigned:
		var in [4]uint32
		for p := name; len(p) > 0; p = p[min(len(p), 4*len(in)):] {
			hashWords(p, in[:], signed)
			teaRounds(&buf, &in)
		}
		major, minor = buf[0], buf[1]
	default:
		return 0, 0, false
	}
	if major &^= 1; major == hashEOF {
		major -= 2
	}
	return major, minor, true
}

// widen extends a name byte to 32 bits.
func widen(c byte, signed bool) uint32 {
	if signed {
		return uint32(int32(int8(c)))
	}
	return uint32(c)
}

func legacyHash(name []byte, signed bool) uint32 {
	cur, prev := uint32(0x12a3fe2d), uint32(0x37abe8f9)
	for _, c := range name {
		next := prev + (cur ^ widen(c, signed)*7152373)
		if next>>31 != 0 {
			next -= 0x7fffffff
		}
		prev, cur = cur, next
	}
	return cur << 1
}

// hashWords packs the head of p into words, big end first; what p does not fill holds its length in every byte.
func hashWords(p []byte, words []uint32, signed bool) {
	pad := uint32(len(p)) | uint32(len(p))<<8
	pad |= pad << 16
	p = p[:min(len(p), 4*len(words))]
	for i := range words {
		v := pad
		part := p[:min(len(p), 4)]
		for _, c := range part {
			v = v<<8 + widen(c, signed)
		}
		words[i] = v
		p = p[len(part):]
	}
}

// teaRounds is the sixteen rounds of the Tiny Encryption Algorithm over one block of the name.
func teaRounds(buf *[4]uint32, key *[4]uint32) {
	x, y, sum := buf[0], buf[1], uint32(0)
	for range 16 {
		sum += 0x9E3779B9
		x += (y<<4 + key[0]) ^ (y + sum) ^ (y>>5 + key[1])
		y += (x<<4 + key[2]) ^ (x + sum) ^ (x>>5 + key[3])
	}
	buf[0] += x
	buf[1] += y
}

// The word order and the rotations of half-MD4's three rounds.
var (
	md4Order = [3][8]uint8{{0, 1, 2, 3, 4, 5, 6, 7}, {1, 3, 5, 7, 0, 2, 4, 6}, {3, 7, 2, 6, 1, 5, 0, 4}}
	md4Shift = [3][4]int{{3, 7, 11, 19}, {3, 5, 9, 13}, {3, 9, 11, 15}}
	md4Const = [3]uint32{0, 0x5A827999, 0x6ED9EBA1}
)

// halfMD4 is MD4 with half of the words in each round.
func halfMD4(buf *[4]uint32, in *[8]uint32) {
	a, b, c, d := buf[0], buf[1], buf[2], buf[3]
	for round := range 3 {
		for step, w := range md4Order[round] {
			var f uint32
			switch round {
			case 0:
				f = d ^ b&(c^d)
			case 1:
				f = b&c + (b^c)&d
			default:
				f = b ^ c ^ d
			}
			v := bits.RotateLeft32(a+f+in[w]+md4Const[round], md4Shift[round][step%4])
			a, b, c, d = d, v, b, c
		}
	}
	buf[0] += a
	buf[1] += b
	buf[2] += c
	buf[3] += d
}
