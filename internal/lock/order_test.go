package lock

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"regexp"
	"slices"
	"strconv"
	"testing"
)

// ordered is the classes of class.go as the source has them.
func ordered(t *testing.T) (names []string, ranks []int) {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), "class.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	ast.Inspect(f, func(n ast.Node) bool {
		lit, ok := n.(*ast.CompositeLit)
		if !ok {
			return true
		}
		if id, ok := lit.Type.(*ast.Ident); !ok || id.Name != "Class" {
			return true
		}
		for _, e := range lit.Elts {
			kv := e.(*ast.KeyValueExpr)
			b, ok := kv.Value.(*ast.BasicLit)
			if !ok {
				continue
			}
			switch kv.Key.(*ast.Ident).Name {
			case "Name":
				s, err := strconv.Unquote(b.Value)
				if err != nil {
					t.Fatal(err)
				}
				names = append(names, s)
			case "Rank":
				r, err := strconv.Atoi(b.Value)
				if err != nil {
					t.Fatal(err)
				}
				ranks = append(ranks, r)
			}
		}
		return true
	})
	return names, ranks
}

// TestOrderIsDocumented: fs/doc.go and class.go have the same classes in the same order, and the ranks ascend.
func TestOrderIsDocumented(t *testing.T) {
	names, ranks := ordered(t)
	if len(names) == 0 || len(names) != len(ranks) {
		t.Fatalf("class.go has %d names and %d ranks, want as many of each", len(names), len(ranks))
	}
	for k := 1; k < len(ranks); k++ {
		if ranks[k] <= ranks[k-1] {
			t.Errorf("%s (rank %d) stands after %s (rank %d) in class.go", names[k], ranks[k], names[k-1], ranks[k-1])
		}
	}
	text, err := os.ReadFile("../../fs/doc.go")
	if os.IsNotExist(err) {
		t.Skipf("needs the module's source: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	var documented []string
	for n, m := range regexp.MustCompile(`(?m)^//\t *(\d+) .*\[([^\]]+)\]$`).FindAllSubmatch(text, -1) {
		if want := strconv.Itoa(n + 1); string(m[1]) != want {
			t.Errorf("fs/doc.go numbers %s with %s, want %s", m[2], m[1], want)
		}
		documented = append(documented, string(m[2]))
	}
	if !slices.Equal(documented, names) {
		t.Errorf("the order in fs/doc.go is\n%q\nand in class.go\n%q", documented, names)
	}
}
