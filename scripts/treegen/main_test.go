package main

import (
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
)

// build makes a tree and changes it, and returns name -> content.
func build(t *testing.T, seed uint64) map[string]string {
	t.Helper()
	dir := t.TempDir()
	g := generator{dir: dir, rng: rand.New(rand.NewPCG(seed, 0)), maxSize: 5000, symlink: true}
	if err := g.fill(300, false); err != nil {
		t.Fatal(err)
	}
	c := generator{dir: dir, rng: rand.New(rand.NewPCG(seed, 1)), maxSize: 5000}
	if err := c.change(); err != nil {
		t.Fatal(err)
	}
	tree := map[string]string{}
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(dir, p)
		if err != nil {
			return err
		}
		if d.Type()&fs.ModeSymlink != 0 {
			tree[rel], err = os.Readlink(p)
			return err
		}
		data, err := os.ReadFile(p)
		tree[rel] = string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

func TestSameSeedSameTree(t *testing.T) {
	a, b, other := build(t, 7), build(t, 7), build(t, 8)
	if len(a) < 50 {
		t.Errorf("%d files left, want at least 50", len(a))
	}
	differ := func(x, y map[string]string) bool {
		if len(x) != len(y) {
			return true
		}
		for name, data := range x {
			if got, ok := y[name]; !ok || got != data {
				return true
			}
		}
		return false
	}
	if differ(a, b) {
		t.Error("the same seed made two trees")
	}
	if !differ(a, other) {
		t.Error("two seeds made the same tree")
	}
}
