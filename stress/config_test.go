package stress

import (
	"errors"
	"strings"
	"testing"
	"time"
)

func TestParseScenario(t *testing.T) {
	for in, want := range map[string]string{
		"seed":                             "seed",
		"enospc,mapped-buffer":             "enospc,mapped-buffer",
		"two-files, healthy,one-process":   "healthy,two-files,one-process",
		"healthy,two-processes":            "healthy",
		"":                                 "",
		"seed,healthy":                     "!two images",
		"seed,quickly":                     `!"quickly"`,
		"seed,one-process,two-processes":   "!one process",
		"mapped-buffer,two-files,seed":     "seed,mapped-buffer,two-files",
		"mountpoint,mapped-buffer":         "mountpoint,mapped-buffer",
		"image":                            "image",
		"late-open,healthy":                "healthy,late-open",
		"seed,two-processes,mapped-buffer": "seed,mapped-buffer",
		"write-fallocate":                  ",write-fallocate",
		"seek-hole,enospc,one-process":     "enospc,seek-hole,one-process",
		"seek-hole,map-only":               "!two races",
		"seek-hole,two-files":              "!own files",
	} {
		sh, err := ParseScenario(in)
		if wrong, bad := strings.CutPrefix(want, "!"); bad {
			if err == nil || !strings.Contains(err.Error(), wrong) {
				t.Errorf("%q: error %v, want one with %q", in, err, wrong)
			}
			continue
		}
		if err != nil || sh.String() != want {
			t.Errorf("%q: %q, %v, want %q", in, sh, err, want)
		}
	}
}

func TestConfigDefaults(t *testing.T) {
	c := Config{Seed: 3, Announce: true}
	if err := c.complete(); err != nil {
		t.Fatal(err)
	}
	if c.Scenario != "seed" || c.Duration != defaultRun || c.Writers != 1 || c.Mappers != 1 || c.Files != 1 || c.Writes != writesInline ||
		c.Mmap != "observe" || c.HangAfter != defaultHang {
		t.Errorf("defaults %+v", c)
	}
	want := "inlinefs stress --scenario seed --seed 3 --duration 20s --writers 1 --mappers 1 --files 1 --writes 200"
	if got := c.replay(); got != want {
		t.Errorf("replay %q, want %q", got, want)
	}
	c = Config{Scenario: "healthy,two-files", Iterations: 4, Window: time.Second, Strategy: "flip", Mmap: "cached", Journal: true}
	if err := c.complete(); err != nil {
		t.Fatal(err)
	}
	if c.Duration != 0 || c.Writers != 2 || c.Mappers != 2 || c.Writes != writesHealthy || c.HangAfter != defaultHang+4*time.Second {
		t.Errorf("defaults %+v", c)
	}
	want = "inlinefs stress --scenario healthy,two-files --seed 0 --iterations 4 --writers 2 --mappers 2 --files 2 --writes 24 --window 1s " +
		"--strategy flip --mmap cached --announce=false --journal"
	if got := c.replay(); got != want {
		t.Errorf("replay %q, want %q", got, want)
	}
}

func TestConfigOfSibling(t *testing.T) {
	for _, s := range Siblings() {
		c := Config{Scenario: s.Name, Conversion: "flip", Announce: true}
		if err := c.complete(); err != nil {
			t.Fatalf("%s: %v", s.Name, err)
		}
		if c.shape.Base != s.Base || c.Writers+c.Mappers != len(s.actors) || c.Writes != s.Turns || c.Strategy != "flip" || c.shape.OneProcess != s.OneProcess {
			t.Errorf("%s: completed to %+v", s.Name, c)
		}
		if got := c.replay(); !strings.HasPrefix(got, "inlinefs stress --scenario "+shellQuote(c.Scenario)) || !strings.Contains(got, "--conversion flip") {
			t.Errorf("%s: replay %q", s.Name, got)
		}
		// What replay says is what runs.
		again := Config{Scenario: c.Scenario, Writers: c.Writers, Mappers: c.Mappers, Files: c.Files}
		if err := again.complete(); err != nil || again.Scenario != c.Scenario {
			t.Errorf("%s: again %q, %v", s.Name, again.Scenario, err)
		}
	}
}

func TestConfigRefuses(t *testing.T) {
	for want, c := range map[string]Config{
		"unknown part":            {Scenario: "sed"},
		"only one of them":        {Image: "a", Mountpoint: "b"},
		"has one already":         {Mountpoint: "b", Scenario: "seed"},
		"for a new image":         {Image: "a", Journal: true},
		"needs a mountpoint":      {Scenario: "mountpoint"},
		"needs an image":          {Scenario: "image"},
		"two-files wants":         {Scenario: "two-files", Files: 1},
		"at most 4":               {Files: 5},
		"each file wants":         {Files: 2, Writers: 1},
		"at most 16":              {Writers: 9, Mappers: 9},
		"cells of 8 bytes":        {Scenario: "seed,mapped-buffer", Writers: 4, Mappers: 1},
		"none may be negative":    {Writers: -1},
		"duration -1s":            {Duration: -time.Second},
		"want observe, direct or": {Mmap: "maybe"},
		"writes -5 per round":     {Writes: -5},
		"mappers 3: scenario":     {Scenario: "seek-hole", Mappers: 3},
		"conversion flip is a":    {Conversion: "flip", Mountpoint: "b"},
		"journal is a choice f":   {Mountpoint: "b", Journal: true},
	} {
		err := c.complete()
		var exit *ExitError
		if !errors.As(err, &exit) || exit.Code != ExitUsage || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: error %v, want a usage error with %q", c, err, want)
		}
	}
}

func TestFsTypeOf(t *testing.T) {
	const info = `22 1 8:1 / / rw - ext4 /dev/sda1 rw
30 22 0:26 / /dev/shm rw,nosuid shared:3 - tmpfs tmpfs rw
31 22 0:27 / /mnt/with\040space rw - xfs /dev/sdb rw
32 22 0:28 / /over rw - ext4 /dev/sdc rw
33 32 0:29 / /over rw - fuse.inlinefs image rw
garbage
`
	for path, want := range map[string]string{
		"/home/x": "ext4", "/dev/shm": "tmpfs", "/dev/shm/a/b": "tmpfs", "/dev/shmem": "ext4", "/mnt/with space/f": "xfs", "/over/f": "fuse.inlinefs",
	} {
		if got, err := fsTypeOf(strings.NewReader(info), path); err != nil || got != want {
			t.Errorf("%s: %q, %v, want %q", path, got, err, want)
		}
	}
	if _, err := fsTypeOf(strings.NewReader(""), "/x"); !errors.Is(err, errNoMount) {
		t.Errorf("empty: error %v, want %v", err, errNoMount)
	}
}

func TestShellQuote(t *testing.T) {
	for in, want := range map[string]string{"a/b.img": "a/b.img", "": "''", "a b": "'a b'", "it's": `'it'\''s'`, "$x": "'$x'"} {
		if got := shellQuote(in); got != want {
			t.Errorf("%q: %s, want %s", in, got, want)
		}
	}
}

func TestExitError(t *testing.T) {
	inner := errors.New("inner")
	err := error(&ExitError{Code: 3, Err: inner})
	if !errors.Is(err, inner) || err.Error() != "inner" {
		t.Errorf("error %v", err)
	}
	if e := (&ExitError{Code: 4}); e.Error() != "" || e.ExitCode() != 4 {
		t.Errorf("text %q, code %d, want none and 4", e, e.ExitCode())
	}
}
