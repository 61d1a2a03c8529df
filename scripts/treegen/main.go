// Command treegen makes and changes trees of files that are the same whenever the seed is: run on two file systems, it leaves two trees
// that `diff -r` must find equal.
//
//	treegen [-seed N] [-files N] [-max BYTES] [-flat] make DIR
//	treegen [-seed N] change DIR
//
// Make fills DIR with files (most of them small enough for an inode), directories, symbolic links and hard links. Change renames, rewrites,
// truncates and appends to some of the files, and deletes half of them.
package main

import (
	"encoding/binary"
	"flag"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// perDir is the number of files a directory gets on average.
const perDir = 50

// generator makes a tree below dir.
type generator struct {
	dir     string
	rng     *rand.Rand
	maxSize int // bytes
	dirs    []string
	files   []string
	symlink bool
}

func main() {
	seed := flag.Uint64("seed", 1, "what the tree is made from")
	files := flag.Int("files", 10000, "number of files to make")
	maxSize := flag.Int("max", 200<<10, "largest file, in bytes")
	flat := flag.Bool("flat", false, "regular files in one directory only")
	flag.Parse()
	if flag.NArg() != 2 || *maxSize < 1 || *files < 0 {
		flag.Usage()
		os.Exit(2)
	}
	g := generator{dir: flag.Arg(1), rng: rand.New(rand.NewPCG(*seed, 0)), maxSize: *maxSize, symlink: !*flat}
	var err error
	switch flag.Arg(0) {
	case "make":
		err = g.fill(*files, *flat)
	case "change":
		g.rng = rand.New(rand.NewPCG(*seed, 1))
		err = g.change()
	default:
		err = fmt.Errorf("unknown action %q, want make or change", flag.Arg(0))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "treegen:", err)
		os.Exit(1)
	}
}

// size picks a file's size in bytes: mostly what fits an inode or just does not.
func (g *generator) size() int {
	n := 0
	switch p := g.rng.IntN(100); {
	case p < 5:
		n = 0
	case p < 50:
		n = g.rng.IntN(128)
	case p < 65:
		n = 128 + g.rng.IntN(900)
	case p < 85:
		n = 1 << 10 * (1 + g.rng.IntN(4))
	case p < 96:
		n = g.rng.IntN(20 << 10)
	default:
		n = g.rng.IntN(200 << 10)
	}
	return min(n, g.maxSize)
}

// content is n bytes that no other file is likely to have.
func (g *generator) content(n int) []byte {
	b := make([]byte, n+8)
	for i := 0; i < n; i += 8 {
		binary.LittleEndian.PutUint64(b[i:], g.rng.Uint64())
	}
	return b[:n]
}

// name is a file name of 1 to 255 bytes, unique by its number.
func (g *generator) name(i int) string {
	s := fmt.Sprintf("f%d", i)
	switch g.rng.IntN(20) {
	case 0:
		s += strings.Repeat("n", 255-len(s))
	case 1, 2, 3:
		s += strings.Repeat("-long", 1+g.rng.IntN(8))
	case 4:
		s += " späße ✓"
	}
	return s
}

// fill makes the tree.
func (g *generator) fill(files int, flat bool) error {
	g.dirs = []string{g.dir}
	for i := range files {
		if !flat && i%perDir == 0 {
			d := filepath.Join(g.dirs[g.rng.IntN(len(g.dirs))], fmt.Sprintf("d%d", i/perDir))
			if err := os.Mkdir(d, 0o755); err != nil {
				return err
			}
			g.dirs = append(g.dirs, d)
		}
		path := filepath.Join(g.dirs[g.rng.IntN(len(g.dirs))], g.name(i))
		if err := g.file(path); err != nil {
			return err
		}
	}
	return nil
}

// file makes one file, or now and then a link.
func (g *generator) file(path string) error {
	kind := g.rng.IntN(50)
	if g.symlink && kind == 0 {
		return os.Symlink(strings.Repeat("to/", g.rng.IntN(300))+"end", path)
	}
	if g.symlink && kind == 1 && len(g.files) > 0 {
		return os.Link(g.files[g.rng.IntN(len(g.files))], path)
	}
	g.files = append(g.files, path)
	data := g.content(g.size())
	// Two writes: the second one of many files moves them out of their inode.
	cut := len(data)
	if g.rng.IntN(3) == 0 && cut > 0 {
		cut = g.rng.IntN(len(data))
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	for _, part := range [][]byte{data[:cut], data[cut:]} {
		if _, err := f.Write(part); err != nil {
			f.Close()
			return err
		}
	}
	return f.Close()
}

// change walks the tree in the order of its names and does something to each file.
func (g *generator) change() error {
	var paths []string
	err := filepath.WalkDir(g.dir, func(p string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			g.dirs = append(g.dirs, p)
		} else if err == nil && strings.HasPrefix(d.Name(), "f") {
			paths = append(paths, p)
		}
		return err
	})
	if err != nil {
		return err
	}
	slices.Sort(paths)
	slices.Sort(g.dirs)
	for i, p := range paths {
		if err := g.changeOne(i, p); err != nil {
			return err
		}
	}
	return nil
}

// changeOne deletes, renames, rewrites, truncates or appends to the file, or leaves it.
func (g *generator) changeOne(i int, path string) error {
	what := g.rng.IntN(100)
	if what < 50 {
		return os.Remove(path)
	}
	if what < 65 {
		return os.Rename(path, filepath.Join(g.dirs[g.rng.IntN(len(g.dirs))], fmt.Sprintf("renamed%d", i)))
	}
	// Draw before asking the file system, so that both trees draw the same.
	size, data := g.size(), g.content(g.rng.IntN(200))
	st, err := os.Lstat(path)
	if err != nil || !st.Mode().IsRegular() {
		return err
	}
	switch {
	case what < 75:
		return os.Truncate(path, int64(size))
	case what < 85:
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
		if err != nil {
			return err
		}
		if _, err := f.Write(data); err != nil {
			f.Close()
			return err
		}
		return f.Close()
	case what < 92:
		return os.WriteFile(path, data, 0o644)
	}
	return nil
}
