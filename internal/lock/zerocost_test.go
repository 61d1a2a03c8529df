//go:build !deadlock && !explore

package lock

import (
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

func TestPlainTypes(t *testing.T) {
	for _, p := range []struct{ got, want reflect.Type }{
		{reflect.TypeFor[Mutex](), reflect.TypeFor[sync.Mutex]()},
		{reflect.TypeFor[RWMutex](), reflect.TypeFor[sync.RWMutex]()},
		{reflect.TypeFor[Bool](), reflect.TypeFor[atomic.Bool]()},
	} {
		if p.got != p.want {
			t.Errorf("%s, want %s itself", p.got, p.want)
		}
	}
	if Checking || Exploring {
		t.Errorf("Checking %v, Exploring %v in the plain build", Checking, Exploring)
	}
}

// run runs a go command in the module's root.
func run(t *testing.T, args ...string) string {
	t.Helper()
	cmd := exec.Command("go", args...)
	cmd.Dir = "../.."
	var errs strings.Builder
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, errs.String())
	}
	return string(out)
}

func needsToolchain(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("builds binaries; not with -short")
	}
	if _, err := exec.LookPath("go"); err != nil {
		t.Skipf("needs the go command: %v", err)
	}
	if _, err := os.Stat("../../go.mod"); err != nil {
		t.Skipf("needs the module's source: %v", err)
	}
}

// foreign is what the other builds bring into a binary: their libraries, functions of this package ("T"), and its variables but for the
// classes, whose names the shadow of the client's locks prints in every build.
var foreign = regexp.MustCompile(`sasha-s/go-deadlock|petermattis/goid|inlinefs/internal/sched\b| [Tt] inlinefs/internal/lock\.| [BbDdRr] inlinefs/internal/lock\.`)

// class is such a variable.
var class = regexp.MustCompile(` [BbDd] inlinefs/internal/lock\.(\w+)\n?$`)

// TestNoSymbols: nothing of the checking builds is in the plain binary, and the same search finds them in the binaries that check.
func TestNoSymbols(t *testing.T) {
	needsToolchain(t)
	classes, err := os.ReadFile("class.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, tags := range []string{"", "deadlock", "explore"} {
		bin := filepath.Join(t.TempDir(), "inlinefs")
		run(t, "build", "-tags", tags, "-o", bin, "./cmd/inlinefs")
		var found []string
		for line := range strings.Lines(run(t, "tool", "nm", bin)) {
			m := class.FindStringSubmatch(line)
			isClass := m != nil && regexp.MustCompile(`(?m)^\t`+m[1]+` += &Class`).Match(classes)
			if foreign.MatchString(line) && !isClass {
				found = append(found, strings.TrimSpace(line))
			}
		}
		switch {
		case tags == "" && len(found) > 0:
			t.Errorf("the plain binary has %d symbols of the other builds, want none:\n%s", len(found), strings.Join(found, "\n"))
		case tags != "" && len(found) == 0:
			t.Errorf("-tags %s: no such symbol, want some: the search finds nothing", tags)
		}
	}
}

// section is a critical section with all that this package can be told about it; rawSection is the same with sync alone.
//
//go:noinline
func section(m *Mutex, rw *RWMutex, flag *Bool, n *int) {
	NameMutex(m, RawLock, 12)
	NameRW(rw, Rwsem, 12)
	NameBool(flag, "MAY_INLINE_DATA", 12)
	Enter(Trans, 0)
	rw.RLock()
	Reading(m)
	Touching(m, RawFlags)
	m.Lock()
	Point("alloc", 3)
	if !flag.Load() {
		*n++
	}
	ReadPoint("alloc", 3)
	m.Unlock()
	rw.RUnlock()
	Leave(Trans, 0)
}

//go:noinline
func rawSection(m *sync.Mutex, rw *sync.RWMutex, flag *atomic.Bool, n *int) {
	rw.RLock()
	m.Lock()
	if !flag.Load() {
		*n++
	}
	m.Unlock()
	rw.RUnlock()
}

// control is rawSection once more: how much two places of the same code differ.
//
//go:noinline
func control(m *sync.Mutex, rw *sync.RWMutex, flag *atomic.Bool, n *int) {
	rw.RLock()
	m.Lock()
	if !flag.Load() {
		*n++
	}
	m.Unlock()
	rw.RUnlock()
}

// addresses are the places in an instruction that depend on where the function stands.
var addresses = regexp.MustCompile(`0x[0-9a-f]+|(raw)?[sS]ection\b`)

// code is the function's instructions; no-operations and the padding behind it are only counted.
func code(t *testing.T, bin, fn string) (ins []string, nops int) {
	t.Helper()
	for line := range strings.Lines(run(t, "tool", "objdump", "-s", `^inlinefs/internal/lock\.`+fn+`$`, bin)) {
		f := strings.Split(strings.TrimSpace(line), "\t") // file:line, address, bytes, instruction, with empty columns between
		if len(f) < 4 || !strings.Contains(f[0], ".go:") {
			continue
		}
		op := f[len(f)-1]
		if strings.HasPrefix(op, "NOP") || op == "XCHGL AX, AX" || op == "INT $0x3" {
			nops++
			continue
		}
		ins = append(ins, addresses.ReplaceAllString(op, "@"))
	}
	if len(ins) == 0 {
		t.Fatalf("no code of %s in the test binary", fn)
	}
	return ins, nops
}

// TestSameCode: the compiler makes the same instructions of a section with and without names, points and pseudo-locks.
func TestSameCode(t *testing.T) {
	needsToolchain(t)
	bin := filepath.Join(t.TempDir(), "lock.test")
	run(t, "test", "-c", "-o", bin, "./internal/lock")
	got, n := code(t, bin, "section")
	want, m := code(t, bin, "rawSection")
	t.Logf("%d instructions, and %d no-operations; with sync alone %d and %d", len(got), n, len(want), m)
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("the code is\n%s\nand with sync alone\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// BenchmarkZeroCost is for scripts/zerocost.sh, which compares the three in turns.
func BenchmarkZeroCost(b *testing.B) {
	b.Run("sync", func(b *testing.B) {
		var m sync.Mutex
		var rw sync.RWMutex
		var flag atomic.Bool
		n := 0
		for b.Loop() {
			rawSection(&m, &rw, &flag, &n)
		}
	})
	b.Run("control", func(b *testing.B) {
		var m sync.Mutex
		var rw sync.RWMutex
		var flag atomic.Bool
		n := 0
		for b.Loop() {
			control(&m, &rw, &flag, &n)
		}
	})
	b.Run("lock", func(b *testing.B) {
		var m Mutex
		var rw RWMutex
		var flag Bool
		n := 0
		for b.Loop() {
			section(&m, &rw, &flag, &n)
		}
	})
}
