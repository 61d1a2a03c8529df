package main

import (
	"fmt"
	"log/slog"
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
	ignored = []string{"defaults", "default_permissions", "nofail", "noauto", "auto", "_netdev", "user", "users", "nouser", "owner", "group",
		"nodelalloc", "delalloc", "noblock_validity", "block_validity", "user_xattr", "barrier", "barrier=1", "noinit_itable", "init_itable", "loop"}
	valued = []string{"offset", "errors", "fsname", "mmap", "conversion", "window", "cache_size", "commit", "data", "log"}
	flags  = []string{"ro", "rw", "norecovery", "noload", "sync", "async", "dirsync", "noacl", "acl", "allow_other"}
)

// parse applies a comma-separated -o list; of options that contradict each other the last one holds. An unknown option is an error that
// names it and the nearest known one.
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
			return unknownOption(o, k, has)
		}
		if err != nil {
			return fmt.Errorf("mount option %s: %w", o, err)
		}
	}
	return nil
}

// unknownOption says what is wrong with an option that parse does not take.
func unknownOption(o, k string, has bool) error {
	known := func(lists ...[]string) bool {
		return slices.ContainsFunc(lists, func(l []string) bool { return slices.Contains(l, k) })
	}
	switch {
	case k == "remount":
		return fmt.Errorf("mount option remount is not supported: unmount, and mount again with the other options")
	case !has && known(valued):
		return fmt.Errorf("mount option %s: wants a value, %s=...", o, k)
	case has && known(flags, passed):
		return fmt.Errorf("mount option %s: %s takes no value", o, k)
	}
	if n, d := nearest(k); d <= max(1, len(k)/3) {
		return fmt.Errorf("unknown mount option %q, nearest is %q", o, n)
	}
	return fmt.Errorf("unknown mount option %q: inlinefs mount --help lists those that are known", o)
}

func (c *mountConfig) setFlag(k string) {
	switch k {
	case "ro", "rw":
		c.ro = k == "ro"
	case "norecovery", "noload":
		c.noRecovery = true
	case "sync", "async":
		c.sync = k == "sync"
	case "dirsync":
		c.dirSync = true
	case "noacl", "acl":
		c.noACL = k == "noacl"
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
		if c.logLevel = v; (&slog.LevelVar{}).UnmarshalText([]byte(v)) != nil {
			err = fmt.Errorf("want debug, info, warn or error")
		}
	case "errors":
		m := map[string]uint16{"continue": ondisk.ErrorsContinue, "remount-ro": ondisk.ErrorsRO, "panic": ondisk.ErrorsPanic}
		if c.errors = m[v]; c.errors == 0 {
			err = fmt.Errorf("want continue, remount-ro or panic")
		}
	case "mmap":
		if c.mmap = fs.MmapMode(v); !slices.Contains(fs.MmapModes, c.mmap) {
			err = fmt.Errorf("want one of %q", fs.MmapModes)
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
		if c.window, err = time.ParseDuration(v); err != nil || c.window < 0 || c.window > time.Second {
			err = fmt.Errorf("want 0 to 1s, as in 500us or 2ms")
		}
	case "commit":
		var n uint64
		if n, err = strconv.ParseUint(v, 10, 16); err != nil {
			return fmt.Errorf("want whole seconds, 0 (the default, 5) to 65535")
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

// nearest is the known option with the smallest edit distance, and that distance.
func nearest(k string) (best string, at int) {
	at = 1 << 30
	for _, l := range [][]string{flags, valued, passed, ignored} {
		for _, o := range l {
			if d := distance(k, o); d < at {
				best, at = o, d
			}
		}
	}
	return best, at
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
