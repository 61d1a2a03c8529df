package stress

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const seedFsck = `e2fsck 1.47.0 (5-Feb-2023)
Pass 1: Checking inodes, blocks, and sizes
Pass 2: Checking directory structure
Pass 3: Checking directory connectivity
Pass 4: Checking reference counts
Pass 5: Checking group summary information
Free blocks count wrong for group #0 (150994969, counted=2025).
Fix? no

Free blocks count wrong (2025, counted=2020).
Fix? no


seed.img: ********** WARNING: Filesystem still has errors **********

seed.img: 11/64 files (0.0% non-contiguous), 23/2048 blocks
`

func TestFsckFindings(t *testing.T) {
	found := fsckFindings(seedFsck)
	if len(found) != 2 {
		t.Errorf("findings %q, want the two counters", found)
	}
	if v := verdict(found, true); !v.Clean {
		t.Errorf("seed's image: %+v, want clean", v)
	}
	if v := verdict(found, false); v.Clean || len(v.Findings) != 2 {
		t.Errorf("another image: %+v, want two findings", v)
	}
	for _, s := range []string{
		"Inode 12 has inline data, but superblock is missing INLINE_DATA feature", "Free inodes count wrong (53, counted=52).",
		"Free blocks count wrong for group #1 (3, counted=4).", "Block bitmap differences:  +23",
	} {
		if v := verdict(fsckFindings(s+"\nFix? no\n"), true); v.Clean || len(v.Findings) != 1 {
			t.Errorf("%q: %+v, want it found", s, v)
		}
	}
	many := strings.Repeat("Inode 12 is bad.\n", 200)
	if v := verdict(fsckFindings(many), false); len(v.Findings) != maxFindings {
		t.Errorf("%d findings kept, want %d", len(v.Findings), maxFindings)
	}
}

func TestParseCheck(t *testing.T) {
	tests := []struct {
		name, in     string
		failed, seed bool
		clean, bad   bool
	}{
		{name: "clean", in: `{"clean":true,"findings":[]}`, clean: true},
		{name: "finding", in: `{"clean":false,"findings":["inode 12: size 3, want 4"]}`, failed: true},
		{name: "planted", in: `{"clean":false,"findings":["group 0: free blocks count 150994969, want 2025"]}`, failed: true, seed: true, clean: true},
		{name: "planted, seen by the mount", in: `{"clean":false,"findings":["superblock: s_state 0x3 says that errors were detected"]}`, failed: true,
			seed: true, clean: true},
		{name: "planted elsewhere", in: `{"clean":false,"findings":["group 0: free blocks count 9, want 2025"]}`, failed: true},
		{name: "not clean without a word", in: `{"clean":false}`, failed: true},
		{name: "clean, but exit code 1", in: `{"clean":true,"findings":[]}`, failed: true},
		{name: "no verdict", in: `{}`, bad: true},
		{name: "no JSON", in: `hello`, bad: true},
	}
	for _, tt := range tests {
		got, err := parseCheck([]byte(tt.in), tt.failed, tt.seed)
		if (err != nil) != tt.bad || !tt.bad && got.Clean != tt.clean {
			t.Errorf("%s: %+v, %v, want clean %t, error %t", tt.name, got, err, tt.clean, tt.bad)
		}
		if err == nil && !got.Clean && len(got.Findings) == 0 {
			t.Errorf("%s: not clean, and nothing says why", tt.name)
		}
	}
}

func TestMakeImage(t *testing.T) {
	for _, base := range []string{ScenarioSeed, ScenarioEnospc, ScenarioHealthy} {
		for _, journal := range []bool{false, true} {
			img, err := makeImage(t.TempDir(), base, journal, defaultBlockSize)
			var exit *ExitError
			if errors.As(err, &exit) && exit.Code == ExitMissing {
				t.Skip(err)
			}
			if err != nil {
				t.Fatalf("%s, journal %t: %v", base, journal, err)
			}
			res, err := fsck(img, base == ScenarioSeed)
			if errors.As(err, &exit) && exit.Code == ExitMissing {
				t.Skip(err)
			}
			if err != nil || !res.Clean {
				t.Errorf("%s, journal %t: e2fsck %+v, %v, want clean", base, journal, res, err)
			}
			raw, err := fsck(img, false)
			if err != nil || raw.Clean != (base != ScenarioSeed) {
				t.Errorf("%s, journal %t: e2fsck as found %+v, %v", base, journal, raw, err)
			}
		}
	}
}

func TestMakeImageKeepsWhatIsThere(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "healthy.img")
	if err := os.WriteFile(path, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := makeImage(dir, ScenarioHealthy, false, 1024)
	var exit *ExitError
	if errors.As(err, &exit) && exit.Code == ExitMissing {
		t.Skip(err)
	}
	if !errors.Is(err, os.ErrExist) {
		t.Errorf("error %v, want %v", err, os.ErrExist)
	}
}

func TestFindToolNamesWhatIsMissing(t *testing.T) {
	_, err := findTool("no-such-program-anywhere", "no-package")
	var exit *ExitError
	if !errors.As(err, &exit) || exit.Code != ExitMissing || !strings.Contains(err.Error(), "no-such-program-anywhere") {
		t.Errorf("error %v, want one of code %d that names it", err, ExitMissing)
	}
}

func TestTailBuffer(t *testing.T) {
	var b tailBuffer
	for range 3 * tailBytes / 10 {
		if n, err := b.Write([]byte("0123456789")); n != 10 || err != nil {
			t.Fatalf("wrote %d, %v", n, err)
		}
	}
	if s := b.String(); len(s) != tailBytes || !strings.HasSuffix(s, "789") {
		t.Errorf("%d bytes kept, ending %q", len(s), s[len(s)-3:])
	}
}
