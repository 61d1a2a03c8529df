package ondisk

import (
	"fmt"
	"strings"
)

var compatNames = map[uint32]string{0x1: "dir_prealloc", 0x2: "imagic_inodes", 0x4: "has_journal", 0x8: "ext_attr", 0x10: "resize_inode",
	0x20: "dir_index", 0x40: "lazy_bg", 0x200: "sparse_super2", 0x400: "fast_commit", 0x800: "stable_inodes", 0x1000: "orphan_file"}

var incompatNames = map[uint32]string{0x1: "compression", 0x2: "filetype", 0x4: "needs_recovery", 0x8: "journal_dev", 0x10: "meta_bg",
	0x40: "extent", 0x80: "64bit", 0x100: "mmp", 0x200: "flex_bg", 0x400: "ea_inode", 0x1000: "dirdata", 0x2000: "metadata_csum_seed",
	0x4000: "large_dir", 0x8000: "inline_data", 0x10000: "encrypt", 0x20000: "casefold"}

var roCompatNames = map[uint32]string{0x1: "sparse_super", 0x2: "large_file", 0x4: "btree_dir", 0x8: "huge_file", 0x10: "uninit_bg",
	0x20: "dir_nlink", 0x40: "extra_isize", 0x80: "snapshot", 0x100: "quota", 0x200: "bigalloc", 0x400: "metadata_csum", 0x800: "replica",
	0x1000: "read-only", 0x2000: "project", 0x4000: "shared_blocks", 0x8000: "verity", 0x10000: "orphan_present"}

func names(v uint32, m map[uint32]string, kind string) string {
	var out []string
	for bit := uint32(1); bit != 0; bit <<= 1 {
		if v&bit == 0 {
			continue
		}
		if n, ok := m[bit]; ok {
			out = append(out, n)
		} else {
			out = append(out, fmt.Sprintf("%s:0x%x", kind, bit))
		}
	}
	return strings.Join(out, ",")
}

// CompatNames names compatible feature bits as mke2fs spells them, comma-separated.
func CompatNames(v uint32) string { return names(v, compatNames, "compat") }

// IncompatNames names incompatible feature bits.
func IncompatNames(v uint32) string { return names(v, incompatNames, "incompat") }

// ROCompatNames names read-only-compatible feature bits.
func ROCompatNames(v uint32) string { return names(v, roCompatNames, "ro_compat") }
