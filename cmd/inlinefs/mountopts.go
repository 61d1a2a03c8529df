package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"inlinefs/fs"
	"inlinefs/ondisk"
)

// mountConfig is what a mount command line asks for.
type mountConfig struct {
	image, mnt string
	foreground bool
	logLevel   string

	ro, noRecovery, sync, dirSync, noACL, ordered bool
	allowOther                                    bool
	fsname                                        string
	offset, cacheSize                             int64
	errors                                        uint16
	mmap                                          fs.MmapMode
	conversion                                    string
	window, commit                                time.Duration
	kernel                                        []string // for the kernel or fusermount3
}

// passed go to the kernel; ignored are understood and mean nothing here.
var (
	passed  = []string{"nosuid", "suid", "nodev", "dev", "noexec", "exec", "noatime", "atime", "nodiratime", "relatime", "strictatime", "lazytime"}
	ignored = []string{"rw", "defaults", "default_permissions", "nofail", "noauto", "auto", "_netdev", "user", "users", "nouser", "owner", "group",
		"nodelalloc", "delalloc", "noblock_validity", "block_validity", "user_xattr", "acl", "async", "barrier", "barrier=1", "noinit_itable", "init_itable", "loop"}
	valued = []string{"offset", "errors", "fsname", "mmap", "conversion", "window", "cache_size", "commit", "data", "log"}
	flags  = []string{"ro", "norecovery", "noload", "sync", "dirsync", "noacl", "allow_other"}
)

// parse applies a comma-separated -o list. An unknown option is an error that names it and the nearest known one.
func (c *mountConfig) parse(list string) error {
	for _, o := range strings.Split(list, ",") {
		if o == "" || slices.Contains(ignored, o) || strings.HasPrefix(o, "x-") || strings.HasPrefix(o, "comment=") {
			continue
		}
		if slices.Contains(passed, o) {
			c.kernel = append(c.kernel, o)
			continue
		}
		k, v, has := strings.Cut(o, "=")
		var err error
		switch {
		case has && slices.Contains(valued, k):
			err = c.setValue(k, v)
		case !has && slices.Contains(flags, k):
			c.setFlag(k)
		default:
			return fmt.Errorf("unknown mount option %q, nearest is %q", o, nearest(k))
		}
		if err != nil {
			return fmt.Errorf("mount option %s: %w", o, err)
		}
	}
	return nil
}

func (c *mountConfig) setFlag(k string) {
	switch k {
	case "ro":
		c.ro = true
	case "norecovery", "noload":
		c.noRecovery = true
	case "sync":
		c.sync = true
	case "dirsync":
		c.dirSync = true
	case "noacl":
		c.noACL = true
	case "allow_other":
		c.allowOther = true
	}
}

func (c *mountConfig) setValue(k, v string) (err error) {
	switch k {
	case "offset":
		c.offset, err = parseSize(v)
	case "cache_size":
		if c.cacheSize, err = parseSize(v); err == nil && c.cacheSize < 1<<20 {
			err = fmt.Errorf("%d bytes, want at least 1M", c.cacheSize)
		}
	case "fsname":
		c.fsname = v
	case "log":
		c.logLevel = v
	case "errors":
		m := map[string]uint16{"continue": ondisk.ErrorsContinue, "remount-ro": ondisk.ErrorsRO, "panic": ondisk.ErrorsPanic}
		if c.errors = m[v]; c.errors == 0 {
			err = fmt.Errorf("want continue, remount-ro or panic")
		}
	case "mmap":
		if c.mmap = fs.MmapMode(v); c.mmap != fs.MmapCached && c.mmap != fs.MmapObserve {
			err = fmt.Errorf("want %s or %s", fs.MmapCached, fs.MmapObserve)
		}
	case "conversion":
		if !slices.Contains(fs.Strategies(), v) {
			err = fmt.Errorf("want one of %s", strings.Join(fs.Strategies(), ", "))
		}
		c.conversion = v
	case "data":
		if v != "ordered" && v != "writeback" {
			err = fmt.Errorf("want ordered (what is always done) or writeback (which it includes); data=journal is not supported")
		}
		c.ordered = true
	case "window":
		if c.window, err = time.ParseDuration(v); err == nil && (c.window < 0 || c.window > time.Second) {
			err = fmt.Errorf("want 0 to 1s")
		}
	case "commit":
		var n uint64
		if n, err = strconv.ParseUint(v, 10, 16); err != nil {
			return fmt.Errorf("want seconds")
		}
		c.commit = time.Duration(n) * time.Second
	}
	return err
}

// parseSize reads a number of bytes with an optional suffix K, M, G or T.
func parseSize(v string) (int64, error) {
	mult := int64(1)
	if n := len(v); n > 0 {
		if k := strings.IndexByte("KMGT", v[n-1]&^0x20); k >= 0 {
			mult, v = 1<<(10*(k+1)), v[:n-1]
		}
	}
	n, err := strconv.ParseInt(v, 10, 64)
	if err != nil || n < 0 || n > (1<<62)/mult {
		return 0, fmt.Errorf("%q is not a size in bytes (K, M, G, T allowed)", v)
	}
	return n * mult, nil
}

// nearest is the known option with the smallest edit distance.
func nearest(k string) string {
	best, at := "", 1<<30
	for _, l := range [][]string{flags, valued, passed, ignored} {
		for _, o := range l {
			if d := distance(k, o); d < at {
				best, at = o, d
			}
		}
	}
	return best
}

func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diag := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diag
			if a[i] != b[j] {
				cost++
			}
			diag = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
