// Command crashrun crashes recorded workloads at every write until enough crash points were tried or one breaks a promise (package
// crash), or tries one point again.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"time"

	"inlinefs/crash"
)

// options of the command line.
type options struct {
	points, ops, mixes, fsck, workers, kernel int
	seed                                      int64
	bound                                     time.Duration
	variant, log, from, save, image           string
	entry, mix                                int
}

func main() {
	var o options
	flag.IntVar(&o.points, "points", 1_000_000, "crash points to try")
	flag.Int64Var(&o.seed, "seed", 1, "seed of the first run; a campaign goes on where another ended with the seed after its last")
	flag.DurationVar(&o.bound, "for", 0, "no run begins after this time")
	flag.IntVar(&o.ops, "ops", 400, "operations of a run")
	flag.IntVar(&o.mixes, "mixes", 3, "crashes that lose or tear writes, for each plain one")
	flag.IntVar(&o.fsck, "fsck", 50, "one crash point in how many e2fsck judges, 0 for none")
	flag.IntVar(&o.workers, "workers", runtime.NumCPU(), "runs at a time")
	flag.IntVar(&o.kernel, "kernel", 0, "crash points whose image the kernel mounts as well (root)")
	flag.StringVar(&o.variant, "variant", "", "only this kind of image")
	flag.StringVar(&o.log, "log", "", "write the log of the run of -seed, in dm-log-writes format, to this file and its base image beside it")
	flag.StringVar(&o.from, "from", "", "with -entry: take the log from this file, as a failed run saved it")
	flag.StringVar(&o.save, "save", os.TempDir(), "where the log of a run that fails is saved")
	flag.StringVar(&o.image, "image", "", "with -entry: write what the crash leaves to this file")
	flag.IntVar(&o.entry, "entry", -1, "try one crash point again: after this many entries of the log")
	flag.IntVar(&o.mix, "mix", 0, "with -entry: which writes are lost")
	flag.Parse()
	if err := o.run(); err != nil {
		fmt.Fprintln(os.Stderr, "crashrun:", err)
		os.Exit(1)
	}
}

func (o *options) run() error {
	if err := crash.Usable(); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "crashrun-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if o.entry >= 0 || o.log != "" {
		return o.one(dir)
	}
	return o.campaign(dir)
}

func (o *options) variants() ([]crash.Variant, error) {
	all := append(crash.Variants(), crash.NoJournalVariants()...)
	if o.variant == "" {
		return all, nil
	}
	for _, v := range all {
		if v.Name == o.variant {
			return []crash.Variant{v}, nil
		}
	}
	return nil, fmt.Errorf("variant %q is not known", o.variant)
}

func (o *options) campaign(dir string) error {
	vs, err := o.variants()
	if err != nil {
		return err
	}
	start := time.Now()
	shown := start
	total, err := crash.Sweep(crash.Config{Variants: vs, Seed: o.seed, Points: o.points, Workers: o.workers, Ops: o.ops, Mixes: o.mixes,
		Fsck: o.fsck, For: o.bound, Dir: dir, Save: o.save, Progress: func(t crash.Total) {
			if time.Since(shown) > 10*time.Second {
				shown = time.Now()
				fmt.Printf("%9d crash points, %5d runs, %5.0f points/s, %d judged by e2fsck\n", t.Points, t.Runs, t.Since(start), t.Fscks)
			}
		}})
	fmt.Printf("%d crash points tried in %d runs (seeds %d to %d) in %v; %d judged by e2fsck; %d journal superblocks written, %d logs wrapped around\n",
		total.Points, total.Runs, o.seed, o.seed+int64(total.Runs)-1, time.Since(start).Round(time.Second), total.Fscks, total.Journals, total.Wraps)
	if err != nil || o.kernel == 0 {
		return err
	}
	return o.byKernel(vs, dir)
}

// one records one run, and tries one point of it or saves its log.
func (o *options) one(dir string) error {
	vs, err := o.variants()
	if err != nil {
		return err
	}
	v := vs[0]
	base, err := v.Make(dir)
	if err != nil {
		return err
	}
	r, err := crash.Record(v, base, o.seed, o.ops)
	if err != nil {
		return err
	}
	if o.log != "" {
		fmt.Printf("%s: %d entries of the run %s seed %d; base image: %s.base\n", o.log, len(r.Log), v.Name, o.seed, o.log)
		return errors.Join(r.SaveLog(o.log), os.WriteFile(o.log+".base", base, 0o600))
	}
	if o.from != "" {
		if err := r.LoadLog(o.from); err != nil {
			return err
		}
	}
	p := crash.Point{N: o.entry, Mix: o.mix}
	fmt.Println(r.Describe(p.N))
	if o.image != "" {
		if err := r.Image(p, o.image); err != nil {
			return err
		}
	}
	if err := r.Try(p, dir); err != nil {
		return err
	}
	fmt.Println("this crash point keeps every promise")
	return nil
}

// byKernel has the kernel recover crashed images, one of each variant in turn, and e2fsck judge what it leaves.
func (o *options) byKernel(vs []crash.Variant, dir string) error {
	mnt, img := filepath.Join(dir, "mnt"), filepath.Join(dir, "img")
	if err := os.Mkdir(mnt, 0o700); err != nil {
		return err
	}
	done := 0
	for n := int64(0); done < o.kernel; n++ {
		v := vs[n%int64(len(vs))]
		if !v.Journal {
			continue
		}
		base, err := v.Make(dir)
		if err != nil {
			return err
		}
		r, err := crash.Record(v, base, o.seed+n, o.ops)
		if err != nil {
			return err
		}
		at := r.Points()
		for k := 0; k < 10 && done < o.kernel; k++ {
			p := crash.Point{N: at[len(at)*(k+1)/11], Mix: k % 3}
			if err := r.Image(p, img); err != nil {
				return err
			}
			if err := kernelRecovers(img, mnt); err != nil {
				return fmt.Errorf("%s seed %d entry %d mix %d: %w", v.Name, o.seed+n, p.N, p.Mix, err)
			}
			done++
		}
	}
	fmt.Printf("the kernel recovered %d crashed images, each clean by e2fsck afterwards\n", done)
	return nil
}

func kernelRecovers(img, mnt string) error {
	for _, args := range [][]string{{"mount", "-t", "ext4", "-o", "loop", img, mnt}, {"umount", mnt}, {"e2fsck", "-fn", img}} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%v: %w\n%s", args, err, out)
		}
	}
	return nil
}
