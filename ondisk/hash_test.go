package ondisk

import (
	"encoding/binary"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// hashNames are the versions as debugfs takes them: it knows no names for the unsigned ones.
var hashNames = map[uint8]string{HashLegacy: "legacy", HashHalfMD4: "half_md4", HashTEA: "tea",
	HashLegacyUnsigned: "3", HashHalfMD4Unsigned: "4", HashTEAUnsigned: "5"}

const hashSeedUUID = "7b1c2d3e-4f50-4617-8293-a4b5c6d7e8f9"

// uuidSeed is a hash seed as the superblock stores a UUID: four little-endian words.
func uuidSeed(t *testing.T, uuid string) (seed [4]uint32) {
	t.Helper()
	hex := strings.ReplaceAll(uuid, "-", "")
	var raw [16]byte
	for i := range raw {
		v, err := strconv.ParseUint(hex[2*i:2*i+2], 16, 8)
		if err != nil {
			t.Fatal(err)
		}
		raw[i] = byte(v)
	}
	for i := range seed {
		seed[i] = binary.LittleEndian.Uint32(raw[4*i:])
	}
	return seed
}

// testNames are names of every length class, with bytes on both sides of 0x80.
func testNames() []string {
	out := []string{"a", "ab", "abc", "abcd", "abcde", "hello", "lost+found", "\u00e4\u00f6\u00fc", "\u65e5\u672c\u8a9e.txt", "x\xff\x80y"}
	for _, n := range []int{15, 16, 17, 31, 32, 33, 63, 64, 65, 100, 200, 255} {
		var b []byte
		for i := range n {
			b = append(b, byte('!'+(i*7+n)%90))
		}
		s := strings.NewReplacer("\"", "q", "'", "r", "\\", "s", "/", "t").Replace(string(b))
		out = append(out, s)
	}
	return out
}

var dxHashLine = regexp.MustCompile(`is 0x([0-9a-f]+) \(minor 0x([0-9a-f]+)\)`)

// debugfsHash asks debugfs for the hash of a name.
func debugfsHash(t *testing.T, bin, version, seed, name string) (major, minor uint32) {
	t.Helper()
	cmd := "dx_hash -h " + version
	if seed != "" {
		cmd += " -s " + seed
	}
	out, err := exec.Command(bin, "-R", fmt.Sprintf("%s \"%s\"", cmd, name)).CombinedOutput()
	m := dxHashLine.FindSubmatch(out)
	if err != nil || m == nil {
		t.Fatalf("%s of %q: %v: %s", cmd, name, err, out)
	}
	a, errA := strconv.ParseUint(string(m[1]), 16, 32)
	b, errB := strconv.ParseUint(string(m[2]), 16, 32)
	if errA != nil || errB != nil {
		t.Fatalf("%s of %q: %s", cmd, name, out)
	}
	return uint32(a), uint32(b)
}

func TestDirHashMatchesDebugfs(t *testing.T) {
	bin, err := exec.LookPath("debugfs")
	if err != nil {
		t.Skipf("needs debugfs (package e2fsprogs): %v", err)
	}
	for version, label := range hashNames {
		for _, uuid := range []string{"", hashSeedUUID} {
			var seed [4]uint32
			if uuid != "" {
				seed = uuidSeed(t, uuid)
			}
			for _, name := range testNames() {
				major, minor, ok := DirHash(version, &seed, []byte(name))
				wantMajor, wantMinor := debugfsHash(t, bin, label, uuid, name)
				if !ok || major != wantMajor || minor != wantMinor {
					t.Errorf("%s, seed %q, name %q: got 0x%08x minor 0x%08x, debugfs says 0x%08x minor 0x%08x", label, uuid, name,
						major, minor, wantMajor, wantMinor)
				}
			}
		}
	}
}

func TestDirHashUnknownVersion(t *testing.T) {
	if _, _, ok := DirHash(6, &[4]uint32{}, []byte("a")); ok {
		t.Error("hash version 6 is accepted, want unknown")
	}
}

func TestHashVersionSignedness(t *testing.T) {
	s := make(Super, SuperSize)
	for _, c := range []struct {
		flags      uint32
		disk, want uint8
	}{{0, HashTEA, HashTEA}, {FlagSignedHash, HashHalfMD4, HashHalfMD4}, {FlagUnsignedHash, HashHalfMD4, HashHalfMD4Unsigned},
		{FlagUnsignedHash, HashTEAUnsigned, HashTEAUnsigned}} {
		s.SetFlags(c.flags)
		if got := s.HashVersion(c.disk); got != c.want {
			t.Errorf("flags %d, version %d: got %d, want %d", c.flags, c.disk, got, c.want)
		}
	}
}

func BenchmarkDirHash(b *testing.B) {
	name, seed := []byte("a-file-name-of-usual-length.txt"), [4]uint32{1, 2, 3, 4}
	for b.Loop() {
		DirHash(HashHalfMD4, &seed, name)
	}
}
