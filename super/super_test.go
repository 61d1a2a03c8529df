package super_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"os"
	"strings"
	"syscall"
	"testing"

	"inlinefs/blockdev"
	"inlinefs/internal/testimage"
	"inlinefs/journal"
	"inlinefs/ondisk"
	"inlinefs/super"
)

func quiet() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

func plain() testimage.Options {
	return testimage.Options{BlockSize: 4096, InodeSize: 256, Inodes: 64, SizeMiB: 2, Features: "inline_data,metadata_csum,64bit,^has_journal"}
}

// load is the image as bytes.
func load(t testing.TB, o testimage.Options) []byte {
	t.Helper()
	b, err := os.ReadFile(testimage.Make(t, o))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func sb(img []byte) ondisk.Super { return ondisk.Super(img[1024:2048]) }

// open opens a copy of img and closes it again, unless it is refused.
func open(t testing.TB, img []byte, o super.Options) (*super.FS, error) {
	t.Helper()
	o.Log = quiet()
	return super.Open(blockdev.NewMem(append([]byte(nil), img...)), o)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestFeatures: what mke2fs can make is mounted, mounted read-only, or refused by name.
func TestFeatures(t *testing.T) {
	for _, tc := range []struct {
		features string
		blocks   int
		refused  string // a word of the refusal
		readOnly string // a word of the notice
	}{
		{features: "inline_data,metadata_csum,64bit,^has_journal"},
		{features: "none"},
		{features: "none,sparse_super,filetype,resize_inode,ext_attr"},
		{features: "^has_journal,metadata_csum,metadata_csum_seed"},
		{features: "^has_journal,meta_bg,^resize_inode"},
		{features: "^has_journal,sparse_super2,^resize_inode"},
		{features: "^has_journal,large_dir"},
		{features: "^has_journal,quota", readOnly: "quota"},
		{features: "^has_journal,quota,project", readOnly: "project"},
		{features: "^has_journal,verity", readOnly: "verity"},
		{features: "^has_journal,ea_inode", refused: "ea_inode"},
		{features: "^has_journal,casefold", refused: "casefold"},
		{features: "^has_journal,encrypt", refused: "encrypt"},
		{features: "^has_journal,mmp", refused: "mmp"},
		{features: "^has_journal,bigalloc", refused: "bigalloc"},
	} {
		t.Run(tc.features, func(t *testing.T) {
			o := plain()
			o.Features = tc.features
			f, err := open(t, load(t, o), super.Options{})
			if tc.refused != "" {
				if !errors.Is(err, super.ErrRefused) || !strings.Contains(err.Error(), tc.refused) {
					t.Errorf("%v, want a refusal that names %s", err, tc.refused)
				}
				return
			}
			must(t, err)
			notices := strings.Join(f.Notices, "; ")
			if f.ReadOnly() != (tc.readOnly != "") || !strings.Contains(notices, tc.readOnly) {
				t.Errorf("read-only %v, notices %q; want %q", f.ReadOnly(), notices, tc.readOnly)
			}
		})
	}
}

// TestUnknownBits: each bit that is not supported is named, by number when it has no name.
func TestUnknownBits(t *testing.T) {
	img := load(t, plain())
	for bit := uint32(1); bit != 0; bit <<= 1 {
		check := func(kind, name string, set func(ondisk.Super), known, refuse bool) {
			b := append([]byte(nil), img...)
			set(sb(b))
			sb(b).UpdateChecksum()
			f, err := open(t, b, super.Options{})
			switch {
			case known || err != nil && !errors.Is(err, super.ErrRefused):
				if !known {
					t.Errorf("%s 0x%x: %v", kind, bit, err)
				}
			case refuse && (err == nil || !strings.Contains(err.Error(), name)):
				t.Errorf("%s 0x%x: %v, want a refusal that names %s", kind, bit, err, name)
			case !refuse && err == nil && (!f.ReadOnly() || !strings.Contains(strings.Join(f.Notices, ";"), name)):
				t.Errorf("%s 0x%x: read-only %v, notices %v, want %s", kind, bit, f.ReadOnly(), f.Notices, name)
			case !refuse && err != nil && bit != ondisk.ROCompatBigalloc:
				t.Errorf("%s 0x%x: %v, want a read-only mount", kind, bit, err)
			}
		}
		set := func(s ondisk.Super) { s.SetFeatureIncompat(s.FeatureIncompat() | bit) }
		check("incompat", ondisk.IncompatNames(bit), set, super.SupportedIncompat()&bit != 0, true)
		set = func(s ondisk.Super) { s.SetFeatureROCompat(s.FeatureROCompat() | bit) }
		check("ro_compat", ondisk.ROCompatNames(bit), set, super.SupportedROCompat()&bit != 0, false)
	}
	if name := ondisk.IncompatNames(1 << 30); !strings.Contains(name, "0x40000000") {
		t.Errorf("an unknown bit is called %q", name)
	}
}

// field is a damaged field of the superblock.
type field struct {
	name string
	at   int
	n    int // bytes
	v    uint64
	want string // a word of the refusal
}

func fields() []field {
	return []field{
		{"magic", 0x38, 2, 0x1234, "magic"},
		{"revision", 0x4C, 4, 2, "revision"},
		{"block size", 0x18, 4, 7, "s_log_block_size"},
		{"block size, huge", 0x18, 4, 1 << 31, "s_log_block_size"},
		{"cluster size", 0x1C, 4, 5, "s_log_cluster_size"},
		{"block count zero", 0x4, 4, 0, "s_blocks_count"},
		{"block count beyond the device", 0x4, 4, 1 << 20, "blocks"},
		{"block count, high half", 0x150, 4, 1, "blocks"},
		{"blocks per group zero", 0x20, 4, 0, "s_blocks_per_group"},
		{"blocks per group odd", 0x20, 4, 32767, "s_blocks_per_group"},
		{"blocks per group too many", 0x20, 4, 32768 + 8, "s_blocks_per_group"},
		{"inodes per group zero", 0x28, 4, 0, "s_inodes_per_group"},
		{"inodes per group too many", 0x28, 4, 1 << 20, "s_inodes_per_group"},
		{"inode count", 0x0, 4, 3, "s_inodes_count"},
		{"first data block", 0x14, 4, 1, "s_first_data_block"},
		{"inode size zero", 0x58, 2, 0, "inode size"},
		{"inode size odd", 0x58, 2, 200, "inode size"},
		{"inode size larger than a block", 0x58, 2, 8192, "inode size"},
		{"first inode", 0x54, 4, 5, "s_first_ino"},
		{"first inode beyond all", 0x54, 4, 1 << 30, "s_first_ino"},
		{"descriptor size zero", 0xFE, 2, 0, "descriptor size"},
		{"descriptor size 32 with 64bit", 0xFE, 2, 32, "descriptor size"},
		{"descriptor size odd", 0xFE, 2, 96, "descriptor size"},
		{"checksum type", 0x175, 1, 2, "checksum type"},
	}
}

// TestDamagedFields: each is refused with an error that names it; a wrong checksum alone as well.
func TestDamagedFields(t *testing.T) {
	img := load(t, plain())
	for _, tc := range fields() {
		t.Run(tc.name, func(t *testing.T) {
			b := append([]byte(nil), img...)
			var v [8]byte
			binary.LittleEndian.PutUint64(v[:], tc.v)
			copy(sb(b)[tc.at:tc.at+tc.n], v[:])
			sb(b).UpdateChecksum()
			if _, err := open(t, b, super.Options{}); !errors.Is(err, super.ErrRefused) || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%v, want a refusal that names %q", err, tc.want)
			}
		})
	}
	b := append([]byte(nil), img...)
	sb(b)[0x80] ^= 1
	var c *ondisk.CorruptError
	if _, err := open(t, b, super.Options{}); !errors.As(err, &c) || !c.Checksum {
		t.Errorf("%v, want a wrong checksum", err)
	}
	for _, n := range []int{0, 1024, 2047, 2048, 4096, 1 << 20} {
		if _, err := open(t, img[:n], super.Options{}); err == nil {
			t.Errorf("an image cut to %d bytes was opened", n)
		}
	}
}

// TestDamagedDescriptors: places that cannot be are refused, with and without checksums.
func TestDamagedDescriptors(t *testing.T) {
	for _, features := range []string{"metadata_csum,64bit,^has_journal", "^metadata_csum,uninit_bg,^64bit,^has_journal", "^metadata_csum,^uninit_bg,64bit,^has_journal"} {
		o := plain()
		o.Features = features
		img := load(t, o)
		f, err := open(t, img, super.Options{})
		must(t, err)
		for _, at := range []int{0, 4, 8} { // block bitmap, inode bitmap, inode table
			for _, v := range []uint32{0, uint32(f.Blocks), ^uint32(0)} {
				b := append([]byte(nil), img...)
				d := ondisk.GroupDesc(b[4096 : 4096+f.DescSize])
				binary.LittleEndian.PutUint32(d[at:], v)
				if f.Csum || strings.Contains(features, ",uninit_bg") {
					if _, err := open(t, b, super.Options{}); !errors.Is(err, super.ErrRefused) || !strings.Contains(err.Error(), "checksum") {
						t.Errorf("%s, field at %d = %d: %v, want a wrong checksum", features, at, v, err)
					}
				}
				d.UpdateChecksum(f.SB, f.Seed, 0)
				if _, err := open(t, b, super.Options{}); !errors.Is(err, super.ErrRefused) || !strings.Contains(err.Error(), "group 0") {
					t.Errorf("%s, field at %d = %d: %v, want a refusal that names group 0", features, at, v, err)
				}
			}
		}
	}
}

// TestReadErrors: an unreadable superblock or descriptor is an error with its cause.
func TestReadErrors(t *testing.T) {
	img := load(t, plain())
	for _, at := range []int64{1024, 4096} {
		dev := blockdev.NewFaulty(blockdev.NewMem(append([]byte(nil), img...)))
		dev.Add(blockdev.Rule{Op: blockdev.OpRead, Start: at, End: at + 1, Err: syscall.EIO})
		if _, err := super.Open(dev, super.Options{Log: quiet()}); !errors.Is(err, syscall.EIO) {
			t.Errorf("with byte %d unreadable: %v, want %v", at, err, syscall.EIO)
		}
	}
}

// TestStateFlags: not valid while mounted, as it was afterwards; a read-only mount writes nothing.
func TestStateFlags(t *testing.T) {
	img := load(t, plain())
	for _, state := range []uint16{ondisk.StateValid, 0, ondisk.StateValid | ondisk.StateError} {
		sb(img).SetState(state)
		sb(img).UpdateChecksum()
		dev := blockdev.NewMem(append([]byte(nil), img...))
		f, err := super.Open(dev, super.Options{Log: quiet(), MountPoint: "/mnt/x"})
		must(t, err)
		count := f.SB.MntCount()
		must(t, f.Begin())
		if s := sb(dev.Snapshot()); s.State() != state&^ondisk.StateValid || s.MntCount() != count+1 {
			t.Errorf("mounted: state %d, mount count %d; was %d, %d", s.State(), s.MntCount(), state, count)
		}
		must(t, f.Close())
		s, err := ondisk.NewSuper(dev.Snapshot()[1024:2048])
		must(t, err)
		if s.State() != state {
			t.Errorf("unmounted: state %d, was %d", s.State(), state)
		}
		if last := string(s[0x88:0x8E]); last != "/mnt/x" {
			t.Errorf("last mounted on %q", last)
		}
		if wanted := len(f.Notices) != 0; wanted != (state != ondisk.StateValid) {
			t.Errorf("state %d: notices %v", state, f.Notices)
		}
	}
}

// TestReadOnlyWritesNothing, not even errors when the device is read-only.
func TestReadOnlyWritesNothing(t *testing.T) {
	img := load(t, plain())
	before := append([]byte(nil), img...)
	f, err := super.Open(blockdev.NewMemReadOnly(img), super.Options{Log: quiet(), ReadOnly: true})
	must(t, err)
	must(t, f.Begin())
	f.Error(12, 34, "read_inode", ondisk.Corrupt("inode 12", "is bad"))
	if _, err := f.Journal.Start(f.Journal.NewTask("x", 0), journal.Misc, 1); err == nil {
		t.Error("a handle starts on a read-only mount")
	}
	must(t, errors.Join(f.Sync(), f.Close()))
	if !bytes.Equal(img, before) {
		t.Error("the image changed")
	}
}

// TestErrors: the first and the last error are recorded with their place and code, and errors= decides.
func TestErrors(t *testing.T) {
	img := load(t, plain())
	for _, tc := range []struct {
		how      uint16
		readOnly bool
		panics   int
	}{{ondisk.ErrorsContinue, false, 0}, {ondisk.ErrorsRO, true, 0}, {ondisk.ErrorsPanic, true, 2}} {
		dev, panics := blockdev.NewMem(append([]byte(nil), img...)), 0
		f, err := super.Open(dev, super.Options{Log: quiet(), Errors: tc.how, OnPanic: func(error) { panics++ }})
		must(t, err)
		must(t, f.Begin())
		bad := ondisk.BadChecksum("inode 12", "i_checksum", 1, 2)
		if got := f.Corrupted(12, 345, "ext4_iget", bad); got != error(bad) {
			t.Errorf("Corrupted gives %v", got)
		}
		f.Error(13, 678, "ext4_find_extent", syscall.EIO)
		if f.ReadOnly() != tc.readOnly || panics != tc.panics || f.ErrorCount() != 2 {
			t.Errorf("errors=%d: read-only %v, %d panics, %d errors", tc.how, f.ReadOnly(), panics, f.ErrorCount())
		}
		task := f.Journal.NewTask("x", 0)
		h, err := f.Journal.Start(task, journal.Misc, 1)
		if (err != nil) != tc.readOnly {
			t.Errorf("errors=%d: a handle afterwards: %v", tc.how, err)
		}
		if err == nil {
			must(t, h.Stop())
		}
		must(t, errors.Join(task.End(), f.Close()))
		s, err := ondisk.NewSuper(dev.Snapshot()[1024:2048])
		must(t, err)
		le := binary.LittleEndian
		if s.ErrorCount() != 2 || s.State()&ondisk.StateError == 0 {
			t.Errorf("errors=%d: %d errors, state %d", tc.how, s.ErrorCount(), s.State())
		}
		if le.Uint32(s[0x19C:]) != 12 || le.Uint64(s[0x1A0:]) != 345 || !strings.HasPrefix(string(s[0x1A8:0x1C8]), "ext4_iget\x00") || s[0x27A] != 4 {
			t.Errorf("first error: inode %d, block %d, %q, code %d", le.Uint32(s[0x19C:]), le.Uint64(s[0x1A0:]), s[0x1A8:0x1C8], s[0x27A])
		}
		if le.Uint32(s[0x1D0:]) != 13 || le.Uint64(s[0x1D8:]) != 678 || !strings.HasPrefix(string(s[0x1E0:0x200]), "ext4_find_extent\x00") || s[0x27B] != 2 {
			t.Errorf("last error: inode %d, block %d, %q, code %d", le.Uint32(s[0x1D0:]), le.Uint64(s[0x1D8:]), s[0x1E0:0x200], s[0x27B])
		}
		if le.Uint32(s[0x198:]) == 0 || le.Uint32(s[0x1CC:]) == 0 {
			t.Error("an error has no time")
		}
	}
}
