package fs

import (
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"inlinefs/internal/testimage"
	"inlinefs/super"
)

// journalDevice makes a journal device with mke2fs.
func journalDevice(t *testing.T) string {
	t.Helper()
	mke2fs, err := exec.LookPath("mke2fs")
	if err != nil {
		t.Skip("needs mke2fs (package e2fsprogs)")
	}
	path := filepath.Join(t.TempDir(), "journal")
	must(t, os.WriteFile(path, nil, 0o600))
	must(t, os.Truncate(path, 8<<20))
	out, err := exec.Command(mke2fs, "-q", "-F", "-b", "1024", "-O", "journal_dev,metadata_csum", "-U", "1db3f677-6832-4adb-bafc-8e4059c30a33", path).CombinedOutput()
	if err != nil {
		t.Fatalf("mke2fs: %v\n%s", err, out)
	}
	return path
}

// TestExternalJournals are e2fsprogs's cases of a journal on a device of its own (j_ext_*, j_corrupt_ext_jnl_sb_*): the mount is refused and
// names the device, whatever is in the log or wrong with it, and nothing is written. The journal device itself is no file system.
func TestExternalJournals(t *testing.T) {
	testimage.FuseUsable(t)
	for name, c := range map[string]struct {
		cmds   []string
		damage int64 // byte of the journal device to turn around
	}{
		"ext_dumpe2fs":             {},
		"ext_long_trans":           {cmds: []string{"jo -f %J", "jw -b %A %F", "jc"}},
		"ext_long_revoke_trans":    {cmds: []string{"jo -f %J", "jw -b %A %F", "jc", "jo -f %J", "jw -r %A", "jc"}},
		"corrupt_ext_jnl_sb_block": {cmds: []string{"jo -f %J", "jw -b %A %F", "jc"}, damage: 2048},
		"corrupt_ext_jnl_sb_csum":  {cmds: []string{"jo -f %J", "jw -b %A %F", "jc"}, damage: 2048 + 0xFC},
	} {
		t.Run(name, func(t *testing.T) {
			dev := journalDevice(t)
			r := recipe{csum: true, cmds: []string{"feature ^has_journal"}}
			img := recipeImage(t, r)
			setup := []string{"feature has_journal", "ssv journal_inum 0", "ssv journal_dev 0x9999", "ssv journal_uuid 1db3f677-6832-4adb-bafc-8e4059c30a33"}
			news := filepath.Join(t.TempDir(), "news")
			write(t, news, strings.Repeat("n", recipeBlocks*1024))
			blks := strings.Fields(testimage.Debugfs(t, img, false, "blocks /f"))
			for _, cmd := range c.cmds {
				setup = append(setup, strings.NewReplacer("%J", dev, "%A", strings.Join(blks, ","), "%F", news).Replace(cmd))
			}
			debugfsScript(t, img, setup)
			b, err := os.ReadFile(dev)
			must(t, err)
			if dirty := binary.BigEndian.Uint32(b[2048+28:]) != 0; dirty != (len(c.cmds) > 0) {
				t.Errorf("the journal device has a log to replay: %v", dirty)
			}
			if c.damage != 0 {
				poke(t, dev, c.damage, string([]byte{^b[c.damage]}))
			}
			before, err := os.ReadFile(img)
			must(t, err)
			for _, ro := range []bool{true, false} {
				_, err := tryMount(t, config{img: img, broken: true, super: super.Options{ReadOnly: ro}})
				refusal(t, fmt.Sprintf("read-only %v", ro), err, "external device (0x9999)")
			}
			same(t, "a refused mount", img, before)
			_, err = tryMount(t, config{img: dev, broken: true, super: super.Options{ReadOnly: true}})
			refusal(t, "the journal device as a file system", err, "journal_dev")
		})
	}
}

// TestPublicCases: each of the 36 journal cases of e2fsprogs has a recipe of ours, under the same name.
func TestPublicCases(t *testing.T) {
	names := strings.Fields(`short_trans short_trans_64bit short_trans_mcsum_64bit short_trans_old_csum short_trans_recover
		short_trans_recover_mcsum_64bit short_trans_open_recover long_trans long_trans_mcsum_32bit long_trans_mcsum_64bit
		short_revoke_trans short_revoke_trans_mcsum_64bit long_revoke_trans long_revoke_trans_mcsum_32bit long_revoke_trans_mcsum_64bit
		short_uncommitted_trans short_uncommitted_trans_mcsum_64bit recover_csum2_32bit recover_csum2_64bit recover_csum3_64bit
		recover_fast_commit corrupt_commit_csum corrupt_commit_tid corrupt_descr_csum corrupt_descr_tid corrupt_journal_block
		corrupt_revoke_block corrupt_revoke_csum corrupt_revoke_rcount corrupt_sb_csum corrupt_sb_magic corrupt_ext_jnl_sb_block
		corrupt_ext_jnl_sb_csum ext_long_trans ext_long_revoke_trans ext_dumpe2fs`)
	if len(names) != 36 {
		t.Errorf("%d names, want 36", len(names))
	}
	var recipes strings.Builder
	for _, f := range []string{"recover_test.go", "recover_kernel_test.go", "external_test.go", "../journal/recovery/e2fsprogs_test.go"} {
		b, err := os.ReadFile(f)
		must(t, err)
		recipes.Write(b)
	}
	for _, n := range names {
		if n == "recover_fast_commit" { // TestKernelFastCommits: the kernel makes the log; we refuse it and say how to go on
			n = "TestKernelFastCommits"
		}
		if !strings.Contains(recipes.String(), `"`+n+`"`) && !strings.Contains(recipes.String(), "func "+n+"(") {
			t.Errorf("no recipe for %s", n)
		}
	}
}
