package main

import (
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
)

// sibling is one sibling race: what the kernel did in it and what inlinefs did, with mkwrite and with its default strategy.
type sibling struct {
	name              string
	kernel            *guest
	mkwrite, ordinary *result
}

// readSiblings reads the files of NAME=PATH arguments.
func readSiblings(args []string) ([]sibling, error) {
	var out []sibling
	for _, arg := range args {
		name, path, ok := strings.Cut(arg, "=")
		if !ok || name == "" || path == "" {
			return nil, fmt.Errorf("argument %q, want NAME=PATH", arg)
		}
		g, r, err := read(path+".log", path+"-mkwrite.json")
		if err != nil {
			return nil, err
		}
		text, err := os.ReadFile(path + "-default.json")
		if err != nil {
			return nil, fmt.Errorf("result: %w", err)
		}
		d, err := parseResult(text)
		if err != nil {
			return nil, fmt.Errorf("result %s-default.json: %w", path, err)
		}
		out = append(out, sibling{name: name, kernel: g, mkwrite: r, ordinary: d})
	}
	return out, nil
}

var (
	toldRE     = regexp.MustCompile(`^(errors|violations): (.*)$`)
	mismatchRE = regexp.MustCompile(`data mismatches ([1-9]\d*)`)
)

// shows are the lines that say what a guest showed in a sibling race: where it fell, and what the workers found.
func (g *guest) shows() (out []string) {
	for i := range g.falls {
		f := &g.falls[i]
		out = append(out, fmt.Sprintf("%s in %s%s, %s", f.what, firstName(f), classNote(f), g.after(f)))
	}
	for _, s := range g.stress {
		if m := toldRE.FindStringSubmatch(s); m != nil && m[2] != "none" {
			out = append(out, s)
		}
		if m := mismatchRE.FindStringSubmatch(s); m != nil {
			out = append(out, "data mismatches: "+m[1])
		}
	}
	for _, s := range g.errors {
		out = append(out, s)
	}
	switch {
	case g.kernel == "":
		out = append(out, "the kernel did not come up: "+g.end)
	case len(out) == 0 && !slices.ContainsFunc(g.stress, func(s string) bool { return strings.HasPrefix(s, "violations:") }):
		out = append(out, "no result: "+g.end)
	}
	return keepUnique(out)
}

// shows says the same of inlinefs.
func (r *result) shows() (out []string) {
	if s := counts(r.Errors); s != "" {
		out = append(out, "errors: "+s)
	}
	if s := counts(r.Violations); s != "" {
		out = append(out, "violations: "+s)
	}
	if r.Mismatches > 0 {
		out = append(out, fmt.Sprintf("data mismatches: %d", r.Mismatches))
	}
	return out
}

func counts(m map[string]int64) string {
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		if m[k] != 0 {
			parts = append(parts, fmt.Sprintf("%s %d", k, m[k]))
		}
	}
	return strings.Join(parts, ", ")
}

// keepUnique leaves out what has been said already, and what is too much.
func keepUnique(list []string) (out []string) {
	for _, s := range list {
		if !slices.Contains(out, s) {
			out = keep(out, s)
		}
	}
	return out
}

// chainShown is how many functions of a chain are told in a line.
const chainShown = 5

// siblingTable tells of each sibling race what kernel and inlinefs showed; empty: there was none.
func siblingTable(list []sibling) string {
	var b strings.Builder
	for i, s := range list {
		if i == 0 {
			fmt.Fprintf(&b, "sibling races, each in a boot of its own\n")
		}
		fmt.Fprintf(&b, "\n%s\n", s.name)
		tell := func(who string, lines []string) {
			if len(lines) == 0 {
				lines = []string{"nothing wrong"}
			}
			for _, line := range lines {
				fmt.Fprintf(&b, "  %-28s %s\n", who, line)
				who = ""
			}
		}
		tell("kernel "+s.kernel.kernel, s.kernel.shows())
		tell("inlinefs "+s.mkwrite.Strategy, s.mkwrite.shows())
		tell("inlinefs "+s.ordinary.Strategy, s.ordinary.shows())
		for i := range s.kernel.falls {
			if c := s.kernel.falls[i].class(); c != "" && s.mkwrite.Violations[c] > 0 {
				names := s.kernel.falls[i].names()
				fmt.Fprintf(&b, "  same class: %s, the kernel's by %s\n", c, strings.Join(names[:min(len(names), chainShown)], " < "))
				break
			}
		}
	}
	if b.Len() > 0 {
		b.WriteString("\nthe main race\n\n")
	}
	return b.String()
}
