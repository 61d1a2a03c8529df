package stress

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const workerEnv = "INLINEFS_STRESS_WORKER"

// TestMain makes the test binary a worker when the environment says so.
func TestMain(m *testing.M) {
	if os.Getenv(workerEnv) == "1" {
		if err := WorkerMain(os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// plainDir is a directory of the host which is not on ext4: there the race is the kernel's own.
func plainDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if refuseHostExt4(dir, false) == nil {
		return dir
	}
	shm, err := os.MkdirTemp("/dev/shm", "stress-test")
	if err != nil {
		t.Skipf("temporary directory %s is on ext4, and /dev/shm: %v", dir, err)
	}
	t.Cleanup(func() { os.RemoveAll(shm) })
	if err := refuseHostExt4(shm, false); err != nil {
		t.Skipf("no directory that is not on ext4: %v", err)
	}
	return shm
}

func plainConfig(t *testing.T) Config {
	return Config{
		Mountpoint: plainDir(t), Iterations: 5, Seed: 7, Writes: 20, Announce: true, HangAfter: 5 * time.Minute,
		WorkerCommand: []string{os.Args[0]}, WorkerEnv: []string{workerEnv + "=1"},
	}
}

func TestRunOnPlainDirectory(t *testing.T) {
	tests := []struct {
		name                   string
		scenario               string
		files, writers, mapper int
	}{
		{name: "one pair"},
		{name: "one process", scenario: "one-process"},
		{name: "mapped buffer", scenario: "mapped-buffer"},
		{name: "mapped buffer crosswise", scenario: "mapped-buffer,two-files"},
		{name: "late open", scenario: "mapped-buffer,two-files,late-open"},
		{name: "two on one file", files: 1, writers: 2, mapper: 2},
		{name: "all at once", scenario: "mapped-buffer,two-files,one-process", files: 2, writers: 2, mapper: 3},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := plainConfig(t)
			c.Scenario, c.Files, c.Writers, c.Mappers = tt.scenario, tt.files, tt.writers, tt.mapper
			res, err := Run(context.Background(), c)
			if err != nil {
				t.Fatal(err)
			}
			if !res.Clean() || res.ExitCode() != 0 {
				t.Errorf("not clean:\n%s", res.Summary())
			}
			if res.Iterations != 5 || res.Writes == 0 || res.Faults == 0 || res.LatencyUS.Write.Max == 0 {
				t.Errorf("iterations %d, writes %d, faults %d, latency %+v", res.Iterations, res.Writes, res.Faults, res.LatencyUS)
			}
			if len(res.Errors) != 0 {
				t.Errorf("errors %v, want none", res.Errors)
			}
			left, err := os.ReadDir(c.Mountpoint)
			if err != nil || len(left) != 0 {
				t.Errorf("left behind: %v, %v", left, err)
			}
		})
	}
}

// TestSiblingsOnPlainDirectory: none of the races beside the main one finds anything where nothing is wrong.
func TestSiblingsOnPlainDirectory(t *testing.T) {
	for _, s := range Siblings() {
		t.Run(s.Name, func(t *testing.T) {
			c := plainConfig(t)
			c.Scenario = s.Name
			c.Writes = 0
			res, err := Run(context.Background(), c)
			if err != nil {
				t.Fatal(err)
			}
			want := Shape{Base: ScenarioMountpoint, Sibling: s.Name, OneProcess: s.OneProcess}.String()
			if res.Iterations != 5 || res.Writes == 0 || res.Scenario != want {
				t.Errorf("scenario %s, iterations %d, writes %d", res.Scenario, res.Iterations, res.Writes)
			}
			for key := range res.Errors {
				// What a temporary directory may not have.
				if call, errno, _ := strings.Cut(key, ":"); errno != "ENOTSUP" && errno != "EOPNOTSUPP" && errno != "EFBIG" && call != "gup" {
					t.Errorf("errors %v", res.Errors)
				}
			}
			delete(res.Violations, ClassUnexpected)
			if !res.Clean() {
				t.Errorf("not clean:\n%s", res.Summary())
			}
		})
	}
}

func TestRunEndsWithContext(t *testing.T) {
	c := plainConfig(t)
	c.Iterations = 0
	c.Duration = time.Hour
	ctx, cancel := context.WithCancel(context.Background())
	go cancel()
	res, err := Run(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	if res.ExitCode() != 0 || res.Bounds.DurationS != 3600 {
		t.Errorf("exit code %d, bounds %+v", res.ExitCode(), res.Bounds)
	}
}

func TestRunRefusesStrategyOfNoMount(t *testing.T) {
	c := plainConfig(t)
	c.Strategy = "mmap"
	_, err := Run(context.Background(), c)
	var exit *ExitError
	if !errors.As(err, &exit) || exit.Code != ExitUsage {
		t.Fatalf("error %v, want an ExitError of code %d", err, ExitUsage)
	}
}

func TestRunReportsDeadWorker(t *testing.T) {
	c := plainConfig(t)
	c.WorkerCommand = []string{"/bin/sh", "-c", "echo gone >&2; exit 9"}
	_, err := Run(context.Background(), c)
	if err == nil {
		t.Fatal("no error though all workers died")
	}
}

func TestRunSeesHang(t *testing.T) {
	c := plainConfig(t)
	// Workers that read their configuration and then do nothing for good.
	c.WorkerCommand = []string{"/bin/sh", "-c", "cat >/dev/null"}
	c.HangAfter = 300 * time.Millisecond
	res, err := Run(context.Background(), c)
	if err != nil {
		t.Fatal(err)
	}
	if res.ExitCode() != ExitHang || res.Violations[ClassHang] != 1 || res.FirstViolation == nil || res.FirstViolation.Class != ClassHang {
		t.Errorf("exit code %d, violations %v, first %+v, want a hang", res.ExitCode(), res.Violations, res.FirstViolation)
	}
}

func TestWorkerRefusesConfiguration(t *testing.T) {
	for name, text := range map[string]string{
		"empty":         "",
		"not JSON":      "hello",
		"schema":        `{"schema":99}`,
		"no workers":    `{"schema":1,"params":{"files":1,"writers":1}}`,
		"worker number": `{"schema":1,"workers":[5],"params":{"files":1,"writers":1,"mappers":1}}`,
		"files":         `{"schema":1,"workers":[0],"params":{"files":50,"writers":1,"mappers":1}}`,
	} {
		if err := WorkerMain(strings.NewReader(text), &bytes.Buffer{}); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestWorkerProtocolRoundTrip(t *testing.T) {
	h := newHist()
	for i := range int64(1000) {
		if err := h.RecordValue(histMin + i*1000); err != nil {
			t.Fatal(err)
		}
	}
	text, err := encodeHist(h)
	if err != nil {
		t.Fatal(err)
	}
	in := workerResult{Schema: workerSchema, Workers: []workerOut{{ID: 3, Write: text, Fault: text, Errors: map[string]int64{"write:EIO": 2}}}}
	raw, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	var out workerResult
	if err := json.Unmarshal(raw, &out); err != nil {
		t.Fatal(err)
	}
	got, err := decodeHist(out.Workers[0].Write)
	if err != nil {
		t.Fatal(err)
	}
	if got.TotalCount() != 1000 || got.ValueAtQuantile(50) != h.ValueAtQuantile(50) || out.Workers[0].Errors["write:EIO"] != 2 {
		t.Errorf("count %d, median %d want %d", got.TotalCount(), got.ValueAtQuantile(50), h.ValueAtQuantile(50))
	}
	if _, err := decodeHist("%%%"); err == nil {
		t.Error("no error for a histogram that is none")
	}
}

func TestBarrierMeetsAndBreaks(t *testing.T) {
	sh, f, err := newShared()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const parties, rounds = 4, 200
	var wg sync.WaitGroup
	var mu sync.Mutex
	count := 0
	for range parties {
		wg.Go(func() {
			for r := range rounds {
				mu.Lock()
				count++
				mu.Unlock()
				if err := sh.wait(parties); err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				if count < (r+1)*parties {
					t.Errorf("left barrier %d when %d had come", r, count)
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	broke := make(chan error)
	go func() { broke <- sh.wait(parties) }()
	sh.breakOff()
	if err := <-broke; !errors.Is(err, errBroken) {
		t.Errorf("error %v, want %v", err, errBroken)
	}
	if err := sh.wait(parties); !errors.Is(err, errBroken) {
		t.Errorf("after: error %v, want %v", err, errBroken)
	}
}

// TestGuardCountsSigbus touches a mapping whose file has shrunk to nothing.
func TestGuardCountsSigbus(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Open(path, unix.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	mem, err := unix.Mmap(fd, 0, os.Getpagesize(), rightsShared, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(mem)
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	w := &worker{me: &slot{}}
	if w.guard(func() { load(mem, 0) }) || w.guard(func() { save(mem, 8, 1) }) {
		t.Error("no fault seen beyond the end of a file")
	}
	if n := w.me.sigbus.Load(); n != 2 {
		t.Errorf("counted %d, want 2", n)
	}
	if !w.guard(func() {}) {
		t.Error("a fault where none is")
	}
}

// TestReadBackSeesLoss changes a file behind the worker's back.
func TestReadBackSeesLoss(t *testing.T) {
	p := params{Seed: 1, Writers: 1, Mappers: 1, Files: 1, Writes: 1}
	w := &worker{c: &workerConfig{Dir: t.TempDir()}, p: p, me: &slot{}, write: newHist(), fault: newHist(), round: 1, seq: firstSeq}
	w.lay = p.layout(1, 0)
	w.first, w.count = w.lay.chunk(0)
	w.path = filepath.Join(w.c.Dir, fileName(1, 0))
	w.sh = &shared{}
	w.out = workerOut{Errors: map[string]int64{}, Findings: map[string]int64{}, FirstAt: map[string]float64{}}
	if w.makeFile() != 1 || !w.open() {
		t.Fatalf("file not made: %v", w.out.Errors)
	}
	defer unix.Close(w.fd)
	w.writeOne(w.first)
	v := w.me.cells[w.first].acked.Load()
	w.look(w.first, v, "read", nil)
	if len(w.out.Findings) != 0 {
		t.Fatalf("findings %v for the right value", w.out.Findings)
	}
	w.look(w.first, stamp(0, 1, 0), "read", nil)
	w.look(w.first, binary.LittleEndian.Uint64([]byte("foreign!")), "read", nil)
	if w.out.Findings[ClassLostWrite] != 1 || w.out.Findings[classMismatch] != 1 || w.out.First.Class != ClassLostWrite {
		t.Errorf("findings %v, first %+v", w.out.Findings, w.out.First)
	}
}
