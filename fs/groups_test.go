package fs

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"inlinefs/internal/testimage"
	"inlinefs/super"
)

// damagedGroup is an image whose only group cannot be trusted.
type damagedGroup struct {
	name     string
	features string
	bitmap   string // the bitmap of which a bit is flipped, as dumpe2fs names it; "" plants the free count of the seed image
	want     []string
}

// damagedGroups: what each call answers, one after the other. A wrong count is a want of space from the first call on, a wrong checksum
// of the block bitmap is told to the first call; a group with damaged inodes is passed over.
var damagedGroups = []damagedGroup{
	{"planted count", "inline_data,^has_journal,^metadata_csum,64bit", "", []string{"create ok", "create ok", "setxattr ENOSPC", "setxattr ENOSPC",
		"symlink ENOSPC", "mkdir ok", "setxattr ENOSPC"}},
	{"planted count, journal", "inline_data,has_journal,^metadata_csum,64bit", "", []string{"create ok", "create ok", "setxattr ENOSPC", "setxattr ENOSPC",
		"symlink ENOSPC", "mkdir ok", "setxattr ENOSPC"}},
	{"block bitmap, count", "inline_data,^has_journal,^metadata_csum,64bit", "Block bitmap", []string{"create ok", "create ok", "setxattr ENOSPC",
		"setxattr ENOSPC", "symlink ENOSPC", "mkdir ok", "setxattr ENOSPC"}},
	{"block bitmap, checksum", "inline_data,^has_journal,metadata_csum,64bit", "Block bitmap", []string{"create ok", "create ok", "setxattr EBADMSG",
		"setxattr ENOSPC", "symlink ENOSPC", "mkdir ok", "setxattr ENOSPC"}},
	{"inode bitmap, checksum", "inline_data,^has_journal,metadata_csum,64bit", "inode bitmap", []string{"create ENOSPC", "create ENOSPC",
		"setxattr ENOENT", "setxattr ENOENT", "symlink ENOSPC", "mkdir ENOSPC", "setxattr ENOENT"}},
}

func (d damagedGroup) make(t *testing.T) string {
	t.Helper()
	o := testimage.SeedOptions()
	o.Features = d.features
	img := testimage.Make(t, o)
	if d.bitmap == "" {
		testimage.Debugfs(t, img, true, fmt.Sprintf("set_bg 0 free_blocks_count %d", testimage.SeedFreeBlocks))
		return img
	}
	// debugfs prints "block bitmap at 2, inode bitmap at 18, ..." for each group.
	_, at, ok := strings.Cut(testimage.Debugfs(t, img, false, "stats"), strings.ToLower(d.bitmap)+" at ")
	var blk int64
	if _, err := fmt.Sscanf(at, "%d", &blk); !ok || err != nil {
		t.Fatalf("no %s in what debugfs prints: %v", d.bitmap, err)
	}
	f, err := os.OpenFile(img, os.O_RDWR, 0)
	must(t, err)
	var b [1]byte
	off := blk*4096 + 5
	if d.bitmap == "Block bitmap" {
		off = blk*4096 + 200 // of 2048 bits: a free one
	}
	_, e1 := f.ReadAt(b[:], off)
	b[0] ^= 4
	_, e2 := f.WriteAt(b[:], off)
	must(t, errors.Join(e1, e2, f.Close()))
	return img
}

// callsOn asks for blocks and inodes, one call after the other, in a mounted file system. No file is mapped.
func callsOn(dir string) (out []string) {
	say := func(call string, err error) {
		text := "ok"
		var no syscall.Errno
		switch {
		case errors.As(err, &no) && no == syscall.EUCLEAN:
			text = "EUCLEAN"
		case errors.As(err, &no):
			text = unix.ErrnoName(no)
		case err != nil:
			text = err.Error()
		}
		out = append(out, call+" "+text)
	}
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	large := bytes.Repeat([]byte{'v'}, 200) // has no room in the inode
	say("create", os.WriteFile(a, []byte("48 bytes that stay in the inode of this file...."), 0o600))
	say("create", os.WriteFile(b, []byte("the same"), 0o600))
	say("setxattr", unix.Setxattr(a, "user.a", large, 0))
	say("setxattr", unix.Setxattr(a, "user.a", large, 0))
	say("symlink", os.Symlink(strings.Repeat("e", 300), filepath.Join(dir, "l")))
	say("mkdir", os.Mkdir(filepath.Join(dir, "d"), 0o700))
	say("setxattr", unix.Setxattr(b, "user.a", large, 0))
	return out
}

// TestErrnoOfDamagedGroups compares what a damaged group makes calls answer with what is known of the kernel, and with the host's kernel.
func TestErrnoOfDamagedGroups(t *testing.T) {
	testimage.FuseUsable(t)
	for _, d := range damagedGroups {
		t.Run(d.name, func(t *testing.T) {
			m := mountConfig(t, config{img: d.make(t), broken: true, super: super.Options{Errors: 1}})
			if got := callsOn(m.dir); !slices.Equal(got, d.want) {
				t.Errorf("got  %q\nwant %q", got, d.want)
			}
			if n := m.f.fs.ErrorCount(); n != 1 {
				t.Errorf("%d errors recorded, want 1", n)
			}
			if len(m.f.Report().Violations) != 0 {
				t.Errorf("violations: %v", m.f.Report().Violations)
			}
			if os.Geteuid() != 0 {
				return
			}
			if got := callsOn(testimage.Kernel(t, d.make(t))); !slices.Equal(got, d.want) {
				t.Errorf("the kernel: %q\nwant %q", got, d.want)
			}
		})
	}
}
