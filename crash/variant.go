package crash

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// Variant is a kind of image to crash.
type Variant struct {
	Name      string
	BlockSize int // bytes
	SizeKiB   int // of the image
	Features  string
	Journal   bool
	// Observe mounts with mmap=observe and the strategy that converts in the page fault, so that conversions fail and are taken back.
	Observe bool
	// Storm has every file changed in each of many transactions, so that the log fills up.
	Storm bool
	// CacheKiB is the size of the metadata cache; 0 is enough for everything. A small one is written back all the time.
	CacheKiB int
}

// Variants lists the kinds of image with a journal, which has the least size that mke2fs makes, 1024 blocks, so that it wraps around.
func Variants() []Variant {
	return []Variant{
		{Name: "1k-csum-64bit", BlockSize: 1024, SizeKiB: 4096, Features: "metadata_csum,64bit", Journal: true, Observe: true},
		{Name: "4k-csum-64bit", BlockSize: 4096, SizeKiB: 6144, Features: "metadata_csum,64bit", Journal: true},
		{Name: "1k-plain", BlockSize: 1024, SizeKiB: 4096, Features: "^metadata_csum,^64bit", Journal: true},
		{Name: "4k-plain", BlockSize: 4096, SizeKiB: 6144, Features: "^metadata_csum,^64bit", Journal: true, Observe: true, CacheKiB: 128},
		{Name: "1k-csum-32bit", BlockSize: 1024, SizeKiB: 4096, Features: "metadata_csum,^64bit", Journal: true, Storm: true},
		{Name: "4k-gdtcsum-64bit", BlockSize: 4096, SizeKiB: 6144, Features: "^metadata_csum,uninit_bg,64bit", Journal: true},
		{Name: "1k-csum-busy", BlockSize: 1024, SizeKiB: 4096, Features: "metadata_csum,64bit", Journal: true, CacheKiB: 32},
		{Name: "1k-orphan-file", BlockSize: 1024, SizeKiB: 4096, Features: "metadata_csum,64bit,orphan_file", Journal: true, Observe: true},
		{Name: "4k-storm", BlockSize: 4096, SizeKiB: 8192, Features: "metadata_csum,64bit", Journal: true, Storm: true},
	}
}

// NoJournalVariants lists the kinds of image without a journal.
func NoJournalVariants() []Variant {
	return []Variant{
		{Name: "4k-nojournal", BlockSize: 4096, SizeKiB: 4096, Features: "metadata_csum,64bit"},
		{Name: "1k-nojournal", BlockSize: 1024, SizeKiB: 2048, Features: "^metadata_csum,^64bit", Observe: true},
	}
}

// fixedID makes images the same in every run: it is their UUID and hash seed.
const fixedID = "6b1d2a8e-5c1f-4f0e-9a57-3d2c6e1f7a90"

// features of every variant; what mke2fs.conf says does not count.
const features = "none,ext_attr,dir_index,filetype,extent,flex_bg,sparse_super,large_file,huge_file,dir_nlink,extra_isize,inline_data"

// Make makes an image of the variant with mke2fs; the same bytes each time. dir is for a temporary file. The error wraps exec.ErrNotFound
// when mke2fs is not installed.
func (v Variant) Make(dir string) ([]byte, error) {
	bin, err := tool("mkfs.ext4")
	if err != nil {
		return nil, err
	}
	f, err := os.CreateTemp(dir, "crash-*.ext4")
	if err != nil {
		return nil, err
	}
	path := f.Name()
	defer os.Remove(path)
	if err := f.Close(); err != nil {
		return nil, err
	}
	journal := "has_journal"
	size := v.SizeKiB
	args := []string{"-q", "-F", "-b", fmt.Sprint(v.BlockSize), "-I", "256", "-N", "192", "-m", "0", "-U", fixedID,
		"-E", "lazy_itable_init=0,nodiscard,hash_seed=" + fixedID}
	if v.Journal {
		size += 1024 * v.BlockSize / 1024
		args = append(args, "-J", fmt.Sprintf("size=%d", 1024*v.BlockSize>>20))
	} else {
		journal = "^has_journal"
	}
	args = append(args, "-O", features+","+journal+","+v.Features, path, fmt.Sprintf("%dk", size))
	cmd := exec.Command(bin, args...)
	cmd.Env = append(os.Environ(), "E2FSPROGS_FAKE_TIME=1700000000", "LC_ALL=C")
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("mkfs.ext4 %v: %w\n%s", args, err, out)
	}
	return os.ReadFile(path)
}

// tool finds a program of e2fsprogs, which may be in a directory that is not on the path.
func tool(name string) (string, error) {
	for _, d := range []string{"/usr/sbin", "/sbin"} {
		if p, err := exec.LookPath(filepath.Join(d, name)); err == nil {
			return p, nil
		}
	}
	return exec.LookPath(name)
}

// Usable says why crashes cannot be tried here, nil when they can.
func Usable() error {
	for _, n := range []string{"mkfs.ext4", "e2fsck"} {
		if _, err := tool(n); err != nil {
			return err
		}
	}
	return nil
}
