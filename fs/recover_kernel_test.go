package fs

import (
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"inlinefs/blockdev"
	"inlinefs/internal/testimage"
	"inlinefs/ondisk"
	"inlinefs/super"
)

// EXT4_IOC_SHUTDOWN and what it takes: go on as after a power cut, at once, after flushing everything, or after flushing the log.
const (
	iocShutdown       = 0x8004587d
	shutdownDefault   = 0
	shutdownLogFlush  = 1
	shutdownNoFlush   = 2
	errNoTransactions = "the kernel left nothing to replay"
)

var shutdownNames = map[uint32]string{shutdownDefault: "default", shutdownLogFlush: "logflush", shutdownNoFlush: "nologflush"}

// shutdown stops the kernel's ext4 on dir as a power cut would.
func shutdown(t *testing.T, dir string, how uint32) {
	t.Helper()
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	must(t, err)
	defer unix.Close(fd)
	if _, _, no := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), iocShutdown, uintptr(unsafe.Pointer(&how))); no != 0 {
		if errors.Is(no, unix.ENOTTY) || errors.Is(no, unix.EOPNOTSUPP) {
			t.Skipf("this kernel's ext4 has no shutdown ioctl: %v", no)
		}
		t.Fatalf("shutdown (%s): %v", shutdownNames[how], no)
	}
}

// needRoot skips unless the host's kernel may be asked.
func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: a loop mount by the host's kernel")
	}
}

// testSeed is INLINEFS_TEST_SEED, or the given one; it is logged.
func testSeed(t *testing.T, seed uint64) uint64 {
	t.Helper()
	if s, err := strconv.ParseUint(os.Getenv("INLINEFS_TEST_SEED"), 10, 64); err == nil {
		seed = s
	}
	t.Logf("seed %d", seed)
	return seed
}

// load applies the operations of a seed below dir, one after the other, with an fsync now and then; it stops when the file system is
// gone. It never maps a file.
func load(dir string, seed uint64, steps int, step func(k int)) {
	g := &opGen{rng: rand.New(rand.NewPCG(seed, 7)), dir: dir}
	sync := rand.New(rand.NewPCG(seed, 8))
	for k := range steps {
		what, err := g.step()
		if errors.Is(err, unix.ENOTCONN) || errors.Is(err, unix.ESHUTDOWN) || errors.Is(err, unix.ECONNABORTED) {
			return
		}
		if sync.IntN(6) == 0 {
			if words := strings.Fields(what); len(words) > 1 {
				_ = withFile(words[1], unix.O_RDONLY, unix.Fsync) // it may not exist
			}
		}
		step(k)
	}
}

// kernelDirty makes an image that the kernel left with a journal to replay.
func kernelDirty(t *testing.T, o testimage.Options, seed uint64, how uint32) string {
	t.Helper()
	img := testimage.Make(t, o)
	dir, unmount := testimage.KernelMount(t, img, "commit=1000")
	defer unmount()
	load(dir, seed, 250, func(int) {})
	if fd, err := unix.Open(dir, unix.O_RDONLY, 0); err == nil {
		must(t, unix.Syncfs(fd))
		must(t, unix.Close(fd))
	}
	// What comes now is in the log only, and its last part in memory only.
	load(dir, seed+1000, 250, func(int) {})
	shutdown(t, dir, how)
	unmount()
	return img
}

// needsRecovery says whether the image's journal is to be replayed.
func needsRecovery(t *testing.T, img string) bool {
	t.Helper()
	return superblock(t, img).Incompat(ondisk.IncompatRecover)
}

func superblock(t *testing.T, img string) ondisk.Super {
	t.Helper()
	b := make([]byte, ondisk.SuperSize)
	f, err := os.Open(img)
	must(t, err)
	defer f.Close()
	_, err = f.ReadAt(b, ondisk.SuperOffset)
	must(t, err)
	sb, err := ondisk.NewSuper(b)
	must(t, err)
	return sb
}

// recoverImage is what a mount does first.
func recoverImage(t *testing.T, img string) *record {
	t.Helper()
	dev, err := blockdev.OpenFile(img, blockdev.FileOptions{})
	must(t, err)
	defer dev.Close()
	log := &record{}
	if _, err := Recover(dev, false, slog.New(log)); err != nil {
		t.Fatalf("recovery: %v", err)
	}
	return log
}

// journalOf is the set of the journal's blocks.
func journalOf(t *testing.T, img string) (map[uint64]bool, int) {
	t.Helper()
	dev, err := blockdev.OpenFile(img, blockdev.FileOptions{ReadOnly: true})
	must(t, err)
	defer dev.Close()
	s, err := super.Open(dev, super.Options{Log: slog.New(&record{}), ReadOnly: true, NoRecovery: true, Lenient: true})
	must(t, err)
	blocks, err := journalBlocks(s)
	must(t, err)
	set := map[uint64]bool{}
	for _, b := range blocks {
		set[b] = true
	}
	return set, s.BlockSize
}

// sameBytes compares two images outside the journal and the superblock.
func sameBytes(t *testing.T, ours, theirs string) {
	t.Helper()
	skip, bs := journalOf(t, ours)
	a, err := os.ReadFile(ours)
	must(t, err)
	b, err := os.ReadFile(theirs)
	must(t, err)
	clear(a[ondisk.SuperOffset : ondisk.SuperOffset+ondisk.SuperSize])
	clear(b[ondisk.SuperOffset : ondisk.SuperOffset+ondisk.SuperSize])
	bad := 0
	for n := 0; n*bs < len(a); n++ {
		if !skip[uint64(n)] && string(a[n*bs:(n+1)*bs]) != string(b[n*bs:(n+1)*bs]) {
			if bad++; bad < 5 {
				t.Errorf("block %d differs from what e2fsck's replay makes of it", n)
			}
		}
	}
	if bad > 0 {
		t.Errorf("%d blocks differ", bad)
	}
}

// e2fsckReplay lets e2fsck replay the journal and do nothing else.
func e2fsckReplay(t *testing.T, img string) {
	t.Helper()
	path, err := exec.LookPath("e2fsck")
	if err != nil {
		t.Skip("needs e2fsck (package e2fsprogs)")
	}
	out, err := exec.Command(path, "-E", "journal_only", "-fy", img).CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !(errors.As(err, &exit) && exit.ExitCode() == 1) {
		t.Fatalf("e2fsck -E journal_only: %v\n%s", err, out)
	}
}

// kernelTree is the tree as the kernel shows it after its own replay.
func kernelTree(t *testing.T, img string) []string {
	t.Helper()
	dir, unmount := testimage.KernelMount(t, img, "")
	defer unmount()
	return tree(t, dir)
}

// dirtyShapes are the journalled images of these tests.
func dirtyShapes() map[string]testimage.Options {
	old := testimage.Options{SizeMiB: 32, BlockSize: 1024, InodeSize: 256, Inodes: 1024, Features: "inline_data,^metadata_csum,^64bit,has_journal"}
	file := journalled()
	file.Features += ",orphan_file"
	return map[string]testimage.Options{"default": journalled(), "1k-nocsum": old, "orphan-file": file}
}

// TestWeReadTheKernels: images that the kernel left dirty come out of our recovery byte for byte as out of e2fsck's, and the tree as it
// comes out of the kernel's own.
func TestWeReadTheKernels(t *testing.T) {
	needRoot(t)
	testimage.FuseUsable(t)
	seed := testSeed(t, 20261125)
	for name, o := range dirtyShapes() {
		for _, how := range []uint32{shutdownDefault, shutdownLogFlush, shutdownNoFlush} {
			if testing.Short() && (name != "default" || how == shutdownDefault) {
				continue
			}
			t.Run(name+"/"+shutdownNames[how], func(t *testing.T) {
				img := kernelDirty(t, o, seed, how)
				if !needsRecovery(t, img) {
					if how != shutdownDefault {
						t.Error(errNoTransactions)
					}
					t.Log(errNoTransactions)
				}
				byE2fsck, byKernel := testimage.Copy(t, img), testimage.Copy(t, img)
				want := kernelTree(t, byKernel)
				e2fsckReplay(t, byE2fsck)
				for _, l := range recoverImage(t, img).find("journal recovered") {
					t.Log(l)
				}
				sameBytes(t, img, byE2fsck)
				m := mountConfig(t, config{img: img, killed: true})
				for _, l := range differ("replayed by the kernel and by us", want, tree(t, m.dir)) {
					t.Error(l)
				}
			})
		}
	}
}

// TestTheKernelReadsOurs kills our daemon under load: the kernel's replay of the image and ours give the same tree, and what was fsynced
// is there.
func TestTheKernelReadsOurs(t *testing.T) {
	needRoot(t)
	testimage.FuseUsable(t)
	seed := testSeed(t, 20261126)
	for name, o := range dirtyShapes() {
		t.Run(name, func(t *testing.T) {
			img := testimage.Make(t, o)
			for round := range uint64(3) {
				killUnderLoad(t, img, seed+round, 150+int(round)*100)
				theirs := testimage.Copy(t, img)
				want := kernelTree(t, theirs)
				out, code := testimage.FsckOutput(theirs)
				if code != 0 {
					t.Errorf("round %d: e2fsck after the kernel's replay: exit %d\n%s", round, code, out)
				}
				m := mountConfig(t, config{img: img, killed: true})
				for _, l := range differ(fmt.Sprintf("round %d: replayed by the kernel and by us", round), want, tree(t, m.dir)) {
					t.Error(l)
				}
				m.finish()
			}
		})
	}
}

// killUnderLoad kills a daemon in the middle of the operations of a seed, after about steps of them.
func killUnderLoad(t *testing.T, img string, seed uint64, steps int) {
	t.Helper()
	d := startDaemon(t, img)
	reached, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		load(d.dir, seed, 100000, func(k int) {
			if k == steps {
				close(reached)
			}
		})
	}()
	select {
	case <-reached:
	case <-ended:
		t.Error("the load ended before the daemon was killed")
	}
	d.kill()
	<-ended
}

// TestKernelOrphanFile: open-unlinked files that the kernel noted in the orphan file when the power went are freed by our mount.
func TestKernelOrphanFile(t *testing.T) {
	needRoot(t)
	testimage.FuseUsable(t)
	for _, how := range []uint32{shutdownDefault, shutdownLogFlush} {
		t.Run(shutdownNames[how], func(t *testing.T) {
			o := journalled()
			o.Features += ",orphan_file"
			img := testimage.Make(t, o)
			before := statfs(t, remountAndStop(t, img))
			dir, unmount := testimage.KernelMount(t, img, "commit=1000")
			defer unmount()
			var open []*os.File
			for k, n := range []int{0, 50, 5000, 300000} {
				f, err := os.Create(filepath.Join(dir, fmt.Sprint("f", k)))
				must(t, err)
				_, err = f.WriteString(pattern(n, k))
				must(t, err)
				must(t, f.Sync())
				must(t, os.Remove(f.Name()))
				open = append(open, f)
			}
			write(t, filepath.Join(dir, "stays"), pattern(5000, 1))
			shutdown(t, dir, how)
			for _, f := range open {
				_ = f.Close() // the file system is gone
			}
			unmount()
			if sb := superblock(t, img); !needsRecovery(t, img) && !sb.ROCompat(ondisk.ROCompatOrphanPresent) {
				t.Skip("this kernel notes no orphans in the file")
			}
			m := mountConfig(t, config{img: img, killed: true})
			if s := m.log.find("orphan file finished"); len(s) != 1 || !strings.Contains(s[0], "inodes=4") {
				t.Errorf("log: %v, want four inodes of the orphan file", s)
			}
			must(t, os.Remove(m.path("stays")))
			m.finish()
			if superblock(t, img).ROCompat(ondisk.ROCompatOrphanPresent) {
				t.Error("orphan_present is still set")
			}
			after := statfs(t, mountConfig(t, config{img: img, killed: true}).dir)
			if after.Bfree != before.Bfree || after.Ffree != before.Ffree {
				t.Errorf("free blocks %d inodes %d, before %d %d", after.Bfree, after.Ffree, before.Bfree, before.Ffree)
			}
		})
	}
}

// remountAndStop mounts an image for the length of the test's first step: it returns the directory of a mount that ends with the test.
func remountAndStop(t *testing.T, img string) string {
	t.Helper()
	return remount(t, testimage.Copy(t, img)).dir
}

// TestDamagedOrphanFile: a block of the orphan file with a bad checksum, a bad magic number or an entry for no inode is reported; the
// mount goes on.
func TestDamagedOrphanFile(t *testing.T) {
	testimage.FuseUsable(t)
	o := journalled()
	o.Features += ",orphan_file"
	master := testimage.Make(t, o)
	blk := orphanBlock(t, master)
	for name, c := range map[string]struct {
		off   int
		bytes string
		says  string
	}{
		"checksum": {0, "\x0c\x00\x00\x00", "checksum"},
		"magic":    {4096 - 8, "\x00", "magic"},
	} {
		t.Run(name, func(t *testing.T) {
			img := testimage.Copy(t, master)
			poke(t, img, int64(blk)*4096+int64(c.off), c.bytes)
			sb := superblock(t, img)
			sb.SetFeatureROCompat(sb.FeatureROCompat() | ondisk.ROCompatOrphanPresent)
			sb.UpdateChecksum()
			poke(t, img, ondisk.SuperOffset, string(sb))
			m := mountConfig(t, config{img: img, broken: true, super: super.Options{Errors: ondisk.ErrorsContinue}})
			if s := m.log.find("orphans not finished"); len(s) != 1 || !strings.Contains(s[0], c.says) {
				t.Errorf("log: %v, want a word of %q", s, c.says)
			}
			write(t, m.path("f"), "goes on")
			m.finish()
			if !superblock(t, img).ROCompat(ondisk.ROCompatOrphanPresent) {
				t.Error("the flag is gone, and nobody read the file")
			}
		})
	}
}

// orphanBlock is the first block of the orphan file.
func orphanBlock(t *testing.T, img string) uint64 {
	t.Helper()
	out := testimage.Debugfs(t, img, false, fmt.Sprintf("blocks <%d>", superblock(t, img).OrphanFileIno()))
	words := strings.Fields(out)
	if len(words) == 0 {
		t.Skipf("no orphan file: %s", out)
	}
	n, err := strconv.ParseUint(words[0], 10, 64)
	must(t, err)
	return n
}

// poke overwrites bytes of an image.
func poke(t *testing.T, img string, off int64, b string) {
	t.Helper()
	f, err := os.OpenFile(img, os.O_RDWR, 0)
	must(t, err)
	_, err = f.WriteAt([]byte(b), off)
	must(t, errors.Join(err, f.Close()))
}

// TestFsyncedFilesSurvive kills the daemon right after files were made durable, by each of the ways there are.
func TestFsyncedFilesSurvive(t *testing.T) {
	testimage.FuseUsable(t)
	img := testimage.Make(t, journalled())
	var done []string
	for round := range 3 {
		d := startDaemon(t, img)
		for k, n := range []int{10, 100, 300, 5000, 70000} {
			name := fmt.Sprintf("r%d-%d", round, k)
			p := filepath.Join(d.dir, name)
			must(t, withFile(p, unix.O_CREAT|unix.O_WRONLY, func(fd int) error {
				_, err := unix.Write(fd, []byte(pattern(n, k)))
				return errors.Join(err, unix.Fsync(fd))
			}))
			if k%2 == 1 {
				must(t, os.Rename(p, p+"-moved"))
				must(t, withFile(d.dir, unix.O_RDONLY|unix.O_DIRECTORY, unix.Fsync))
				name += "-moved"
			}
			done = append(done, fmt.Sprintf("%s %d", name, k))
		}
		write(t, filepath.Join(d.dir, fmt.Sprint("maybe", round)), pattern(100, round))
		d.kill()
	}
	m := mountConfig(t, config{img: img, killed: true})
	sizes := []int{10, 100, 300, 5000, 70000}
	names, err := os.ReadDir(m.dir)
	must(t, err)
	for _, l := range done {
		name, ks, _ := strings.Cut(l, " ")
		k, err := strconv.Atoi(ks)
		must(t, err)
		if !slices.ContainsFunc(names, func(e os.DirEntry) bool { return e.Name() == name }) {
			t.Errorf("%s was fsynced and is gone", name)
			continue
		}
		if got := read(t, m.path(name)); got != pattern(sizes[k], k) {
			t.Errorf("%s has %d bytes, not those that were fsynced", name, len(got))
		}
	}
}

// TestKernelFastCommits: a log with fast commits is refused with what to do, and left alone; read-only too, since files that were fsynced
// would be missing.
func TestKernelFastCommits(t *testing.T) {
	needRoot(t)
	testimage.FuseUsable(t)
	o := testimage.Options{SizeMiB: 64, BlockSize: 4096, InodeSize: 256, Inodes: 1024, Features: "^inline_data,metadata_csum,64bit,has_journal,fast_commit"}
	img := testimage.Make(t, o)
	dir, unmount := testimage.KernelMount(t, img, "commit=1000")
	defer unmount()
	must(t, withFile(dir, unix.O_RDONLY|unix.O_DIRECTORY, unix.Fsync))
	for k := range 10 {
		must(t, withFile(filepath.Join(dir, fmt.Sprint("f", k)), unix.O_CREAT|unix.O_WRONLY, func(fd int) error {
			_, err := unix.Write(fd, []byte(pattern(100, k)))
			return errors.Join(err, unix.Fsync(fd))
		}))
	}
	shutdown(t, dir, shutdownNoFlush)
	unmount()
	before, err := os.ReadFile(img)
	must(t, err)
	for _, ro := range []bool{true, false} {
		_, err := tryMount(t, config{img: img, broken: true, super: super.Options{ReadOnly: ro}})
		if err == nil {
			t.Skip("this kernel made no fast commits")
		}
		refusal(t, fmt.Sprintf("read-only %v", ro), err, "fast commits")
		same(t, "a refused mount", img, before)
	}
	// e2fsck 1.47.0 loses the first of the files.
	kernelTree(t, img)
	m := mountConfig(t, config{img: img, killed: true})
	for k := range 10 {
		if got := read(t, m.path(fmt.Sprint("f", k))); got != pattern(100, k) {
			t.Errorf("file %d after the kernel's replay: %d bytes", k, len(got))
		}
	}
}
