// Package lint holds the project's own rules about its source: which package may import which (the table in ARCHITECTURE.md), how long
// files and functions may be, that every package is documented, that every field beside a lock says what protects it, how errors are
// worded, and that nothing is left marked as unfinished. Its test applies them to the whole module.
package lint

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// The limits of the length rules, in lines.
const (
	MaxFileLines = 600
	MaxFuncLines = 80
	// MaxTestFuncLines is the same for tests, whose tables are long.
	MaxTestFuncLines = 120
)

// Module is the import path of the module the rules are for.
const Module = "inlinefs"

// File is one parsed Go file, whatever its build tags.
type File struct {
	Path string // relative to the module's root, with slashes
	Test bool   // a _test.go file
	Fset *token.FileSet
	AST  *ast.File
	Text []byte
}

// Dir is the file's package directory, relative to the module's root; "." for the root.
func (f File) Dir() string { return path.Dir(f.Path) }

// at is "path:line: " and the message.
func (f File) at(pos token.Pos, format string, args ...any) string {
	return fmt.Sprintf("%s:%d: %s", f.Path, f.Fset.Position(pos).Line, fmt.Sprintf(format, args...))
}

// Parse parses one file of the given text.
func Parse(name string, text []byte) (File, error) {
	fset := token.NewFileSet()
	tree, err := parser.ParseFile(fset, name, text, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return File{}, err
	}
	return File{Path: name, Test: strings.HasSuffix(name, "_test.go"), Fset: fset, AST: tree, Text: text}, nil
}

// Load parses all Go files below root, but for testdata, vendor and hidden directories.
func Load(root string) ([]File, error) {
	var files []File
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() {
			if p != root && (name == "testdata" || name == "vendor" || name[0] == '.' || name[0] == '_') {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(name, ".go") || !d.Type().IsRegular() {
			return nil
		}
		text, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		f, err := Parse(filepath.ToSlash(rel), text)
		if err != nil {
			return err
		}
		files = append(files, f)
		return nil
	})
	return files, err
}

// Lengths finds files and functions over the limits.
func Lengths(files []File) []string {
	var found []string
	for _, f := range files {
		if n := strings.Count(string(f.Text), "\n"); n > MaxFileLines {
			found = append(found, fmt.Sprintf("%s: %d lines, want at most %d", f.Path, n, MaxFileLines))
		}
		for _, d := range f.AST.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok {
				continue
			}
			n := f.Fset.Position(fn.End()).Line - f.Fset.Position(fn.Pos()).Line + 1
			limit := MaxFuncLines
			if f.Test {
				limit = MaxTestFuncLines
			}
			if n > limit {
				found = append(found, f.at(fn.Pos(), "function %s has %d lines, want at most %d", fn.Name.Name, n, limit))
			}
		}
	}
	return found
}

// PackageDocs finds packages without a "Package NAME" comment ("Command NAME" in a main package).
func PackageDocs(files []File) []string {
	documented := map[string]bool{}
	for _, f := range files {
		if f.Test {
			continue
		}
		word := "Package " + f.AST.Name.Name + " "
		if f.AST.Name.Name == "main" {
			word = "Command "
		}
		has := f.AST.Doc != nil && strings.HasPrefix(strings.ReplaceAll(f.AST.Doc.Text(), "\n", " "), word)
		documented[f.Dir()] = documented[f.Dir()] || has
	}
	var found []string
	for _, dir := range slices.Sorted(maps.Keys(documented)) {
		if !documented[dir] {
			found = append(found, dir+": no package comment (Package NAME ..., or Command NAME ... for a program)")
		}
	}
	return found
}

// unfinished is the marks people leave at work to be done.
var unfinished = regexp.MustCompile(`\b(TODO|FIXME|XXX)\b`)

// Unfinished finds comments that mark work left to be done.
func Unfinished(files []File) []string {
	var found []string
	for _, f := range files {
		for _, group := range f.AST.Comments {
			for _, c := range group.List {
				if mark := unfinished.FindString(c.Text); mark != "" {
					found = append(found, f.at(c.Pos(), "comment says %s", mark))
				}
			}
		}
	}
	return found
}

// ErrorStrings finds errors made by errors.New or fmt.Errorf whose text starts with a capital (but for names such as EIO), says
// "failed to", or ends like a sentence.
func ErrorStrings(files []File) []string {
	var found []string
	for _, f := range files {
		ast.Inspect(f.AST, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok || len(call.Args) == 0 {
				return true
			}
			name := selector(call.Fun)
			if name != "errors.New" && name != "fmt.Errorf" {
				return true
			}
			text, ok := literal(call.Args[0])
			if !ok {
				return true
			}
			if why := wording(text); why != "" {
				found = append(found, f.at(call.Pos(), "error text %q %s", text, why))
			}
			return true
		})
	}
	return found
}

// wording says what is wrong with an error's text, "" for nothing.
func wording(text string) string {
	switch {
	case text == "":
		return "is empty"
	case strings.Contains(strings.ToLower(text), "failed to"):
		return `says "failed to"`
	case strings.HasSuffix(text, ".") && !strings.HasSuffix(text, "..."), strings.HasSuffix(text, "\n"), strings.HasSuffix(text, "!"):
		return "ends like a sentence"
	}
	word, _, _ := strings.Cut(text, " ")
	word = strings.TrimRight(word, ":,")
	// A name such as EIO, INIT or Task.Stop stands as it is.
	if word != "" && word[0] >= 'A' && word[0] <= 'Z' && (word == "A" || strings.ToLower(word[1:]) == word[1:] && !strings.ContainsAny(word, "._0123456789")) {
		return "starts with a capital"
	}
	return ""
}

// literal is the value of a string literal, or of literals joined by +.
func literal(e ast.Expr) (string, bool) {
	switch e := e.(type) {
	case *ast.BasicLit:
		if e.Kind != token.STRING {
			return "", false
		}
		s, err := strconv.Unquote(e.Value)
		return s, err == nil
	case *ast.BinaryExpr:
		a, okA := literal(e.X)
		b, okB := literal(e.Y)
		return a + b, okA && okB && e.Op == token.ADD
	}
	return "", false
}

// selector is "pkg.Name" for such an expression, else "".
func selector(e ast.Expr) string {
	s, ok := e.(*ast.SelectorExpr)
	if !ok {
		return ""
	}
	x, ok := s.X.(*ast.Ident)
	if !ok {
		return ""
	}
	return x.Name + "." + s.Sel.Name
}
