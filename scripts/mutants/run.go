package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

// runner builds and runs the program with a fault in it.
type runner struct {
	dir   string
	plain string          // the program without a fault
	base  map[string]bool // "strategy/scenario/class" that the unchanged code shows
	tried map[string]bool // "strategy/actors" that base knows
}

// verdict is how a fault was caught.
type verdict struct {
	caught                           bool
	strategy, scenario, class        string
	decisions, preemptions           string
	steps, switches, convictionCount int
}

// outcome is what `inlinefs explore --json` writes, as far as it is used here.
type outcome struct {
	Strategy string `json:"strategy"`
	Scenario string `json:"scenario"`
	Complete bool   `json:"complete"`
	Failures []struct {
		Class       string `json:"class"`
		Steps       int    `json:"steps"`
		Preemptions int    `json:"preemptions"`
		Shrunk      bool   `json:"shrunk"`
	} `json:"failures"`
}

// overlay writes the changed file and the description that the go command wants.
func (c *runner) overlay(m mutant) (string, error) {
	file, err := filepath.Abs(m.file)
	if err != nil {
		return "", err
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	changed := filepath.Join(c.dir, m.name+".go")
	if err := os.WriteFile(changed, []byte(strings.Replace(string(b), m.old, m.new, 1)), 0o644); err != nil {
		return "", err
	}
	text, err := json.Marshal(map[string]map[string]string{"Replace": {file: changed}})
	if err != nil {
		return "", err
	}
	path := filepath.Join(c.dir, m.name+".json")
	return path, os.WriteFile(path, text, 0o644)
}

// build makes the program with the scheduler in it.
func (c *runner) build(overlay, out string) (string, error) {
	args := []string{"build", "-tags", "explore", "-o", out}
	if overlay != "" {
		args = append(args, "-overlay", overlay)
	}
	if text, err := exec.Command("go", append(args, "./cmd/inlinefs")...).CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w: %s", err, text)
	}
	return out, nil
}

// try seeds m and looks who notices.
func (c *runner) try(m mutant) (verdict, error) {
	overlay, err := c.overlay(m)
	if err != nil {
		return verdict{}, err
	}
	if m.test != "" {
		return runTest(overlay, m.test)
	}
	strategies, actors := m.strategies, m.actors
	if len(strategies) == 0 {
		strategies = sound
	}
	if actors == 0 {
		actors = 2
	}
	if err := c.baseline(strategies, actors); err != nil {
		return verdict{}, err
	}
	bin, err := c.build(overlay, filepath.Join(c.dir, m.name))
	if err != nil {
		return verdict{}, err
	}
	defer os.Remove(bin)
	out, text, err := explore(bin, c.dir, strategies, actors)
	if err != nil {
		return verdict{}, err
	}
	if m.blind {
		return missing(text), nil
	}
	return c.unexpected(out), nil
}

// baseline learns what the unchanged code shows.
func (c *runner) baseline(strategies []string, actors int) error {
	for _, s := range strategies {
		key := fmt.Sprintf("%s/%d", s, actors)
		if c.tried[key] {
			continue
		}
		out, _, err := explore(c.plain, c.dir, []string{s}, actors)
		if err != nil {
			return fmt.Errorf("the unchanged code: %w", err)
		}
		c.tried[key] = true
		for _, o := range out {
			for _, f := range o.Failures {
				c.base[o.Strategy+"/"+o.Scenario+"/"+f.Class] = true
			}
		}
	}
	return nil
}

// explore searches with a program; text is what it printed.
func explore(bin, dir string, strategies []string, actors int) (out []outcome, text string, err error) {
	path := filepath.Join(dir, "outcomes.json")
	cmd := exec.Command(bin, "explore", "--timelines=false", "--limit=30s", "--runs=2000", "--strategies="+strings.Join(strategies, ","),
		"--actors="+strconv.Itoa(actors), "--json="+path)
	var errText strings.Builder
	cmd.Stderr = &errText
	b, err := cmd.Output()
	var exit *exec.ExitError
	if err != nil && (!errors.As(err, &exit) || exit.ExitCode() != 1) {
		return nil, "", fmt.Errorf("explore: %w: %s", err, lastLines(errText.String()))
	}
	j, err := os.ReadFile(path)
	if err != nil {
		return nil, "", err
	}
	return out, string(b), errors.Join(json.Unmarshal(j, &out), os.Remove(path))
}

// unexpected is the shortest way to a failure that the unchanged code does not show.
func (c *runner) unexpected(out []outcome) verdict {
	var v verdict
	for _, o := range out {
		for _, f := range o.Failures {
			if c.base[o.Strategy+"/"+o.Scenario+"/"+f.Class] {
				continue
			}
			v.convictionCount++
			if !f.Shrunk || v.caught && v.steps <= f.Steps {
				continue
			}
			v.caught, v.strategy, v.scenario, v.class, v.steps, v.switches = true, o.Strategy, o.Scenario, f.Class, f.Steps, f.Preemptions
		}
	}
	if !v.caught && v.convictionCount > 0 { // the class was shrunk in a scenario where it is known
		for _, o := range out {
			for _, f := range o.Failures {
				if !c.base[o.Strategy+"/"+o.Scenario+"/"+f.Class] && (!v.caught || f.Steps < v.steps) {
					v.caught, v.strategy, v.scenario, v.class, v.steps, v.switches = true, o.Strategy, o.Scenario, f.Class, f.Steps, f.Preemptions
				}
			}
		}
	}
	v.decisions, v.preemptions = strconv.Itoa(v.steps), strconv.Itoa(v.switches)
	return v
}

var lostTeeth = regexp.MustCompile(`(?m)^(\S+) must be convicted of (\S+), and was not`)

// missing finds a conviction that is not there any more.
func missing(text string) verdict {
	m := lostTeeth.FindStringSubmatch(text)
	if m == nil {
		return verdict{}
	}
	return verdict{caught: true, strategy: m[1], scenario: "all", class: "no " + m[2] + ": lost its teeth", decisions: "-", preemptions: "-"}
}

var failed = regexp.MustCompile(`(?m)^\s*--- FAIL: (\S+)`)

// runTest runs "PACKAGE TEST" with the fault: a test that fails has caught it.
func runTest(overlay, test string) (verdict, error) {
	pkg, name, _ := strings.Cut(test, " ")
	b, err := exec.Command("go", "test", "-count=1", "-short", "-timeout=2m", "-overlay", overlay, "-run", name, pkg).CombinedOutput()
	v := verdict{strategy: "-", scenario: "go test " + pkg, decisions: "-", preemptions: "-"}
	if err == nil {
		return v, nil
	}
	text := string(b)
	m := failed.FindStringSubmatch(text)
	switch {
	case strings.Contains(text, "[build failed]"):
		return v, fmt.Errorf("go test: %s", lastLines(text))
	case m != nil:
		v.class = m[1]
	case strings.Contains(text, "panic: test timed out"):
		v.class = "timeout"
	case strings.Contains(text, "panic: "):
		v.class = "panic"
	default:
		return v, fmt.Errorf("go test: %w: %s", err, lastLines(text))
	}
	if text, err := exec.Command("go", "test", "-short", "-timeout=2m", "-run", name, pkg).CombinedOutput(); err != nil {
		return v, fmt.Errorf("the unchanged code fails the test too: %w: %s", err, lastLines(string(text)))
	}
	v.caught = true
	return v, nil
}

func lastLines(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(len(lines)-40, 0):], "\n")
}
