package dir

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"inlinefs/inode"
	"inlinefs/internal/fserr"
	"inlinefs/internal/testimage"
	"inlinefs/journal"
	"inlinefs/ondisk"
)

// kinds are the file systems that directories differ on.
var kinds = []struct {
	name         string
	block, inode int
	features     string
}{
	{"inline", 1024, 256, "inline_data,metadata_csum,64bit"},
	{"inline-4096", 4096, 256, "inline_data,metadata_csum,64bit"},
	{"inline-big-inode", 1024, 1024, "inline_data,metadata_csum,64bit"},
	{"inline-linear", 1024, 512, "inline_data,metadata_csum,64bit,^dir_index"},
	{"blocks", 1024, 256, "^inline_data,metadata_csum,64bit"},
	{"no-csum", 1024, 256, "inline_data,^metadata_csum,64bit"},
	{"linear-no-csum", 2048, 128, "^inline_data,^metadata_csum,^dir_index"},
	{"indirect", 1024, 256, "inline_data,metadata_csum,^64bit,^extent"},
	{"no-filetype", 1024, 256, "inline_data,metadata_csum,64bit,^filetype"},
	{"large-dir", 1024, 256, "inline_data,metadata_csum,64bit,large_dir"},
}

// verify compares a directory with its model, by Read and by Lookup.
func verify(t tester, d *inode.Inode, model map[string]uint32) {
	t.Helper()
	got := map[string]uint32{}
	list(t, d, 0, -1, func(e Entry) {
		if _, twice := got[string(e.Name)]; twice {
			t.Errorf("%s directory: %q is read twice", dirAs(d), e.Name)
		}
		got[string(e.Name)] = e.Ino
	})
	if got["."] != d.Ino || got[".."] != ondisk.RootIno {
		t.Errorf("dots: got %d and %d, want %d and %d", got["."], got[".."], d.Ino, ondisk.RootIno)
	}
	delete(got, ".")
	delete(got, "..")
	if !maps.Equal(got, model) {
		t.Fatalf("%s directory: %d entries are read, want %d: got %.300v, want %.300v", dirAs(d), len(got), len(model), got, model)
	}
	for name, ino := range model {
		if i, _, err := Lookup(d, []byte(name)); err != nil || i != ino {
			t.Fatalf("%s directory: lookup of %q: got %d, %v, want %d", dirAs(d), name, i, err, ino)
		}
	}
	empty, err := Empty(d)
	if err != nil || empty != (len(model) == 0) {
		t.Fatalf("empty: got %v, %v with %d entries", empty, err, len(model))
	}
}

// TestAgainstMap changes a directory at random beside a map, from inline to htree and back, and lets e2fsck judge it.
func TestAgainstMap(t *testing.T) {
	images := make([][]byte, len(kinds))
	for i, k := range kinds {
		img := testimage.Make(t, testimage.Options{SizeMiB: 4, BlockSize: k.block, InodeSize: k.inode, Inodes: 64, Features: "^has_journal," + k.features})
		data, err := os.ReadFile(img)
		if err != nil {
			t.Fatal(err)
		}
		images[i] = data
	}
	out := filepath.Join(t.TempDir(), "judged.ext4")
	rapid.Check(t, func(t *rapid.T) {
		kind := rapid.IntRange(0, len(kinds)-1).Draw(t, "kind")
		mem := slices.Clone(images[kind])
		e := openMem(t, mem)
		files := []*inode.Inode{e.mkfile("one"), e.mkfile("two")}
		links := map[uint32]int{files[0].Ino: 1, files[1].Ino: 1}
		d := e.mkdir("dir")
		model := map[string]uint32{}
		randomChanges(t, e, d, files, model)
		verify(t, d, model)
		for _, ino := range model {
			links[ino]++
		}
		e.cache.Put(d)
		for _, f := range files {
			e.relink(f, links[f.Ino])
			e.cache.Put(f)
		}
		e.close()
		if err := os.WriteFile(out, mem, 0o600); err != nil {
			t.Fatal(err)
		}
		if said, code := testimage.FsckOutput(out); code != 0 {
			t.Fatalf("%s: e2fsck -fn: exit %d, want 0\n%s", kinds[kind].name, code, said)
		}
	})
}

// randomChanges draws changes and checks the outcome of each against the model.
func randomChanges(t *rapid.T, e *env, d *inode.Inode, files []*inode.Inode, model map[string]uint32) {
	long := rapid.IntRange(1, 240).Draw(t, "longest")
	n := rapid.SampledFrom([]int{3, 10, 40, 150, 400}).Draw(t, "changes")
	r := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 5))
	for range n {
		id := r.IntN(n)
		name := fmt.Sprintf("%d%s", id, strings.Repeat("x", id*7919%long))
		ino := files[r.IntN(len(files))].Ino
		old, in := model[name]
		var err, want error
		switch op := r.IntN(10); {
		case op < 7:
			if err = e.add(d, name, ino); in {
				want = fserr.Exist
			} else {
				model[name] = ino
			}
		case op < 9:
			if err = e.remove(d, name, old); !in {
				want = fserr.NotExist
			}
			delete(model, name)
		default:
			if err = e.replace(d, name, ino); !in {
				want = fserr.NotExist
			} else {
				model[name] = ino
			}
		}
		if !errors.Is(err, want) {
			t.Fatalf("%s directory, name %q: got %v, want %v", dirAs(d), name, err, want)
		}
	}
}

// TestGrowth takes one directory through all its forms to thousands of entries and back.
func TestGrowth(t *testing.T) {
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			t.Parallel()
			img := image(t, k.block, k.inode, k.features)
			e := openEnv(t, img)
			f, d := e.mkfile("file"), e.mkdir("dir")
			n := 3000
			if strings.Contains(k.features, "^dir_index") {
				n = 600
			}
			model := map[string]uint32{}
			forms := []string{dirAs(d)}
			for i := range n {
				name := fmt.Sprintf("an-entry-with-a-name-of-some-length-%d", i)
				if err := e.add(d, name, f.Ino); err != nil {
					t.Fatalf("entry %d (%s): %v", i, dirAs(d), err)
				}
				model[name] = f.Ino
				if now := dirAs(d); now != forms[len(forms)-1] {
					forms = append(forms, now)
				}
			}
			t.Logf("forms: %v", forms)
			verify(t, d, model)
			e.relink(f, n+1)
			e.cache.Put(f)
			e.cache.Put(d)
			e.close()
			testimage.Fsck(t, img)

			e.open()
			empty(t, e, model)
			e.close()
			testimage.Fsck(t, img)
		})
	}
}

// empty removes all entries of the directory that TestGrowth left, read from disk again.
func empty(t *testing.T, e *env, model map[string]uint32) {
	t.Helper()
	f, d := e.inodeOf("file"), e.inodeOf("dir")
	defer e.cache.Put(f)
	defer e.cache.Put(d)
	verify(t, d, model)
	for name := range model {
		if err := e.remove(d, name, f.Ino); err != nil {
			t.Fatal(err)
		}
	}
	verify(t, d, nil)
	e.relink(f, 1)
}

// inodeOf gets the inode of a name in the root.
func (e *env) inodeOf(name string) *inode.Inode {
	e.t.Helper()
	ino, _, err := Lookup(e.root, []byte(name))
	if err != nil {
		e.t.Fatal(err)
	}
	i, err := e.cache.Get(ino)
	if err != nil {
		e.t.Fatal(err)
	}
	return i
}

// TestReadWhileChanging reads a directory in small steps while it grows from inline to htree and loses other entries: what is there all
// the time must be seen exactly once.
func TestReadWhileChanging(t *testing.T) {
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			t.Parallel()
			seed := uint64(time.Now().UnixNano())
			t.Logf("seed %d", seed)
			r := rand.New(rand.NewPCG(seed, 7))
			e := openEnv(t, image(t, k.block, k.inode, k.features))
			defer e.close()
			f := e.mkfile("file")
			defer e.cache.Put(f)
			for _, stable := range []int{3, 12, 200} {
				d := e.mkdir(fmt.Sprintf("dir%d", stable))
				readWhileChanging(t, e, d, f.Ino, stable, r)
				e.cache.Put(d)
			}
		})
	}
}

func readWhileChanging(t *testing.T, e *env, d *inode.Inode, ino uint32, stable int, r *rand.Rand) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for i := range stable {
		must(e.add(d, fmt.Sprintf("stay%d", i), ino))
		if i%3 == 0 {
			must(e.add(d, fmt.Sprintf("go%d", i), ino))
		}
	}
	started := dirAs(d)
	seen := map[string]int{}
	extra, gone := 0, 0
	for cookie, more := uint64(0), true; more; {
		cookie, more = list(t, d, cookie, 1+r.IntN(4), func(en Entry) { seen[string(en.Name)]++ })
		if cookie>>63 != 0 {
			t.Fatalf("cookie 0x%x, want below 2^63", cookie)
		}
		for range r.IntN(12) {
			if extra < 400 {
				must(e.add(d, fmt.Sprintf("new%d-%s", extra, strings.Repeat("y", r.IntN(60))), ino))
				extra++
			}
		}
		if gone < stable {
			must(e.remove(d, fmt.Sprintf("go%d", gone), ino))
			gone += 3
		}
	}
	t.Logf("%d entries: %s to %s", stable, started, dirAs(d))
	want := []string{".", ".."}
	for i := range stable {
		want = append(want, fmt.Sprintf("stay%d", i))
	}
	for _, name := range want {
		if seen[name] != 1 {
			t.Errorf("%q is seen %d times, want once", name, seen[name])
		}
	}
	for name, n := range seen {
		if n > 1 {
			t.Errorf("%q is seen %d times", name, n)
		}
	}
}

// collisions share one legacy hash, each after 200 times "p": four fill a block of 1,024 bytes.
var collisions = []string{"adLEYH", "asec17", "aZ8srp", "bh1aPe", "buDpm7", "bLWFk6", "cqiEub", "ctnGO4", "cCgm-V", "cClEiR", "cUIcPd"}

// TestCollisions lets the names of one hash span several leaves.
func TestCollisions(t *testing.T) {
	img := image(t, 1024, 256, "^inline_data,metadata_csum,64bit")
	testimage.Debugfs(t, img, true, "set_super_value def_hash_version legacy")
	e := openEnv(t, img)
	if v := e.fs.SB.DefHashVersion(); v != ondisk.HashLegacy {
		t.Fatalf("hash version %d, want %d", v, ondisk.HashLegacy)
	}
	f, d := e.mkfile("file"), e.mkdir("dir")
	model := map[string]uint32{}
	add := func(name string) {
		t.Helper()
		if err := e.add(d, name, f.Ino); err != nil {
			t.Fatal(err)
		}
		model[name] = f.Ino
	}
	for i, c := range collisions {
		add(strings.Repeat("p", 200) + c)
		for k := range 6 {
			add(fmt.Sprintf("other-%d-%d", i, k))
		}
		verify(t, d, model)
		if err := e.add(d, strings.Repeat("p", 200)+collisions[0], f.Ino); !errors.Is(err, fserr.Exist) {
			t.Fatalf("name that is there: got %v, want %v", err, fserr.Exist)
		}
	}
	seen := map[string]int{}
	for cookie, more := uint64(0), true; more; {
		cookie, more = list(t, d, cookie, 1, func(en Entry) { seen[string(en.Name)]++ })
	}
	if len(seen) != len(model)+2 {
		t.Errorf("one by one: %d entries, want %d", len(seen), len(model)+2)
	}
	e.relink(f, len(model)+1)
	e.cache.Put(f)
	e.cache.Put(d)
	e.close()
	testimage.Fsck(t, img)
}

func TestRefusedNames(t *testing.T) {
	e := openEnv(t, image(t, 1024, 256, "inline_data"))
	defer e.close()
	d := e.mkdir("dir")
	defer e.cache.Put(d)
	for name, want := range map[string]error{"": fserr.Invalid, "a/b": fserr.Invalid, "a\x00b": fserr.Invalid, ".": fserr.Exist, "..": fserr.Exist,
		strings.Repeat("n", 256): fserr.NameTooLong} {
		if err := e.add(d, name, 11); !errors.Is(err, want) {
			t.Errorf("name %.20q: got %v, want %v", name, err, want)
		}
	}
	if err := e.add(d, "a", e.fs.Inodes+1); !errors.Is(err, fserr.Invalid) {
		t.Errorf("inode beyond the last: got %v, want %v", err, fserr.Invalid)
	}
}

func TestParent(t *testing.T) {
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			img := image(t, k.block, k.inode, k.features)
			e := openEnv(t, img)
			a, f := e.mkdir("a"), e.mkfile("f")
			b := e.make(a, "b", ondisk.ModeDir|0o755)
			for i := 0; i < 100; i++ {
				if i == 0 || i == 20 || i == 99 {
					move(t, e, b, a, e.root)
					move(t, e, b, e.root, a)
				}
				if err := e.add(b, fmt.Sprintf("name-%d", i), f.Ino); err != nil {
					t.Fatal(err)
				}
			}
			e.relink(f, 101)
			for _, i := range []*inode.Inode{a, b, f} {
				e.cache.Put(i)
			}
			e.close()
			testimage.Fsck(t, img)
		})
	}
}

// move renames directory "b" from one parent to another.
func move(t *testing.T, e *env, b, from, to *inode.Inode) {
	t.Helper()
	err := e.with(AddCredits(to)+8, func(h *journal.Handle) error {
		setLinks(from, from.Links()-1)
		setLinks(to, to.Links()+1)
		return errors.Join(Add(h, to, []byte("b"), b.Ino, ondisk.FtDir), Remove(h, from, []byte("b"), b.Ino), SetDotDot(h, b, to.Ino))
	})
	if err != nil {
		t.Fatal(err)
	}
	if p, err := DotDot(b); err != nil || p != to.Ino {
		t.Fatalf("parent of a %s directory: got %d, %v, want %d", dirAs(b), p, err, to.Ino)
	}
}
