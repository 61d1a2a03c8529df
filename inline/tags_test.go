package inline_test

import (
	"go/ast"
	"go/build"
	"go/parser"
	"go/token"
	"go/types"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"inlinefs/inline"
)

// defaults type-checks the files that choose the default strategy under the given build tags.
func defaults(t *testing.T, tags ...string) (*types.Package, error) {
	t.Helper()
	ctx := build.Default
	ctx.BuildTags = tags
	p, err := ctx.ImportDir(".", 0)
	if err != nil {
		t.Fatal(err)
	}
	fset := token.NewFileSet()
	var files []*ast.File
	for _, name := range p.GoFiles {
		if !strings.HasPrefix(name, "default_") {
			continue
		}
		f, err := parser.ParseFile(fset, name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
	}
	return (&types.Config{}).Check("inline", fset, files, nil)
}

// TestTagsChoose: each tag NAME_conversion makes NAME the default, and no two go together.
func TestTagsChoose(t *testing.T) {
	names := inline.Names()
	if len(names) != 9 {
		t.Fatalf("%d strategies: %v", len(names), names)
	}
	for k, a := range names {
		p, err := defaults(t, a+"_conversion")
		if err != nil {
			t.Errorf("%s_conversion: %v", a, err)
			continue
		}
		c, ok := p.Scope().Lookup("DefaultName").(*types.Const)
		if !ok || c.Val().ExactString() != `"`+a+`"` {
			t.Errorf("%s_conversion: DefaultName is %v", a, c)
		}
		for _, b := range names[k+1:] {
			if _, err := defaults(t, a+"_conversion", b+"_conversion"); err == nil || !strings.Contains(err.Error(), "redeclared") {
				t.Errorf("%s_conversion with %s_conversion: want DefaultName redeclared, got %v", a, b, err)
			}
		}
	}
	if p, err := defaults(t); err != nil || p.Scope().Lookup("DefaultName") == nil {
		t.Errorf("without a tag: %v", err)
	}
}

// goBuild builds a package of the module under tags.
func goBuild(tags, pkg, out string) ([]byte, error) {
	args := []string{"build", "-tags", tags}
	if out != "" {
		args = append(args, "-o", out)
	}
	cmd := exec.Command("go", append(args, pkg)...)
	cmd.Dir = ".."
	return cmd.CombinedOutput()
}

// TestTwoTagsDoNotCompile asks the compiler.
func TestTwoTagsDoNotCompile(t *testing.T) {
	if _, err := exec.LookPath("go"); err != nil {
		t.Skip("no go command in PATH")
	}
	for _, tags := range []string{"mkwrite_conversion mmap_conversion", "flip_conversion flip_folio_conversion", "writepages_copy_conversion writepages_destroy_conversion"} {
		if text, err := goBuild(tags, "./inline", ""); err == nil || !strings.Contains(string(text), "DefaultName redeclared") {
			t.Errorf("-tags %q: want DefaultName redeclared, got %v: %s", tags, err, text)
		}
	}
}

// TestTagsBuild: each of the nine builds says its strategy.
func TestTagsBuild(t *testing.T) {
	if _, err := exec.LookPath("go"); err != nil {
		t.Skip("no go command in PATH")
	}
	names := inline.Names()
	if testing.Short() {
		names = []string{"mkwrite", "mmap"}
	}
	for _, name := range names {
		bin := filepath.Join(t.TempDir(), "inlinefs-"+name)
		if text, err := goBuild(name+"_conversion", "./cmd/inlinefs", bin); err != nil {
			t.Errorf("-tags %s_conversion: %v: %s", name, err, text)
			continue
		}
		text, err := exec.Command(bin, "version").CombinedOutput()
		if err != nil || !strings.Contains(string(text), "\nstrategy: "+name+"\n") {
			t.Errorf("-tags %s_conversion: version says %v: %s", name, err, text)
		}
	}
}
