package check_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"inlinefs/internal/testimage"
)

// TestKernelMade has the host's ext4 build what mkfs.ext4 cannot: both areas of inline directories, indexes with two levels, shared
// attribute blocks, holes, preallocation and half-emptied directories. No file is mapped and no two calls overlap.
func TestKernelMade(t *testing.T) {
	for _, o := range []testimage.Options{
		{SizeMiB: 64, BlockSize: 1024, InodeSize: 256, Inodes: 8192, Features: "inline_data,metadata_csum,64bit,^has_journal"},
		{SizeMiB: 64, BlockSize: 4096, InodeSize: 512, Inodes: 8192, Features: "inline_data,metadata_csum,64bit,has_journal"},
		{SizeMiB: 64, BlockSize: 1024, InodeSize: 256, Inodes: 8192, Features: "inline_data,^metadata_csum,uninit_bg,^extent,^64bit,^has_journal"},
	} {
		t.Run(strings.ReplaceAll(o.Features, ",", " "), func(t *testing.T) {
			img := testimage.Make(t, o)
			dir, unmount := testimage.KernelMount(t, img, "")
			t.Cleanup(unmount)
			fill(t, dir)
			unmount()
			testimage.Fsck(t, img)
			wantClean(t, img)
		})
	}
}

func fill(t *testing.T, dir string) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.Mkdir(dir+"/many", 0o755))
	for i := range 3000 {
		must(os.WriteFile(fmt.Sprintf("%s/many/%s-%d", dir, strings.Repeat("n", 40), i), []byte("x"), 0o644))
	}
	for i := 0; i < 3000; i += 3 {
		must(os.Remove(fmt.Sprintf("%s/many/%s-%d", dir, strings.Repeat("n", 40), i)))
	}
	// Directories of every size around the borders of the inline areas.
	for n := range 14 {
		sub := fmt.Sprintf("%s/d%d", dir, n)
		must(os.Mkdir(sub, 0o755))
		for i := range n {
			must(os.Mkdir(fmt.Sprintf("%s/e%d", sub, i), 0o755))
		}
	}
	// Inline files of every size around capacity, shrunk and grown.
	for _, n := range []int{0, 1, 59, 60, 61, 100, 127, 128, 129, 200, 400} {
		p := fmt.Sprintf("%s/f%d", dir, n)
		must(os.WriteFile(p, []byte(strings.Repeat("k", n)), 0o644))
		must(os.WriteFile(p+"s", []byte(strings.Repeat("k", n)), 0o644))
		must(os.Truncate(p+"s", int64(n/2)))
		must(os.WriteFile(p+"g", []byte(strings.Repeat("k", n)), 0o644))
		must(os.Truncate(p+"g", int64(n+3)))
	}
	f, err := os.Create(dir + "/sparse")
	must(err)
	for i := range 40 {
		_, err := f.WriteAt([]byte("hole"), int64(i)*300_000)
		must(err)
	}
	if err := unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE, 20_000_000, 100_000); err != nil && err != unix.EOPNOTSUPP {
		must(err)
	}
	must(f.Close())
	value := []byte(strings.Repeat("v", 500))
	for i := range 5 {
		p := filepath.Join(dir, fmt.Sprintf("x%d", i))
		must(os.WriteFile(p, []byte("shared"), 0o644))
		must(unix.Setxattr(p, "user.shared", value, 0))
		must(unix.Setxattr(p, "user.other", []byte("o"), 0))
	}
	must(os.Symlink(strings.Repeat("s", 59), dir+"/s59"))
	must(os.Symlink(strings.Repeat("s", 60), dir+"/s60"))
	must(os.Symlink(strings.Repeat("s", 900), dir+"/s900"))
}
