// Package testimage makes ext4 images for tests with the e2fsprogs tools and judges them with e2fsck, debugfs and the host's own kernel.
// It shares no code with the file system under test, so that its word is independent. Every function that needs a tool, root or
// /dev/fuse skips the test with a reason when it is missing.
package testimage

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// DefaultSizeMiB is the size of an image whose Options leave SizeMiB at 0.
const DefaultSizeMiB = 16

// SeedFreeBlocks is the free block count planted in group 0 of the seed image: far more than the group holds, so that every allocation
// in it finds the group corrupt and fails.
const SeedFreeBlocks = 150994969

// Options say what mkfs.ext4 is asked for. A zero field leaves the matter to mkfs.ext4.
type Options struct {
	SizeMiB   int    // whole image, in MiB; 0 is DefaultSizeMiB
	BlockSize int    // bytes: 1024, 2048 or 4096 (-b)
	InodeSize int    // bytes: 128 to 1024 (-I)
	Features  string // comma-separated features, ^ clears one (-O)
	Extended  string // comma-separated extended options (-E)
	Inodes    int    // number of inodes (-N)
	Populate  string // directory copied into the image's root (-d)
}

// args is the command line of mkfs.ext4 for an image at path.
func (o Options) args(path string) []string {
	size := o.SizeMiB
	if size == 0 {
		size = DefaultSizeMiB
	}
	// -F: a plain file is what is wanted. The fixed UUID and hash seed make two runs give the same checksums and hash trees.
	a := []string{"-q", "-F", "-U", "6d0a3f2e-5a3c-4b61-9b7e-0f6f4e1d2c3b"}
	ext := []string{"hash_seed=7b1c2d3e-4f50-4617-8293-a4b5c6d7e8f9"}
	if o.Extended != "" {
		ext = append(ext, o.Extended)
	}
	a = append(a, "-E", strings.Join(ext, ","))
	if o.BlockSize != 0 {
		a = append(a, "-b", strconv.Itoa(o.BlockSize))
	}
	if o.InodeSize != 0 {
		a = append(a, "-I", strconv.Itoa(o.InodeSize))
	}
	if o.Features != "" {
		a = append(a, "-O", o.Features)
	}
	if o.Inodes != 0 {
		a = append(a, "-N", strconv.Itoa(o.Inodes))
	}
	if o.Populate != "" {
		a = append(a, "-d", o.Populate)
	}
	return append(a, path, fmt.Sprintf("%dM", size))
}

// Make makes a new image in a directory of the test and returns its path. The file is sparse and gone when the test ends. The test is
// skipped without mkfs.ext4 and fails when mkfs.ext4 refuses the options.
func Make(t testing.TB, o Options) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "image.ext4")
	MakeAt(t, path, o)
	return path
}

// MakeAt is Make at a path of the caller's choice; an image already there is overwritten.
func MakeAt(t testing.TB, path string, o Options) {
	t.Helper()
	mkfs := tool(t, "mkfs.ext4")
	args := o.args(path)
	out, err := command(mkfs, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("mkfs.ext4 %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// SeedOptions are the mkfs.ext4 options of the seed image.
func SeedOptions() Options {
	return Options{SizeMiB: 8, BlockSize: 4096, InodeSize: 256, Features: "inline_data,^has_journal,^metadata_csum,64bit", Inodes: 64}
}

// Seed makes the seed image: 8 MiB, inline data, no journal, no checksums, and SeedFreeBlocks planted as the free block count of group
// 0, so that each allocation fails and each conversion of an inline file has to be taken back. Returns its path.
func Seed(t testing.TB) string {
	t.Helper()
	img := Make(t, SeedOptions())
	Debugfs(t, img, true, fmt.Sprintf("set_bg 0 free_blocks_count %d", SeedFreeBlocks))
	return img
}

// Debugfs runs each command on the image by debugfs (with -w when write is set) and returns what they print, in order, without the
// banner. A test that needs a command to have worked reads the output: debugfs ends with 0 either way.
func Debugfs(t testing.TB, img string, write bool, cmds ...string) string {
	t.Helper()
	bin := tool(t, "debugfs")
	var all strings.Builder
	for _, c := range cmds {
		args := []string{"-R", c, img}
		if write {
			args = append([]string{"-w"}, args...)
		}
		out, err := command(bin, args...).CombinedOutput()
		if err != nil {
			t.Fatalf("debugfs -R %q %s: %v\n%s", c, img, err, out)
		}
		for line := range strings.Lines(string(out)) {
			if !strings.HasPrefix(line, "debugfs 1.") {
				all.WriteString(line)
			}
		}
	}
	return all.String()
}

// Fsck fails the test, with e2fsck's words, unless `e2fsck -fn` finds the image clean. It skips the test without e2fsck.
func Fsck(t testing.TB, img string) {
	t.Helper()
	tool(t, "e2fsck")
	if out, code := FsckOutput(img); code != 0 {
		t.Errorf("e2fsck -fn %s: exit %d, want 0\n%s", img, code, out)
	}
}

// FsckOutput runs `e2fsck -fn` on the image and returns what it prints and its exit code: 0 clean, 4 errors left uncorrected, 8 an
// operational error, -1 when e2fsck could not be run or was killed (the output then says why).
func FsckOutput(img string) (string, int) {
	bin, err := find("e2fsck")
	if err != nil {
		return err.Error(), -1
	}
	out, err := command(bin, "-fn", img).CombinedOutput()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return string(out), 0
	case errors.As(err, &exit):
		return string(out), exit.ExitCode()
	}
	return fmt.Sprintf("%s%v", out, err), -1
}

// Copy copies the image to another file in a directory of the test and returns its path, so that a costly image can serve many cases.
func Copy(t testing.TB, img string) string {
	t.Helper()
	data, err := os.ReadFile(img)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "copy.ext4")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
