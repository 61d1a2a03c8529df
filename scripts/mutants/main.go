// Command mutants seeds faults into the code, one at a time, and asks whether the search (inlinefs explore) or a test finds each.
//
//	mutants [-only NAME,...] [-short] [-list] [-markdown]
//
// The tree is not touched: a fault is an overlay of one file (go build -overlay). It is caught when a class of failure appears that the
// unchanged code does not show in the same strategy and scenario; a fault in a detector when a conviction goes missing; others when the
// named test fails. Exit codes: 0 all were caught, 1 one survived, 2 usage, or a fault that does not fit the code any more.
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

func main() {
	only := flag.String("only", "", "names of faults, comma separated; default all")
	short := flag.Bool("short", false, "every third fault, and those that a search finds only")
	list := flag.Bool("list", false, "list the faults")
	markdown := flag.Bool("markdown", false, "print the table as Markdown")
	flag.Parse()
	if flag.NArg() > 0 {
		fatal(fmt.Errorf("unknown argument %q", flag.Arg(0)))
	}
	chosen, err := choose(*only, *short)
	if err == nil {
		err = fit(chosen)
	}
	if err != nil {
		fatal(err)
	}
	if *list {
		for _, m := range chosen {
			fmt.Printf("%-26s %-28s %s\n", m.name, m.file, m.breaks)
		}
		return
	}
	dir, err := os.MkdirTemp("", "inlinefs-mutants-")
	if err != nil {
		fatal(err)
	}
	survivors, err := campaign(chosen, dir, *markdown)
	if e := os.RemoveAll(dir); err == nil {
		err = e
	}
	if err != nil {
		fatal(err)
	}
	if len(survivors) > 0 {
		fmt.Printf("survived: %s\n", strings.Join(survivors, ", "))
		os.Exit(1)
	}
}

func fatal(err error) {
	fmt.Fprintf(os.Stderr, "mutants: %v\n", err)
	os.Exit(2)
}

// choose finds the faults that are asked for.
func choose(only string, short bool) ([]mutant, error) {
	var out []mutant
	if only != "" {
		for _, name := range strings.Split(only, ",") {
			k := slices.IndexFunc(mutants, func(m mutant) bool { return m.name == name })
			if k < 0 {
				return nil, fmt.Errorf("no fault is named %q", name)
			}
			out = append(out, mutants[k])
		}
		return out, nil
	}
	for k, m := range mutants {
		if !short || k%3 == 0 && m.test == "" {
			out = append(out, m)
		}
	}
	return out, nil
}

// fit checks that every fault's text stands exactly once in its file.
func fit(ms []mutant) error {
	for _, m := range ms {
		b, err := os.ReadFile(m.file)
		if err != nil {
			return fmt.Errorf("%s: %w (run it in the module's root)", m.name, err)
		}
		if n := strings.Count(string(b), m.old); n != 1 {
			return fmt.Errorf("%s: its text is %d times in %s, not once: the code has changed, and the fault must be written anew", m.name, n, m.file)
		}
	}
	return nil
}

// campaign tries each fault and prints the table.
func campaign(ms []mutant, dir string, markdown bool) (survivors []string, err error) {
	start := time.Now()
	c := &runner{dir: dir, base: map[string]bool{}, tried: map[string]bool{}}
	if c.plain, err = c.build("", filepath.Join(dir, "plain")); err != nil {
		return nil, fmt.Errorf("the unchanged code: %w", err)
	}
	format := "%-26s %-14s %-28s %-44s %9s %11s %6s\n"
	if markdown {
		format = "| %s | %s | %s | %s | %s | %s | %s |\n"
	}
	fmt.Printf(format, "fault", "strategy", "scenario", "class", "decisions", "preemptions", "time")
	if markdown {
		fmt.Println("|---|---|---|---|---:|---:|---:|")
	}
	for _, m := range ms {
		at := time.Now()
		v, err := c.try(m)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", m.name, err)
		}
		if !v.caught {
			survivors = append(survivors, m.name)
			v.class = "SURVIVED"
		}
		fmt.Printf(format, m.name, v.strategy, v.scenario, v.class, v.decisions, v.preemptions, fmt.Sprintf("%.1f s", time.Since(at).Seconds()))
	}
	fmt.Printf("\n%d faults, %d caught, %.0f s\n", len(ms), len(ms)-len(survivors), time.Since(start).Seconds())
	return survivors, nil
}
