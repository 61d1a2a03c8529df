package lint

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// Table says which packages of the module each package may import; names are relative to the module ("internal/lock").
type Table map[string][]string

// ParseTable reads the table from the block of a Markdown text that is fenced as "```imports", one line "pkg: dep dep" per package.
// Empty lines and what follows a # are left out.
func ParseTable(markdown string) (Table, error) {
	_, rest, ok := strings.Cut("\n"+markdown, "\n```imports\n")
	if !ok {
		return nil, fmt.Errorf("no block fenced by ```imports")
	}
	block, _, ok := strings.Cut("\n"+rest, "\n```")
	if !ok {
		return nil, fmt.Errorf("the block fenced by ```imports does not end")
	}
	table := Table{}
	for line := range strings.Lines(block) {
		line, _, _ = strings.Cut(line, "#")
		if strings.TrimSpace(line) == "" {
			continue
		}
		pkg, deps, ok := strings.Cut(line, ":")
		pkg = strings.TrimSpace(pkg)
		if !ok || pkg == "" {
			return nil, fmt.Errorf("imports table: line %q, want \"pkg: dep dep\"", strings.TrimSpace(line))
		}
		if _, twice := table[pkg]; twice {
			return nil, fmt.Errorf("imports table: two lines for %s", pkg)
		}
		table[pkg] = strings.Fields(deps)
	}
	return table, nil
}

// Imports is the table the files really have; test files are left out, since a test may use what it likes.
func Imports(files []File) Table {
	table := Table{}
	for _, f := range files {
		if f.Test {
			continue
		}
		deps := table[f.Dir()]
		for _, spec := range f.AST.Imports {
			name, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				continue // the parser has taken it for a string literal
			}
			if rel, ok := strings.CutPrefix(name, Module+"/"); ok && !slices.Contains(deps, rel) {
				deps = append(deps, rel)
			}
		}
		slices.Sort(deps)
		table[f.Dir()] = deps
	}
	return table
}

// Check compares the imports there are with the table of those allowed: an import or a package the table lacks, and a line for a
// package that is not there, are findings.
func (allowed Table) Check(actual Table) []string {
	var found []string
	for _, pkg := range slices.Sorted(maps.Keys(actual)) {
		deps, ok := allowed[pkg]
		if !ok {
			found = append(found, fmt.Sprintf("%s: not in the imports table", pkg))
			continue
		}
		for _, dep := range actual[pkg] {
			if !slices.Contains(deps, dep) {
				found = append(found, fmt.Sprintf("%s imports %s, which the imports table does not allow", pkg, dep))
			}
		}
	}
	for _, pkg := range slices.Sorted(maps.Keys(allowed)) {
		if _, ok := actual[pkg]; !ok {
			found = append(found, fmt.Sprintf("%s: in the imports table, but there is no such package", pkg))
		}
	}
	return found
}

// String is the table as it stands in a fenced block.
func (allowed Table) String() string {
	var b strings.Builder
	for _, pkg := range slices.Sorted(maps.Keys(allowed)) {
		b.WriteString(strings.TrimSpace(pkg+": "+strings.Join(allowed[pkg], " ")) + "\n")
	}
	return b.String()
}
