package testimage

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestShapesAreClean(t *testing.T) {
	seen := map[string]bool{}
	for _, s := range Shapes() {
		if seen[s.Name] {
			t.Errorf("shape %s: name used twice", s.Name)
		}
		seen[s.Name] = true
		t.Run(s.Name, func(t *testing.T) {
			img := Make(t, s.Options)
			Fsck(t, img)
			stats := Debugfs(t, img, false, "stats")
			if got := strings.Contains(stats, "inline_data"); got != s.Inline {
				t.Errorf("inline_data is %v, want %v", got, s.Inline)
			}
			if got := strings.Contains(stats, "has_journal"); got != s.Journal {
				t.Errorf("has_journal is %v, want %v", got, s.Journal)
			}
		})
	}
}

func TestSeedHasOnlyThePlantedCounter(t *testing.T) {
	img := Seed(t)
	out, code := FsckOutput(img)
	if code != 4 {
		t.Fatalf("e2fsck -fn: exit %d, want 4\n%s", code, out)
	}
	if !strings.Contains(out, "Free blocks count wrong for group #0 (150994969") {
		t.Errorf("e2fsck does not name the planted counter:\n%s", out)
	}
}

func TestPopulate(t *testing.T) {
	src := t.TempDir()
	if err := os.WriteFile(filepath.Join(src, "hello"), []byte("hello, inode\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	img := Make(t, Options{InodeSize: 256, Features: "inline_data", Populate: src})
	// Debugfs 1.47.0 prints an inline file's whole 60 bytes, whatever its size.
	if got := strings.TrimRight(Debugfs(t, img, false, "cat /hello"), "\x00"); got != "hello, inode\n" {
		t.Errorf("cat /hello: %q, want %q", got, "hello, inode\n")
	}
}

func TestKernel(t *testing.T) {
	dir := Kernel(t, Make(t, Options{InodeSize: 256, Features: "inline_data,^has_journal"}))
	if err := os.WriteFile(filepath.Join(dir, "f"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestDamage(t *testing.T) {
	src := t.TempDir()
	if err := os.Mkdir(filepath.Join(src, "sub"), 0o700); err != nil {
		t.Fatal(err)
	}
	img := Make(t, Options{BlockSize: 1024, InodeSize: 256, Populate: src})
	for _, area := range []Area{Superblock, Descriptors, Bitmaps, InodeTable, Directories, AllAreas} {
		first, second := Copy(t, img), Copy(t, img)
		log := Damage(t, first, rand.New(rand.NewPCG(1, 2)), 20, area)
		if n := strings.Count(log, "\n"); n != 20 {
			t.Errorf("area %#x: %d lines of log, want 20", uint(area), n)
		}
		Damage(t, second, rand.New(rand.NewPCG(1, 2)), 20, area)
		a, b, orig := read(t, first), read(t, second), read(t, img)
		if !bytes.Equal(a, b) {
			t.Errorf("area %#x: the same seed gave two images", uint(area))
		}
		if bytes.Equal(a, orig) {
			t.Errorf("area %#x: 20 bytes of damage changed nothing", uint(area))
		}
	}
}

func TestBlockRange(t *testing.T) {
	for _, c := range []struct {
		line        string
		first, last int64
		ok          bool
	}{
		{"Inode table at 35-98 (+34)", 35, 98, true},
		{"Block bitmap at 3 (+3), csum 0x1", 3, 3, true},
		{"Inode table at x", 0, 0, false},
		{"nothing", 0, 0, false},
	} {
		for _, key := range []string{"Inode table at ", "Block bitmap at "} {
			if !strings.Contains(c.line, key) && c.ok {
				continue
			}
			first, last, ok := blockRange(c.line, key)
			if first != c.first || last != c.last || ok != c.ok {
				t.Errorf("%q: %d-%d %v, want %d-%d %v", c.line, first, last, ok, c.first, c.last, c.ok)
			}
		}
	}
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}
