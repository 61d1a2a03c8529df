package main

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// fell is a console, shortened, as a guest leaves it.
const fell = `[    2.192149] oracle: kernel 6.1.0-56-amd64
[    3.151251] oracle: race begins
[    3.456943] EXT4-fs error (device vda): ext4_mb_generate_buddy:1123: group 0, block bitmap and bg descriptor inconsistent
[    3.599846] ------------[ cut here ]------------
[    3.600012] kernel BUG at fs/ext4/ext4_jbd2.c:53!
[    3.601328] invalid opcode: 0000 [#1] PREEMPT SMP NOPTI
[    3.601520] CPU: 1 PID: 139 Comm: inlinefs Not tainted 6.1.0-56-amd64 #1  Debian 6.1.192-2
[    3.604595] RIP: 0010:__ext4_journal_stop+0xae/0xb0 [ext4]
[    3.604595] RAX: 0000000000000007 RBX: ff3a973dc20c7908 RCX: 0000000000000000
[    3.604595] Call Trace:
[    3.604595]  <TASK>
[    3.604595]  ext4_write_inline_data_end+0x1f4/0x570 [ext4]
[    3.604595]  generic_perform_write+0x122/0x240
[    3.604595]  ext4_buffered_write_iter+0x8c/0x140 [ext4]
[    3.604595]  vfs_write+0x235/0x3f0
[    3.604595]  do_syscall_64+0x5d/0xb0
[    3.604595]  ? exit_to_user_mode_prepare+0x44/0x240
[    3.604595] RIP: 0033:0x40a90e
[    3.604595]  </TASK>
[    3.619604] ---[ end trace 0000000000000000 ]---
[    3.619708] RIP: 0010:__ext4_journal_stop+0xae/0xb0 [ext4]
[    8.411936] kernel BUG at fs/ext4/inode.c:2763!
[    8.412169] CPU: 0 PID: 25 Comm: kworker/u4:1 Tainted: G      D            6.1.0-56-amd64 #1
[    8.412537] RIP: 0010:ext4_writepages+0xefb/0x1190 [ext4]
[    8.412537] Call Trace:
[    8.412537]  do_writepages+0xc0/0x1c0
[    8.415007] ---[ end trace 0000000000000000 ]---
[   12.000000] oracle: hangs: init pid 152 in ext4_buffered_write_iter vfs_write
[   12.117249] oracle: stress: 5 s: round 6, 953 writes, 0 touches, 7546 SIGBUS, 0 mmaps refused
[   12.129387] oracle: end: stress: still running, fell: 1
`

// stood is a console of a guest that did not fall.
const stood = `[    2.192149] oracle: kernel 7.9.0
[    3.151251] oracle: race begins
[   14.000000] oracle: stress: scenario mountpoint, SIGBUS 12; mmap refused 0
[   14.129387] oracle: end: stress: 0, fell: 0
`

const convicted = `{"schema": 1, "strategy": "mkwrite", "faults": 90, "sigbus": 40, "duration_s": 10.02,
"violations": {"nil-handle": 3, "mode-mismatch": 1}, "first_violation": {"class": "nil-handle", "timeline": "the timeline\n", "detail":
{"class": "nil-handle", "mirror": "BUG_ON(ref_cnt == 0)", "task": 7, "breaker": ["journal.(*Journal).Stop:111", "inline.(*Engine).WriteEnd:136",
"inline.(*Engine).Write:237", "fs.(*FileSystem).writeLocked:160", "fs.(*FileSystem).again:16", "fs.(*FileSystem).Write:120"],
"events": [{"task": 7, "kernel": "ext4_da_write_end"}, {"task": 7, "kernel": "__ext4_journal_stop"}, {"task": 6, "kernel": "ext4_page_mkwrite"}]}}}`

func TestParseConsole(t *testing.T) {
	g, err := parseConsole(strings.NewReader(fell))
	if err != nil {
		t.Fatal(err)
	}
	if g.kernel != "6.1.0-56-amd64" || g.began != 3.151251 || len(g.falls) != 2 || len(g.errors) != 1 || len(g.hangs) != 1 || g.sigbus() != "7546" {
		t.Fatalf("read %+v", g)
	}
	f := g.fallOf(classNilHandle)
	if f == nil {
		t.Fatalf("no nil handle in %+v", g.falls)
	}
	want := []string{"__ext4_journal_stop", "ext4_write_inline_data_end", "generic_perform_write", "ext4_buffered_write_iter", "vfs_write", "do_syscall_64"}
	if got := f.names(); !slices.Equal(got, want) {
		t.Errorf("chain %q, want %q", got, want)
	}
	if f.who != "PID: 139 Comm: inlinefs" || g.after(f) != "0.45 s after the race began" {
		t.Errorf("by %q, %s", f.who, g.after(f))
	}
	if second := g.falls[1]; second.class() != "inline-writeback" || !slices.Equal(second.names(), []string{"ext4_writepages", "do_writepages"}) {
		t.Errorf("second fall %+v of class %q", second, second.class())
	}
}

func TestRun(t *testing.T) {
	tests := []struct {
		name, console, result string
		code                  int
		want                  string
	}{
		{"same", fell, convicted, 0, "same: the kernel fell"},
		{"the second fall is told", fell, convicted, 0,
			"5.26 s after the race began: kernel BUG at fs/ext4/inode.c:2763! in ext4_writepages (class inline-writeback)"},
		{"kernel stands", stood, convicted, exitDiffers, "the kernel did not fall"},
		{"only the other class", fell[strings.Index(fell, "[    8.41"):], convicted, exitDiffers, "the kernel did not fall"},
		{"kernel by another way", strings.ReplaceAll(fell, "generic_perform_write", "iomap_file_buffered_write"), convicted, exitDiffers,
			"the kernel's chain lacks generic_perform_write"},
		{"inlinefs clean", fell, `{"schema": 1, "strategy": "mkwrite", "violations": {}}`, exitDiffers, "inlinefs was not convicted"},
		{"other strategy", fell, strings.Replace(convicted, `"mkwrite"`, `"mmap"`, 1), exitDiffers, `strategy "mmap", want mkwrite`},
		{"inlinefs by another way", fell, strings.Replace(convicted, "inline.(*Engine).WriteEnd", "fs.other", 1), exitDiffers,
			"the chain of inlinefs lacks inline.(*Engine).WriteEnd"},
		{"other timeline", fell, strings.Replace(convicted, `"task": 7, "kernel": "__ext4_journal_stop"`, `"task": 6, "kernel": "x"`, 1), exitDiffers,
			"the timeline of inlinefs ends in"},
		{"other schema", fell, `{"schema": 9}`, exitUsage, "schema 9, want 1"},
		{"no JSON", fell, `nothing`, exitUsage, "7 bytes"},
		{"no boot", "Booting from ROM\n", convicted, exitDiffers, "kernel did not come up"},
		{"time limit", "oracle: the time limit of 120 s ended the guest\n", convicted, exitDiffers, "kernel, end: the time limit of 120 s"},
		{"line too long", strings.Repeat("x", 2<<20), convicted, exitUsage, "token too long"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			console, result := filepath.Join(dir, "console"), filepath.Join(dir, "result")
			for path, text := range map[string]string{console: tt.console, result: tt.result} {
				if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			var out bytes.Buffer
			if code := run([]string{console, result}, &out, &out); code != tt.code || !strings.Contains(out.String(), tt.want) {
				t.Errorf("exit code %d, want %d, output wants %q:\n%s", code, tt.code, tt.want, &out)
			}
		})
	}
	var out bytes.Buffer
	if code := run([]string{"one"}, &out, &out); code != exitUsage {
		t.Errorf("one argument: exit code %d, want %d", code, exitUsage)
	}
	if code := run([]string{"/nonexistent/a", "/nonexistent/b"}, &out, &out); code != exitUsage {
		t.Errorf("missing files: exit code %d, want %d", code, exitUsage)
	}
}

// fellHealthy is a console of a guest that fell where conversions succeed.
const fellHealthy = `[    2.192149] oracle: kernel 6.1.0-56-amd64
[    3.151251] oracle: race begins
[    5.404445] kernel BUG at fs/buffer.c:2054!
[    5.405686] CPU: 0 PID: 142 Comm: inlinefs Not tainted 6.1.0-56-amd64 #1  Debian 6.1.192-2
[    5.405927] RIP: 0010:__block_commit_write.constprop.0.isra.0+0x9e/0xa0
[    5.405927] Call Trace:
[    5.405927]  <TASK>
[    5.405927]  generic_write_end+0x52/0x1a0
[    5.405927]  generic_perform_write+0x122/0x240
[    5.405927]  </TASK>
[    5.434004] ---[ end trace 0000000000000000 ]---
[   12.129387] oracle: end: stress: still running, fell: 1
`

func TestSiblings(t *testing.T) {
	found := `[    2.1] oracle: kernel 7.9.0
[    3.1] oracle: race begins
[    9.1] oracle: stress: conversions 3 ok, 0 failed; SIGBUS 0; mmap refused 0; data mismatches 4
[    9.1] oracle: stress: errors: lseek:ENOENT 12
[    9.1] oracle: stress: violations: none
`
	nothing := strings.NewReplacer("lseek:ENOENT 12", "none", "mismatches 4", "mismatches 0").Replace(found)
	mismatch := `{"schema":1,"strategy":"mkwrite","violations":{"mode-mismatch":2},"errors":{"write:EIO":2},"data_mismatches":3}`
	clean := `{"schema":1,"strategy":"flip","violations":{}}`
	for _, tt := range []struct {
		name, console, mkwrite string
		want, lacks            string
	}{
		{"fell", fellHealthy, mismatch, "  same class: mode-mismatch, the kernel's by __block_commit_write.constprop.0.isra.0 < generic_write_end < generic_perform_write\n", ""},
		{"fell alone", fellHealthy, clean, "isra.0 (class mode-mismatch), 2.25 s after the race began", "same class"},
		{"errors", found, mismatch, "errors: lseek:ENOENT 12", "same class"},
		{"mismatches", found, mismatch, "data mismatches: 4", ""},
		{"ours", found, mismatch, "violations: mode-mismatch 2", ""},
		{"nothing", nothing, clean, "kernel 7.9.0                 nothing wrong\n  inlinefs flip                nothing wrong", ""},
		{"no result", "[    2.1] oracle: kernel 7.9.0\n[   9.0] oracle: end: no virtio disk\n", clean, "no result: no virtio disk", "nothing wrong\n  inlinefs mkwrite"},
		{"no boot", "x\n", clean, "the kernel did not come up", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			for name, text := range map[string]string{"s.log": tt.console, "s-mkwrite.json": tt.mkwrite, "s-default.json": clean, "c": fell, "r": convicted} {
				if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			var out bytes.Buffer
			code := run([]string{filepath.Join(dir, "c"), filepath.Join(dir, "r"), "s=" + filepath.Join(dir, "s")}, &out, &out)
			if code != 0 || !strings.Contains(out.String(), tt.want) || tt.lacks != "" && strings.Contains(out.String(), tt.lacks) {
				t.Errorf("exit code %d, output wants %q and not %q:\n%s", code, tt.want, tt.lacks, &out)
			}
		})
	}
	var out bytes.Buffer
	for _, arg := range []string{"s", "=x", "s=/nonexistent/x"} {
		if code := run([]string{"c", "r", arg}, &out, &out); code != exitUsage {
			t.Errorf("%s: exit code %d, want %d", arg, code, exitUsage)
		}
	}
}

// TestChainExists: the functions of this project that the chain names are there, under those names.
func TestChainExists(t *testing.T) {
	for _, s := range chain {
		pkg, rest, _ := strings.Cut(s.ours, ".(*")
		typ, method, ok := strings.Cut(rest, ").")
		if !ok {
			t.Fatalf("%s: want package.(*Type).Method", s.ours)
		}
		files, err := filepath.Glob(filepath.Join("..", "..", pkg, "*.go"))
		if err != nil {
			t.Fatal(err)
		}
		if !slices.ContainsFunc(files, func(path string) bool { return hasMethod(t, path, typ, method) }) {
			t.Errorf("%s is named for %s, but package %s has none", s.ours, s.kernel, pkg)
		}
	}
}

func hasMethod(t *testing.T, path, typ, method string) bool {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	return slices.ContainsFunc(f.Decls, func(d ast.Decl) bool {
		fn, ok := d.(*ast.FuncDecl)
		if !ok || fn.Recv == nil || fn.Name.Name != method {
			return false
		}
		star, ok := fn.Recv.List[0].Type.(*ast.StarExpr)
		if !ok {
			return false
		}
		id, ok := star.X.(*ast.Ident)
		return ok && id.Name == typ
	})
}
