package fs

import (
	"encoding/binary"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"inlinefs/blockdev"
	"inlinefs/extent"
	"inlinefs/inode"
	"inlinefs/internal/testimage"
	"inlinefs/ondisk"
	"inlinefs/super"
)

// orphanFileImage has an orphan file.
func orphanFileImage(t *testing.T) string {
	t.Helper()
	o := journalled()
	o.Features += ",orphan_file"
	return testimage.Make(t, o)
}

// leaveOrphans kills a daemon that holds n deleted files, all of it committed.
func leaveOrphans(t *testing.T, img string, n int) {
	t.Helper()
	d := startDaemon(t, img)
	write(t, filepath.Join(d.dir, "stays"), pattern(5000, 1))
	for k := range n {
		p := filepath.Join(d.dir, fmt.Sprint("f", k))
		write(t, p, pattern([]int{0, 50, 5000, 70000}[k%4], k))
		f, err := os.Open(p)
		must(t, err)
		defer f.Close()
		must(t, os.Remove(p))
	}
	must(t, withFile(d.dir, unix.O_RDONLY|unix.O_DIRECTORY, unix.Fsync))
	d.kill()
}

// TestOrphanFile: deleted files that are open stand in the orphan file and not on the list; a crash leaves the flag, and e2fsck, the kernel
// and our own mount each free the files and find nothing to complain of.
func TestOrphanFile(t *testing.T) {
	testimage.FuseUsable(t)
	img := orphanFileImage(t)
	before := statfs(t, remountAndStop(t, img))
	const n = 12
	leaveOrphans(t, img, n)
	replayed := testimage.Copy(t, img)
	recoverImage(t, replayed)
	sb := superblock(t, replayed)
	if !sb.ROCompat(ondisk.ROCompatOrphanPresent) || sb.LastOrphan() != 0 {
		t.Errorf("after the crash: orphan_present %v, s_last_orphan %d, want true and 0", sb.ROCompat(ondisk.ROCompatOrphanPresent), sb.LastOrphan())
	}
	counts := map[string]unix.Statfs_t{"before": before}
	for who, clean := range map[string]func(t *testing.T, img string){
		"e2fsck": func(t *testing.T, img string) { e2fsckFrees(t, img, n) },
		"kernel": func(t *testing.T, img string) {
			needRoot(t)
			kernelTree(t, img)
		},
		"inlinefs": func(t *testing.T, img string) {
			m := mountConfig(t, config{img: img, killed: true})
			if s := m.log.find("orphan file finished"); len(s) != 1 || !strings.Contains(s[0], fmt.Sprint("inodes=", n)) {
				t.Errorf("log: %v, want %d inodes of the orphan file", s, n)
			}
			m.finish()
		},
	} {
		t.Run(who, func(t *testing.T) {
			img := testimage.Copy(t, img)
			clean(t, img)
			if superblock(t, img).ROCompat(ondisk.ROCompatOrphanPresent) {
				t.Error("orphan_present is still set")
			}
			testimage.Fsck(t, img)
			m := mountConfig(t, config{img: img, killed: true})
			if got := read(t, m.path("stays")); got != pattern(5000, 1) {
				t.Errorf("%d bytes of the file that stays", len(got))
			}
			must(t, os.Remove(m.path("stays")))
			m.finish()
			counts[who] = statfs(t, mountConfig(t, config{img: img, killed: true}).dir)
		})
	}
	for who, s := range counts {
		if s.Bfree != before.Bfree || s.Ffree != before.Ffree {
			t.Errorf("%s: free blocks %d inodes %d, before %d %d", who, s.Bfree, s.Ffree, before.Bfree, before.Ffree)
		}
	}
}

// e2fsckFrees has e2fsck replay the journal and delete n orphans, and say nothing else.
func e2fsckFrees(t *testing.T, img string, n int) {
	t.Helper()
	path, err := exec.LookPath("e2fsck")
	if err != nil {
		t.Skip("needs e2fsck (package e2fsprogs)")
	}
	out, err := exec.Command(path, "-fy", img).CombinedOutput()
	if got := strings.Count(string(out), "Clearing orphaned inode"); got != n {
		t.Errorf("e2fsck cleared %d orphans, want %d", got, n)
	}
	for line := range strings.Lines(string(out)) {
		for _, bad := range []string{"orphan file", "Inode bitmap differences", "Block bitmap differences", "Unattached", "<y>"} {
			if strings.Contains(line, bad) {
				t.Errorf("e2fsck: %v: %s", err, line)
			}
		}
	}
}

// TestOrphanFlag: orphan_present is set while the image is mounted for writing, and taken off by the unmount.
func TestOrphanFlag(t *testing.T) {
	m := mountConfig(t, config{img: orphanFileImage(t)})
	if !superblock(t, m.c.img).ROCompat(ondisk.ROCompatOrphanPresent) {
		t.Error("mounted: orphan_present is not set")
	}
	m.unmount()
	if superblock(t, m.c.img).ROCompat(ondisk.ROCompatOrphanPresent) {
		t.Error("unmounted: orphan_present is still set")
	}
}

// TestFullOrphanFile: when the file has no free slot the list takes the rest, and slots are used again.
func TestFullOrphanFile(t *testing.T) {
	m := mountConfig(t, config{img: orphanFileImage(t)})
	o := m.f.orphanFile
	if o == nil {
		t.Fatal("the orphan file is not open")
	}
	// All but two slots are taken, as far as the mount knows.
	m.f.orphanMu.Lock()
	for k := range o.free {
		o.free[k] = 0
	}
	o.free[len(o.free)-1] = 2
	m.f.orphanMu.Unlock()
	var open []*os.File
	remove := func(k int) {
		t.Helper()
		f, err := os.Create(m.path(fmt.Sprint(k)))
		must(t, err)
		must(t, os.Remove(f.Name()))
		open = append(open, f)
	}
	state := func(used int, list bool) {
		t.Helper()
		m.f.orphanMu.Lock()
		defer m.f.orphanMu.Unlock()
		if o.used != used || (m.f.orphans != nil) != list {
			t.Errorf("%d slots in use, list %v, want %d, %v", o.used, m.f.orphans != nil, used, list)
		}
	}
	remove(0)
	remove(1)
	state(2, false)
	remove(2)
	state(2, true)
	must(t, open[1].Close())
	for n := 0; ; n++ { // the kernel's RELEASE and FORGET come later
		m.f.orphanMu.Lock()
		used := o.used
		m.f.orphanMu.Unlock()
		if used == 1 {
			break
		}
		if n == 500 {
			t.Fatalf("%d slots in use five seconds after a file was closed, want 1", used)
		}
		time.Sleep(10 * time.Millisecond)
	}
	remove(3)
	state(2, true)
	for k, f := range open {
		if k != 1 {
			must(t, f.Close())
		}
	}
	m.unmount()
	if superblock(t, m.c.img).ROCompat(ondisk.ROCompatOrphanPresent) || superblock(t, m.c.img).LastOrphan() != 0 {
		t.Error("orphans are left after the unmount")
	}
}

// TestOrphanFileEntries: slots that name no inode in use are reported and cleared, the others are finished; the mount goes on.
func TestOrphanFileEntries(t *testing.T) {
	testimage.FuseUsable(t)
	img := orphanFileImage(t)
	leaveOrphans(t, img, 3)
	recoverImage(t, img)
	setOrphanSlot(t, img, 1, 900)
	setOrphanSlot(t, img, 7, 1<<30)
	m := mountConfig(t, config{img: img, broken: true, super: super.Options{Errors: ondisk.ErrorsContinue}})
	if s := m.log.find("orphans not finished"); len(s) != 1 || !strings.Contains(s[0], "inode 900") || !strings.Contains(s[0], "inode 1073741824") {
		t.Errorf("log: %v, want words of inodes 900 and 1073741824", s)
	}
	write(t, m.path("goes-on"), "goes on")
	m.finish()
	if superblock(t, img).ROCompat(ondisk.ROCompatOrphanPresent) {
		t.Error("orphan_present is still set")
	}
}

// setOrphanSlot puts a number into a slot of the first block of the orphan file and makes its checksum right.
func setOrphanSlot(t *testing.T, img string, slot int, ino uint32) {
	t.Helper()
	dev, err := blockdev.OpenFile(img, blockdev.FileOptions{})
	must(t, err)
	defer dev.Close()
	s, err := super.Open(dev, super.Options{Log: slog.New(&record{}), ReadOnly: true})
	must(t, err)
	file, err := inode.NewCache(s).GetSystem(s.SB.OrphanFileIno())
	must(t, err)
	b, err := extent.GetBlock(file, 0)
	must(t, err)
	defer b.Release()
	binary.LittleEndian.PutUint32(b.Data()[4*slot:], ino)
	binary.LittleEndian.PutUint32(b.Data()[len(b.Data())-4:], orphanSum(file, b))
	_, err = dev.WriteAt(b.Data(), int64(b.Block())*int64(s.BlockSize))
	must(t, err)
}
