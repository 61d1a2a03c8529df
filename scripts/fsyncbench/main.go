// Command fsyncbench times what a journal costs: write+fsync from one and four threads and storms of create and unlink, on the kernel's
// ext4, fuse2fs, inlinefs with a journal and inlinefs without, in alternating rounds of one run. scripts/fsyncbench.sh calls it.
package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// options of the command line.
type options struct {
	bin, dir, peers, mount string
	rounds, syncs, files   int
	sizeMiB                int
}

// results holds the rates of each peer and workload, one for each round.
type results map[string]map[string][]float64

func main() {
	var o options
	flag.StringVar(&o.bin, "bin", "", "inlinefs program")
	flag.StringVar(&o.dir, "dir", "", "directory for the images, on a disk")
	flag.StringVar(&o.peers, "peers", "kernel,fuse2fs,inlinefs,no-journal", "what to time")
	flag.StringVar(&o.mount, "options", "", "mount options of inlinefs")
	flag.IntVar(&o.rounds, "rounds", 5, "rounds; the peers take turns in each")
	flag.IntVar(&o.syncs, "syncs", 400, "fsyncs of a thread's workload, in all threads together")
	flag.IntVar(&o.files, "files", 3000, "files of a storm")
	flag.IntVar(&o.sizeMiB, "size", 512, "MiB of an image")
	flag.Parse()
	if err := o.run(); err != nil {
		fmt.Fprintln(os.Stderr, "fsyncbench:", err)
		os.Exit(1)
	}
}

func (o *options) run() error {
	peers := strings.Split(o.peers, ",")
	res := results{}
	for r := range o.rounds {
		for k := range peers {
			p := peers[(k+r)%len(peers)]
			if err := o.one(p, res); err != nil {
				return fmt.Errorf("round %d, %s: %w", r+1, p, err)
			}
		}
		fmt.Printf("round %d of %d done\n", r+1, o.rounds)
	}
	res.table(peers)
	return nil
}

// one mounts a fresh image with one peer, runs every workload and judges the image.
func (o *options) one(peer string, res results) error {
	img, mnt := filepath.Join(o.dir, "image"), filepath.Join(o.dir, "mnt")
	if err := os.MkdirAll(mnt, 0o755); err != nil {
		return err
	}
	journal := "has_journal"
	if peer == "no-journal" {
		journal = "^has_journal"
	}
	if err := errors.Join(ignoreAbsent(os.Remove(img)), command("mkfs.ext4", "-q", "-F", "-I", "256", "-O", "inline_data,"+journal, img,
		fmt.Sprintf("%dM", o.sizeMiB))); err != nil {
		return err
	}
	unix.Sync() // what mkfs wrote is not part of anybody's time
	if err := o.mountPeer(peer, img, mnt); err != nil {
		return err
	}
	err := workloads(o, mnt, func(name string, rate float64) {
		if res[peer] == nil {
			res[peer] = map[string][]float64{}
		}
		res[peer][name] = append(res[peer][name], rate)
	})
	if err := errors.Join(err, unmount(img, mnt)); err != nil {
		return err
	}
	return command("e2fsck", "-fn", img)
}

func ignoreAbsent(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

func (o *options) mountPeer(peer, img, mnt string) error {
	var err error
	switch peer {
	case "kernel":
		err = command("mount", "-t", "ext4", "-o", "loop,nodiscard", img, mnt)
	case "fuse2fs":
		err = command("fuse2fs", "-o", "fakeroot,rw", img, mnt)
	case "inlinefs", "no-journal":
		args := []string{"mount"}
		if o.mount != "" {
			args = append(args, "-o", o.mount)
		}
		err = command(o.bin, append(args, img, mnt)...)
	default:
		return fmt.Errorf("peer %q is not known", peer)
	}
	for n := 0; err == nil && !mounted(mnt); n++ {
		if n == 300 {
			return fmt.Errorf("nothing is mounted on %s after 30 s", mnt)
		}
		time.Sleep(100 * time.Millisecond)
	}
	return err
}

// mounted compares the directory's device with its parent's.
func mounted(mnt string) bool {
	var a, b unix.Stat_t
	return unix.Stat(mnt, &a) == nil && unix.Stat(filepath.Dir(mnt), &b) == nil && a.Dev != b.Dev
}

// unmount takes mnt down and waits until neither a process nor a loop device has the image open: a mount namespace that was copied
// meanwhile keeps a file system mounted after umount has returned.
func unmount(img, mnt string) error {
	if err := command("umount", mnt); err != nil {
		return err
	}
	for n := 0; ; n++ {
		busy, err := inUse(img)
		if err != nil || !busy {
			return err
		}
		if n == 600 {
			return fmt.Errorf("%s is still open a minute after the unmount", img)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func inUse(img string) (bool, error) {
	fds, err := filepath.Glob("/proc/[0-9]*/fd/*")
	if err != nil {
		return false, err
	}
	for _, fd := range fds {
		if to, err := os.Readlink(fd); err == nil && to == img {
			return true, nil
		}
	}
	loops, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		return false, err
	}
	for _, l := range loops {
		if to, err := os.ReadFile(l); err == nil && strings.TrimSpace(string(to)) == img {
			return true, nil
		}
	}
	return false, nil
}

func command(name string, args ...string) error {
	var out bytes.Buffer
	c := exec.Command(name, args...)
	c.Stdout, c.Stderr = &out, &out
	if err := c.Run(); err != nil {
		return fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, out.String())
	}
	return nil
}

func median(v []float64) float64 {
	s := slices.Sorted(slices.Values(v))
	if n := len(s); n%2 == 0 {
		return (s[n/2-1] + s[n/2]) / 2
	}
	return s[len(s)/2]
}

// table prints medians over the rounds, with the least and the greatest, and the ratios: each the median of the rounds' own ratios.
func (r results) table(peers []string) {
	fmt.Printf("\n%-24s", "per second, median")
	for _, p := range peers {
		fmt.Printf("%26s", p)
	}
	fmt.Println()
	for _, w := range workNames {
		fmt.Printf("%-24s", w)
		for _, p := range peers {
			if v := r[p][w]; len(v) > 0 {
				fmt.Printf("%26s", fmt.Sprintf("%.0f (%.0f..%.0f)", median(v), slices.Min(v), slices.Max(v)))
			}
		}
		fmt.Println()
	}
	fmt.Printf("\n%-24s", "inlinefs to")
	for _, p := range peers {
		if p != "inlinefs" {
			fmt.Printf("%26s", p)
		}
	}
	fmt.Println()
	for _, w := range workNames {
		fmt.Printf("%-24s", w)
		for _, p := range peers {
			if p == "inlinefs" || len(r[p][w]) == 0 || len(r["inlinefs"][w]) != len(r[p][w]) {
				continue
			}
			var q []float64
			for k, v := range r["inlinefs"][w] {
				q = append(q, v/r[p][w][k])
			}
			fmt.Printf("%26s", fmt.Sprintf("%.2f (%.2f..%.2f)", median(q), slices.Min(q), slices.Max(q)))
		}
		fmt.Println()
	}
}
