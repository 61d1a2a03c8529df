package lint

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// root is the module's directory, two above this package's.
func root(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "go.mod")); err != nil {
		t.Skipf("needs the module's source: %v", err)
	}
	return dir
}

func TestModule(t *testing.T) {
	files, err := Load(root(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, rule := range []struct {
		name  string
		check func([]File) []string
	}{
		{"lengths", Lengths},
		{"package docs", PackageDocs},
		{"locked fields", LockedFields},
		{"error strings", ErrorStrings},
		{"unfinished", Unfinished},
	} {
		t.Run(rule.name, func(t *testing.T) {
			for _, s := range rule.check(files) {
				t.Error(s)
			}
		})
	}
}

func TestImportsTable(t *testing.T) {
	dir := root(t)
	text, err := os.ReadFile(filepath.Join(dir, "ARCHITECTURE.md"))
	if errors.Is(err, os.ErrNotExist) {
		t.Skip("needs ARCHITECTURE.md with the imports table")
	}
	if err != nil {
		t.Fatal(err)
	}
	files, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	actual := Imports(files)
	allowed, err := ParseTable(string(text))
	if err != nil {
		t.Fatalf("ARCHITECTURE.md: %v; the module's imports are\n%s", err, actual)
	}
	found := allowed.Check(actual)
	for _, s := range found {
		t.Error(s)
	}
	if len(found) > 0 {
		t.Logf("the module's imports are\n%s", actual)
	}
}

func parse(t *testing.T, name, text string) []File {
	t.Helper()
	f, err := Parse(name, []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return []File{f}
}

func expect(t *testing.T, got []string, want ...string) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%d findings %q, want %d", len(got), got, len(want))
	}
	for i, w := range want {
		if !strings.Contains(got[i], w) {
			t.Errorf("finding %d: %q, want it to contain %q", i, got[i], w)
		}
	}
}

func TestLengths(t *testing.T) {
	long := "package p\n\nfunc f() {\n" + strings.Repeat("\n", MaxFuncLines-1) + "}\n"
	expect(t, Lengths(parse(t, "a.go", long)), "function f has 81 lines")
	expect(t, Lengths(parse(t, "a.go", strings.Replace(long, "\n\n}", "\n}", 1))))
	expect(t, Lengths(parse(t, "a.go", "package p\n"+strings.Repeat("\n", MaxFileLines))), "601 lines")
}

func TestPackageDocs(t *testing.T) {
	expect(t, PackageDocs(parse(t, "a/b.go", "package a\n")), "a: no package comment")
	expect(t, PackageDocs(parse(t, "a/b.go", "// Package a does it.\npackage a\n")))
	expect(t, PackageDocs(parse(t, "cmd/x/main.go", "// Command x runs.\npackage main\n")))
	expect(t, PackageDocs(parse(t, "a/b_test.go", "package a\n")))
}

func TestLockedFields(t *testing.T) {
	expect(t, LockedFields(parse(t, "a.go", `package a
import "sync"
type good struct {
	mu   sync.Mutex
	n    int // guarded by mu
	name string // immutable
	c    atomic.Int64
	p    atomic.Pointer[int]

	// Guarded by mu:
	x int
	y int // a count
}
type free struct { a, b int }
type bad struct {
	a  int
	mu lock.RWMutex

	// guarded by mu
	b int

	c int
}
`)), "field bad.a", "field bad.c")
}

func TestErrorStrings(t *testing.T) {
	for text, want := range map[string]string{
		"block %d: out of range":    "",
		"EIO from block %d":         "",
		"Task.Stop without a Start": "",
		"Block is bad":              "starts with a capital",
		"A block is bad":            "starts with a capital",
		"failed to read":            "failed to",
		"it broke.":                 "ends like a sentence",
		"":                          "is empty",
	} {
		if got := wording(text); want == "" && got != "" || !strings.Contains(got, want) {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
	expect(t, ErrorStrings(parse(t, "a.go", "package a\nvar e = errors.New(\"Bad \" + \"thing\")\n")), "a.go:2: ")
}

func TestUnfinished(t *testing.T) {
	mark := "TO" + "DO"
	expect(t, Unfinished(parse(t, "a.go", "package a\n\n// "+mark+": more\nvar x = 1\n")), "a.go:3: comment says "+mark)
	expect(t, Unfinished(parse(t, "a.go", "package a\n\nvar x = \""+mark+"\"\n")))
}

func TestTable(t *testing.T) {
	text := "# A\n\n```imports\nfs: inline dir # the top\ninline:\ndir: inline\ngone: fs\n```\n"
	table, err := ParseTable(text)
	if err != nil {
		t.Fatal(err)
	}
	actual := Table{"fs": {"dir", "inline"}, "inline": {"fs"}, "dir": nil, "new": nil}
	expect(t, table.Check(actual), "inline imports fs", "new: not in", "gone: in the imports table, but")
	for _, bad := range []string{"", "```imports\nfs: a\n", "```imports\nfs\n```\n", "```imports\nfs: a\nfs: b\n```\n"} {
		if _, err := ParseTable(bad); err == nil {
			t.Errorf("table %q: no error", bad)
		}
	}
	files := parse(t, "fs/a.go", "package fs\nimport (\n\"os\"\n\"inlinefs/dir\"\n)\n")
	if got, want := Imports(files).String(), "fs: dir\n"; got != want {
		t.Errorf("imports %q, want %q", got, want)
	}
}
