package fs

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"inlinefs/internal/testimage"
)

// TestSameAsKernel applies one seeded list of operations to the kernel's ext4 and then to ours, on images made alike, and compares
// each errno and the trees that come out. The two never run at the same time.
func TestSameAsKernel(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: a loop mount by the host's kernel")
	}
	seed := uint64(20261124)
	if s, err := strconv.ParseUint(os.Getenv("INLINEFS_TEST_SEED"), 10, 64); err == nil {
		seed = s
	}
	steps, lists := 800, 2
	if testing.Short() {
		steps, lists = 150, 1
	}
	for _, name := range []string{"b4096-i256", "b1024-i512", "b1024-i128", "no-extent", "journal"} {
		for k := range lists {
			t.Run(fmt.Sprintf("%s-%d", name, k), func(t *testing.T) {
				t.Logf("seed %d (INLINEFS_TEST_SEED)", seed+uint64(k))
				compareWithKernel(t, shape(t, name), seed+uint64(k), steps)
			})
		}
	}
}

// kernelRun applies the list to an image mounted by the kernel; the tree is read after a remount, when it comes from the image.
func kernelRun(t *testing.T, img string, seed uint64, steps int) (outcomes, files []string) {
	t.Helper()
	dir, unmount := testimage.KernelMount(t, img, "")
	defer unmount()
	outcomes = runOps(dir, seed, steps)
	unmount()
	dir, unmount = testimage.KernelMount(t, img, "ro")
	defer unmount()
	return outcomes, tree(t, dir)
}

func compareWithKernel(t *testing.T, o testimage.Options, seed uint64, steps int) {
	testimage.FuseUsable(t)
	// The word of the kernel is taken without inline data, which it loses at times.
	without := o
	without.Features = strings.Replace(o.Features, "inline_data", "^inline_data", 1)
	if strings.Contains(o.Features, "^inline_data") {
		without = o
	}
	theirs, want := kernelRun(t, testimage.Make(t, without), seed, steps)
	m := mount(t, o, Options{})
	ours := runOps(m.dir, seed, steps)
	worked := 0
	for k := range theirs {
		if strings.HasSuffix(theirs[k], "errno 0") {
			worked++
		}
		if theirs[k] != ours[k] {
			t.Errorf("step %d: the kernel: %s; ours: %s", k, theirs[k], ours[k])
		}
	}
	if worked < steps/5 {
		t.Errorf("%d of %d operations worked: the list says little", worked, steps)
	}
	for _, l := range differ("the trees", want, tree(t, m.dir)) {
		t.Error(l)
	}
	m.unmount()
	dir, unmount := testimage.KernelMount(t, m.c.img, "ro")
	for _, l := range differ("our image read by the kernel", want, tree(t, dir)) {
		t.Error(l)
	}
	unmount()
	// What the kernel writes with inline data, we read as it does itself.
	img := testimage.Make(t, o)
	_, files := kernelRun(t, img, seed, steps)
	for _, l := range differ("with and without inline data, by the kernel alone", want, files) {
		t.Log(l)
	}
	for _, l := range differ("the kernel's image read by us", files, tree(t, remount(t, img).dir)) {
		t.Error(l)
	}
}

// differ lists a few of the lines that are in one tree only.
func differ(what string, theirs, ours []string) (out []string) {
	for who, pair := range [][2][]string{{theirs, ours}, {ours, theirs}} {
		n := 0
		for _, l := range pair[0] {
			if n < 8 && !slices.Contains(pair[1], l) {
				out = append(out, fmt.Sprintf("%s: only %s: %s", what, []string{"the first", "the second"}[who], l))
				n++
			}
		}
	}
	return out
}

// tree describes every file: type and mode, links, owner, size, content or target, attributes.
func tree(t *testing.T, dir string) (out []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		if rel == "lost+found" {
			return filepath.SkipDir
		}
		st := stat(t, path)
		line := fmt.Sprintf("%s: mode %o links %d owner %d:%d", rel, st.Mode, st.Nlink, st.Uid, st.Gid)
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" size %d content %s", st.Size, digest(b))
		case unix.S_IFLNK:
			s, err := os.Readlink(path)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" size %d target %s", st.Size, s)
		}
		if st.Mode&unix.S_IFMT != unix.S_IFLNK {
			for _, n := range listXattr(t, path) {
				v, err := getXattr(path, n)
				if err != nil {
					return err
				}
				line += fmt.Sprintf(" %s=%s", n, digest([]byte(v)))
			}
		}
		out = append(out, line)
		return nil
	})
	must(t, err)
	slices.Sort(out)
	return out
}

// digest is short for equal content.
func digest(b []byte) string {
	h := uint64(14695981039346656037)
	for _, c := range b {
		h = (h ^ uint64(c)) * 1099511628211
	}
	return fmt.Sprintf("%d:%016x", len(b), h)
}

// opGen makes the operations of one seed. It knows no outcome, so that both sides see the same list.
type opGen struct {
	rng *rand.Rand
	dir string
}

// runOps applies the list below dir and returns "operation: errno" for each.
func runOps(dir string, seed uint64, steps int) []string {
	old := unix.Umask(0o022)
	defer unix.Umask(old)
	g := &opGen{rng: rand.New(rand.NewPCG(seed, 99)), dir: dir}
	out := make([]string, steps)
	for k := range out {
		what, err := g.step()
		var no syscall.Errno
		if err != nil && !errors.As(err, &no) {
			out[k] = fmt.Sprintf("%s: %v", what, err)
			continue
		}
		out[k] = strings.TrimSpace(fmt.Sprintf("%s: errno %d %s", strings.ReplaceAll(what, dir, ""), int(no), unix.ErrnoName(no)))
	}
	return out
}

// name picks a path of a small namespace, so that operations meet.
func (g *opGen) name() string {
	p := g.dir
	for g.rng.IntN(3) == 0 && len(p) < len(g.dir)+24 {
		p += fmt.Sprintf("/d%d", g.rng.IntN(4))
	}
	if g.rng.IntN(5) == 0 {
		return p + fmt.Sprintf("/d%d", g.rng.IntN(4))
	}
	return p + fmt.Sprintf("/f%d", g.rng.IntN(12))
}

// size favours the borders of inline data.
func (g *opGen) size() int {
	edges := []int{0, 1, 59, 60, 61, 100, 127, 128, 129, 160, 384, 385, 1024, 4095, 4096, 4097, 20000}
	return edges[g.rng.IntN(len(edges))]
}

func (g *opGen) step() (string, error) {
	p, q := g.name(), g.name()
	n, off, pick := g.size(), g.size(), g.rng.IntN(24)
	mode, seed := uint32(g.rng.IntN(0o10000)), g.rng.IntN(1000)
	switch pick {
	case 0, 1, 2:
		return fmt.Sprintf("create %s %d", p, n), withFile(p, unix.O_CREAT|unix.O_WRONLY|unix.O_TRUNC, func(fd int) error {
			_, err := unix.Pwrite(fd, []byte(pattern(n, seed)), 0)
			return err
		})
	case 3, 4, 5:
		return fmt.Sprintf("pwrite %s %d at %d", p, n, off), withFile(p, unix.O_WRONLY, func(fd int) error {
			_, err := unix.Pwrite(fd, []byte(pattern(n, seed)), int64(off))
			return err
		})
	case 6, 7:
		return fmt.Sprintf("append %s %d", p, n), withFile(p, unix.O_CREAT|unix.O_WRONLY|unix.O_APPEND, func(fd int) error {
			_, err := unix.Write(fd, []byte(pattern(n, seed)))
			return err
		})
	case 8, 9:
		return fmt.Sprintf("truncate %s %d", p, n), unix.Truncate(p, int64(n))
	case 10:
		return fmt.Sprintf("unlink %s", p), unix.Unlink(p)
	case 11, 12:
		return fmt.Sprintf("rename %s %s", p, q), unix.Rename(p, q)
	case 13:
		flags := uint([]int{unix.RENAME_NOREPLACE, unix.RENAME_EXCHANGE}[seed%2])
		return fmt.Sprintf("renameat2 %s %s %d", p, q, flags), unix.Renameat2(unix.AT_FDCWD, p, unix.AT_FDCWD, q, flags)
	case 14:
		return fmt.Sprintf("link %s %s", p, q), unix.Link(p, q)
	case 15, 16:
		return fmt.Sprintf("mkdir %s %o", p, mode&0o3777), unix.Mkdir(p, mode&0o3777)
	case 17:
		return fmt.Sprintf("rmdir %s", p), unix.Rmdir(p)
	case 18:
		target := pattern(1+seed%80, seed)
		return fmt.Sprintf("symlink %s", p), unix.Symlink(target, p)
	}
	return g.step2(pick, p, q, n, off, mode, seed)
}

func (g *opGen) step2(pick int, p, _ string, n, off int, mode uint32, seed int) (string, error) {
	switch pick {
	case 19:
		name := fmt.Sprintf("user.x%d", seed%3)
		v := []byte(pattern([]int{0, 4, 20, 50, 90, 300}[seed%6], seed))
		return fmt.Sprintf("setxattr %s %s %d", p, name, len(v)), unix.Setxattr(p, name, v, seed/6%3)
	case 20:
		name := fmt.Sprintf("user.x%d", seed%3)
		return fmt.Sprintf("removexattr %s %s", p, name), unix.Removexattr(p, name)
	case 21:
		return fmt.Sprintf("chmod %s %o", p, mode), unix.Chmod(p, mode)
	case 22:
		return fmt.Sprintf("chown %s", p), unix.Lchown(p, seed%5, seed%7)
	}
	fm := []uint32{0, unix.FALLOC_FL_KEEP_SIZE, unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE, unix.FALLOC_FL_ZERO_RANGE}[seed%4]
	return fmt.Sprintf("fallocate %s mode %d %d at %d", p, fm, n, off), withFile(p, unix.O_WRONLY, func(fd int) error {
		return unix.Fallocate(fd, fm, int64(off), int64(n))
	})
}

func withFile(p string, flags int, fn func(fd int) error) error {
	fd, err := unix.Open(p, flags|unix.O_CLOEXEC|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o644)
	if err != nil {
		return err
	}
	return errors.Join(fn(fd), unix.Close(fd))
}
