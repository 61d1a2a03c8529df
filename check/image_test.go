package check_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"inlinefs/blockdev"
	"inlinefs/check"
	"inlinefs/internal/testimage"
)

// populate makes a directory for mkfs.ext4 -d: inline, small and larger files, long and short symlinks, hard links, a deep path, and a
// directory with many names. Contents are not zero: mke2fs 1.47 writes inline files from zeros wrongly.
func populate(t *testing.T, names int) string {
	t.Helper()
	root := t.TempDir()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	write := func(name string, n int) {
		must(os.WriteFile(filepath.Join(root, name), bytes.Repeat([]byte("Quark"), n/5+1)[:n], 0o644))
	}
	for _, n := range []int{1, 59, 60, 61, 100, 128, 129, 4000, 5000, 70000} {
		write(fmt.Sprintf("f%d", n), n)
	}
	must(os.MkdirAll(filepath.Join(root, "a/b/c/d"), 0o755))
	must(os.Mkdir(filepath.Join(root, "many"), 0o755))
	must(os.Mkdir(filepath.Join(root, "few"), 0o755))
	for i := range names {
		write(fmt.Sprintf("many/a-rather-long-name-for-a-file-%04d", i), 3)
	}
	for i := range 4 {
		write(fmt.Sprintf("few/n%d", i), 10)
	}
	must(os.Symlink("a/b", filepath.Join(root, "short")))
	must(os.Symlink(strings.Repeat("x", 59), filepath.Join(root, "s59")))
	must(os.Symlink(strings.Repeat("y", 90), filepath.Join(root, "s90")))
	must(os.Symlink(strings.Repeat("z", 400), filepath.Join(root, "s400")))
	must(os.Link(filepath.Join(root, "f100"), filepath.Join(root, "hard")))
	return root
}

// image reads the image at path.
func image(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func judge(t *testing.T, b []byte) check.Report {
	t.Helper()
	r, err := check.Image(blockdev.NewMemReadOnly(b), check.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func wantClean(t *testing.T, path string) {
	t.Helper()
	for _, f := range judge(t, image(t, path)).Findings {
		t.Errorf("%v", f)
	}
}

func TestShapesAreClean(t *testing.T) {
	for _, s := range testimage.Shapes() {
		t.Run(s.Name, func(t *testing.T) {
			wantClean(t, testimage.Make(t, s.Options))
		})
	}
}

func TestPopulatedShapesAreClean(t *testing.T) {
	root := populate(t, 300)
	for _, s := range testimage.Shapes() {
		t.Run(s.Name, func(t *testing.T) {
			o := s.Options
			o.Populate = root
			img := testimage.Make(t, o)
			if out, code := testimage.FsckOutput(img); code != 0 {
				t.Skipf("mkfs.ext4 -d made a broken image:\n%s", out)
			}
			wantClean(t, img)
		})
	}
}

// imageF is a small image for fuzzing.
func imageF(f *testing.F) []byte {
	f.Helper()
	b, err := os.ReadFile(testimage.Make(f, testimage.Options{SizeMiB: 1, BlockSize: 1024, InodeSize: 256, Inodes: 64,
		Features: "inline_data,metadata_csum,64bit,^has_journal"}))
	if err != nil {
		f.Fatal(err)
	}
	return b
}
