package stress

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Exit codes of stress and compare.
const (
	ExitViolation = 1 // a rule was broken, or an expectation was not met
	ExitUsage     = 2 // the command line asks for something that does not exist or does not fit together
	ExitMissing   = 3 // this machine lacks something, named in the error
	ExitHang      = 4 // nothing moved for the time of the watchdog
)

// ExitError is an error with the exit code that the process ends with. Err may be nil: then all has been said already.
type ExitError struct {
	Code int
	Err  error
}

// Error gives the text of the error within, nothing when there is none.
func (e *ExitError) Error() string {
	if e.Err == nil {
		return ""
	}
	return e.Err.Error()
}

// ExitCode is the process's exit code.
func (e *ExitError) ExitCode() int { return e.Code }

// Unwrap gives the error within.
func (e *ExitError) Unwrap() error { return e.Err }

func usagef(format string, args ...any) error {
	return &ExitError{Code: ExitUsage, Err: fmt.Errorf(format, args...)}
}

func missingf(format string, args ...any) error {
	return &ExitError{Code: ExitMissing, Err: fmt.Errorf(format, args...)}
}

// Names of the scenarios. ScenarioImage and ScenarioMountpoint are what a given image or mount is called when no name is given.
const (
	ScenarioSeed       = "seed"
	ScenarioEnospc     = "enospc"
	ScenarioHealthy    = "healthy"
	ScenarioImage      = "image"
	ScenarioMountpoint = "mountpoint"
)

// Shape is a scenario taken apart.
type Shape struct {
	// Base is the image: one of the Scenario names.
	Base string
	// MappedBuffer: some writes take their bytes out of a shared mapping of the mount, so that the write itself faults.
	MappedBuffer bool
	// TwoFiles: two pairs of workers on two files; with MappedBuffer each writes its file out of a mapping of the other.
	TwoFiles bool
	// LateOpen: appends, and mappings that writes take their bytes from, go through descriptors opened in the middle of the race. A
	// mount may serve those out of the page cache while it observes the earlier ones.
	LateOpen bool
	// OneProcess: the workers are threads of one process and share its address space.
	OneProcess bool
	// Sibling is the race beside the main one that is run, empty: the main one.
	Sibling string
}

// ParseScenario reads "seed", "healthy,mapped-buffer,two-files" and the like. Modifiers: mapped-buffer, two-files, late-open,
// one-process, two-processes (the default). An unknown name is an error naming it.
func ParseScenario(s string) (Shape, error) {
	var sh Shape
	var two bool
	for _, part := range strings.Split(s, ",") {
		switch part = strings.TrimSpace(part); part {
		case ScenarioSeed, ScenarioEnospc, ScenarioHealthy, ScenarioImage, ScenarioMountpoint:
			if sh.Base != "" {
				return Shape{}, fmt.Errorf("scenario %q names two images: %s and %s", s, sh.Base, part)
			}
			sh.Base = part
		case "mapped-buffer":
			sh.MappedBuffer = true
		case "two-files":
			sh.TwoFiles = true
		case "late-open":
			sh.LateOpen = true
		case "one-process":
			sh.OneProcess = true
		case "two-processes":
			two = true
		case "":
		default:
			if siblingByName(part) == nil {
				return Shape{}, fmt.Errorf("scenario %q: unknown part %q, want seed, enospc or healthy, and mapped-buffer, two-files, late-open, "+
					"one-process or two-processes, or one of %s", s, part, strings.Join(siblingNames(), ", "))
			}
			if sh.Sibling != "" {
				return Shape{}, fmt.Errorf("scenario %q names two races: %s and %s", s, sh.Sibling, part)
			}
			sh.Sibling = part
		}
	}
	if sh.Sibling != "" && (sh.MappedBuffer || sh.TwoFiles || sh.LateOpen) {
		return Shape{}, fmt.Errorf("scenario %q: %s has its own files and buffers, mapped-buffer, two-files and late-open do not go with it", s, sh.Sibling)
	}
	if two && sh.OneProcess {
		return Shape{}, fmt.Errorf("scenario %q asks for one process and for two", s)
	}
	return sh, nil
}

// String gives the scenario in the form that ParseScenario reads.
func (s Shape) String() string {
	out := s.Base
	if s.Sibling != "" {
		out += "," + s.Sibling
	}
	if s.MappedBuffer {
		out += ",mapped-buffer"
	}
	if s.TwoFiles {
		out += ",two-files"
	}
	if s.LateOpen {
		out += ",late-open"
	}
	if s.OneProcess {
		out += ",one-process"
	}
	return out
}

// Config says what a campaign does. Run fills in what is zero.
type Config struct {
	Scenario   string        // see ParseScenario; empty: seed, or what Image and Mountpoint say
	Image      string        // image to mount (in place), empty: make one
	Mountpoint string        // directory of a mounted file system to work in, instead of an image
	Strategy   string        // refuse a mount that runs another strategy; empty: any
	Duration   time.Duration // end after this time; 0 with Iterations 0: 20 s
	Iterations int64         // end after so many rounds; 0: no such bound
	Seed       uint64        // all choices follow from it; the schedule does not
	Writers    int           // 0: one per file
	Mappers    int           // 0: one per file
	Files      int           // files per round; 0: 1, or 2 with two-files
	Writes     int           // writes per writer and round; 0: by scenario
	Window     time.Duration // mount option window: widens the race; 0: not at all
	Announce   bool          // announce each mmap to the mount
	Journal    bool          // make the image with a journal
	Keep       bool          // leave image and work directory behind

	// Mmap is the mount option mmap: observe (default), direct or cached. With cached no file changes its size: the kernel loses bytes
	// that are appended beside a mapping on every FUSE file system (docs/fuse-append.md), so that such a loss convicts nobody.
	Mmap string

	// Conversion is the mount option conversion: the strategy to mount with, empty: the build's own.
	Conversion string
	// Until are classes without which the campaign goes on past Duration, up to AtMost. Expected takes them from the expectation of
	// the mount's strategy.
	Until    []string
	AtMost   time.Duration
	Expected bool

	// KnowsItCrashes allows a directory on an ext4 of the host's kernel, where the race may stop the machine.
	KnowsItCrashes bool

	Binary        string        // the program to mount and check with; empty: this one
	WorkerCommand []string      // the worker's command line; empty: Binary stress worker
	WorkerEnv     []string      // added to the worker's environment
	HangAfter     time.Duration // watchdog; 0: 30 s and 4 windows
	Progress      io.Writer     // progress lines; nil: none
	Terminal      bool          // Progress is a terminal: one line, rewritten

	shape     Shape
	keepFiles bool // the image is there to be read once it is unmounted
}

const (
	maxWorkers     = 16
	maxFiles       = 4
	maxBaseCells   = 12
	defaultRun     = 20 * time.Second
	defaultAtMost  = 30 * time.Second
	defaultHang    = 30 * time.Second
	writesInline   = 200 // the file stays inline however long it is raced
	writesHealthy  = 24  // the first fault converts the file; more writes show little
	maxWritesRound = 100000
)

// complete checks the configuration and fills in the defaults. Errors are usage errors.
func (c *Config) complete() error {
	sh, err := ParseScenario(c.Scenario)
	if err != nil {
		return usagef("%w", err)
	}
	if err := c.completeBase(&sh); err != nil {
		return err
	}
	if s := siblingByName(sh.Sibling); s != nil {
		sh.OneProcess = sh.OneProcess || s.OneProcess
		if err := c.completeSibling(s); err != nil {
			return err
		}
	} else if err := c.completeWorkers(sh); err != nil {
		return err
	}
	if c.Duration < 0 || c.Iterations < 0 || c.Window < 0 {
		return usagef("duration %s, iterations %d, window %s: none may be negative", c.Duration, c.Iterations, c.Window)
	}
	if c.Duration == 0 && c.Iterations == 0 {
		c.Duration = defaultRun
	}
	if c.AtMost == 0 {
		c.AtMost = defaultAtMost
	}
	if c.Strategy == "" {
		c.Strategy = c.Conversion
	}
	if c.Conversion != "" && c.Mountpoint != "" {
		return usagef("conversion %s is a choice for a new mount, mountpoint %s has one already", c.Conversion, c.Mountpoint)
	}
	if c.HangAfter == 0 {
		c.HangAfter = defaultHang + 4*c.Window
	}
	switch c.Mmap {
	case "":
		c.Mmap = "observe"
	case "observe", "direct", "cached":
	default:
		return usagef("mmap %q: want observe, direct or cached", c.Mmap)
	}
	if c.Writes == 0 {
		c.Writes = writesInline
		if s := siblingByName(sh.Sibling); s != nil {
			c.Writes = s.Turns
		} else if sh.Base == ScenarioHealthy || sh.Base == ScenarioMountpoint {
			c.Writes = writesHealthy
		}
	}
	if c.Writes < 0 || c.Writes > maxWritesRound {
		return usagef("writes %d per round: want 1 to %d", c.Writes, maxWritesRound)
	}
	c.shape = sh
	c.Scenario = sh.String()
	return c.completeCommands()
}

func (c *Config) completeBase(sh *Shape) error {
	switch {
	case c.Image != "" && c.Mountpoint != "":
		return usagef("image %s and mountpoint %s: only one of them can be stressed", c.Image, c.Mountpoint)
	case c.Mountpoint != "":
		if sh.Base != "" && sh.Base != ScenarioMountpoint {
			return usagef("scenario %s makes an image, mountpoint %s has one already", sh.Base, c.Mountpoint)
		}
		if c.Journal {
			return usagef("journal is a choice for a new image, mountpoint %s has one already", c.Mountpoint)
		}
		sh.Base = ScenarioMountpoint
	case c.Image != "":
		if sh.Base == "" {
			sh.Base = ScenarioImage
		}
		if c.Journal {
			return usagef("journal is a choice for a new image, %s is one already", c.Image)
		}
	case sh.Base == "":
		sh.Base = ScenarioSeed
		if s := siblingByName(sh.Sibling); s != nil {
			sh.Base = s.Base
		}
	}
	if sh.Base == ScenarioMountpoint && c.Mountpoint == "" {
		return usagef("scenario %s needs a mountpoint", sh.Base)
	}
	if sh.Base == ScenarioImage && c.Image == "" {
		return usagef("scenario %s needs an image", sh.Base)
	}
	return nil
}

// completeSibling takes the workers of a sibling race, which are what they are.
func (c *Config) completeSibling(s *Sibling) error {
	for _, n := range []struct {
		name string
		have *int
		want int
	}{{"writers", &c.Writers, s.writers()}, {"mappers", &c.Mappers, len(s.actors) - s.writers()}, {"files", &c.Files, 1}} {
		if *n.have != 0 && *n.have != n.want {
			return usagef("%s %d: scenario %s has %d", n.name, *n.have, s.Name, n.want)
		}
		*n.have = n.want
	}
	return nil
}

func (c *Config) completeWorkers(sh Shape) error {
	if c.Writers < 0 || c.Mappers < 0 || c.Files < 0 {
		return usagef("writers %d, mappers %d, files %d: none may be negative", c.Writers, c.Mappers, c.Files)
	}
	if c.Files == 0 {
		c.Files = 1
		if sh.TwoFiles {
			c.Files = 2
		}
	}
	if c.Writers == 0 {
		c.Writers = c.Files
	}
	if c.Mappers == 0 {
		c.Mappers = c.Files
	}
	switch {
	case sh.TwoFiles && c.Files < 2:
		return usagef("files %d: two-files wants at least 2", c.Files)
	case c.Files > maxFiles:
		return usagef("files %d: want at most %d, the seed's image has room for few", c.Files, maxFiles)
	case c.Files > c.Writers || c.Files > c.Mappers:
		return usagef("files %d with %d writers and %d mappers: each file wants one of both", c.Files, c.Writers, c.Mappers)
	case c.Writers+c.Mappers > maxWorkers:
		return usagef("writers %d and mappers %d: want at most %d together", c.Writers, c.Mappers, maxWorkers)
	}
	p := params{Writers: c.Writers, Mappers: c.Mappers, Files: c.Files, MappedBuffer: sh.MappedBuffer}
	for f := range c.Files {
		if n := p.minCells(f); n > maxBaseCells {
			return usagef("writers %d and mappers %d on %d files want %d cells of 8 bytes in one inline file, room is for %d",
				c.Writers, c.Mappers, c.Files, n, maxBaseCells)
		}
	}
	return nil
}

func (c *Config) completeCommands() error {
	if c.Binary == "" {
		exe, err := os.Executable()
		if err != nil {
			return fmt.Errorf("path of this program: %w", err)
		}
		c.Binary = exe
	}
	if len(c.WorkerCommand) == 0 {
		c.WorkerCommand = []string{c.Binary, "stress", "worker"}
	}
	if c.Progress == nil {
		c.Progress = io.Discard
	}
	return nil
}

// replay is the command line that runs the campaign again.
func (c *Config) replay() string {
	args := []string{"inlinefs", "stress", "--scenario", shellQuote(c.Scenario), "--seed", strconv.FormatUint(c.Seed, 10)}
	add := func(flag, val string) { args = append(args, flag, val) }
	if c.Image != "" {
		add("--image", shellQuote(c.Image))
	}
	if c.Mountpoint != "" {
		add("--mountpoint", shellQuote(c.Mountpoint))
	}
	if c.Duration > 0 {
		add("--duration", c.Duration.String())
	}
	if c.Iterations > 0 {
		add("--iterations", strconv.FormatInt(c.Iterations, 10))
	}
	add("--writers", strconv.Itoa(c.Writers))
	add("--mappers", strconv.Itoa(c.Mappers))
	add("--files", strconv.Itoa(c.Files))
	add("--writes", strconv.Itoa(c.Writes))
	if c.Window > 0 {
		add("--window", c.Window.String())
	}
	if c.Conversion != "" {
		add("--conversion", shellQuote(c.Conversion))
	} else if c.Strategy != "" {
		add("--strategy", shellQuote(c.Strategy))
	}
	if c.Mmap != "observe" {
		add("--mmap", c.Mmap)
	}
	if !c.Announce {
		args = append(args, "--announce=false")
	}
	if c.Journal {
		args = append(args, "--journal")
	}
	return strings.Join(args, " ")
}

// shellQuote makes one word of s for a POSIX shell.
func shellQuote(s string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("/._-+:=@,", r)
	}
	if s != "" && strings.IndexFunc(s, func(r rune) bool { return !plain(r) }) < 0 {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// refuseHostExt4 refuses a directory on an ext4 that the host's kernel runs: there the race is the real one, and it stops machines.
func refuseHostExt4(dir string, allowed bool) error {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return fmt.Errorf("which file system holds %s: %w", dir, err)
	}
	defer f.Close()
	abs, err := filepath.Abs(dir)
	if err == nil {
		abs, err = filepath.EvalSymlinks(abs)
	}
	if err != nil {
		return usagef("mountpoint %s: %w", dir, err)
	}
	typ, err := fsTypeOf(f, abs)
	if err != nil {
		return err
	}
	if typ == "ext4" && !allowed {
		return usagef("mountpoint %s is on an ext4 of this machine's kernel, where this race can stop the machine; --i-know-it-crashes runs it all the same", dir)
	}
	return nil
}

var errNoMount = errors.New("no mount in mountinfo holds it")

// fsTypeOf finds the type of the file system that holds the absolute path, given the text of /proc/self/mountinfo.
func fsTypeOf(mountinfo io.Reader, path string) (string, error) {
	text, err := io.ReadAll(mountinfo)
	if err != nil {
		return "", fmt.Errorf("mountinfo: %w", err)
	}
	best, typ := -1, ""
	unescape := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	for _, line := range strings.Split(string(text), "\n") {
		head, tail, ok := strings.Cut(line, " - ")
		fields, after := strings.Fields(head), strings.Fields(tail)
		if !ok || len(fields) < 5 || len(after) < 1 {
			continue
		}
		mnt := unescape.Replace(fields[4])
		inside := mnt == "/" || path == mnt || strings.HasPrefix(path, mnt+"/")
		// Later lines are mounted over earlier ones at the same place.
		if inside && len(mnt) >= best {
			best, typ = len(mnt), after[0]
		}
	}
	if best < 0 {
		return "", fmt.Errorf("%s: %w", path, errNoMount)
	}
	return typ, nil
}

const defaultBlockSize = 4096

// blockSize is that of an image to be made, in bytes.
func (c *Config) blockSize() int {
	if s := siblingByName(c.shape.Sibling); s != nil && s.BlockSize != 0 {
		return s.BlockSize
	}
	return defaultBlockSize
}
