package jbd2

import (
	"fmt"
	"strings"
)

// Feature bits of the compatible set (s_feature_compat).
const (
	// CompatChecksum says that commit blocks carry a crc32 of the transaction's
	// descriptor and data blocks (checksum version 1).
	CompatChecksum uint32 = 0x1
)

// Feature bits of the incompatible set (s_feature_incompat).
const (
	// IncompatRevoke says that the log may hold revoke blocks.
	IncompatRevoke uint32 = 0x1
	// Incompat64Bit says that block numbers have 64 bits.
	Incompat64Bit uint32 = 0x2
	// IncompatAsyncCommit says that the commit block may have been written
	// without waiting for the blocks before it.
	IncompatAsyncCommit uint32 = 0x4
	// IncompatCsumV2 says that all log blocks carry crc32c, tags the low 16 bits.
	IncompatCsumV2 uint32 = 0x8
	// IncompatCsumV3 is IncompatCsumV2 with 16-byte tags and full 32-bit sums.
	IncompatCsumV3 uint32 = 0x10
	// IncompatFastCommit says that the end of the log is a fast-commit area.
	IncompatFastCommit uint32 = 0x20

	// KnownIncompat is the set of all incompatible bits this package knows.
	KnownIncompat = IncompatRevoke | Incompat64Bit | IncompatAsyncCommit |
		IncompatCsumV2 | IncompatCsumV3 | IncompatFastCommit
)

// Features are the three feature words of the journal superblock.
type Features struct {
	Compat   uint32 // s_feature_compat
	Incompat uint32 // s_feature_incompat
	ROCompat uint32 // s_feature_ro_compat; no bit is defined
}

// ChecksumV1 says whether commit blocks carry the crc32 of the transaction.
func (f Features) ChecksumV1() bool { return f.Compat&CompatChecksum != 0 }

// Revoke says whether revoke blocks may occur.
func (f Features) Revoke() bool { return f.Incompat&IncompatRevoke != 0 }

// Is64Bit says whether block numbers have 64 bits.
func (f Features) Is64Bit() bool { return f.Incompat&Incompat64Bit != 0 }

// AsyncCommit says whether a commit block may precede its data on the disk.
func (f Features) AsyncCommit() bool { return f.Incompat&IncompatAsyncCommit != 0 }

// CsumV2 says whether checksum version 2 is on.
func (f Features) CsumV2() bool { return f.Incompat&IncompatCsumV2 != 0 }

// CsumV3 says whether checksum version 3 is on.
func (f Features) CsumV3() bool { return f.Incompat&IncompatCsumV3 != 0 }

// CsumV2or3 says whether every log block carries a crc32c
// (jbd2_journal_has_csum_v2or3).
func (f Features) CsumV2or3() bool { return f.Incompat&(IncompatCsumV2|IncompatCsumV3) != 0 }

// FastCommit says whether the log ends with a fast-commit area.
func (f Features) FastCommit() bool { return f.Incompat&IncompatFastCommit != 0 }

// TagBytes is the size in bytes of one descriptor tag, without the UUID that
// may follow it (journal_tag_bytes).
func (f Features) TagBytes() int {
	if f.CsumV3() {
		return tag3Bytes
	}
	n := tagBytes32
	if f.CsumV2() {
		n += 2
	}
	if f.Is64Bit() {
		n += 4
	}
	return n
}

// TailBytes is the size in bytes of the checksum at the end of descriptor and
// revoke blocks: 4 or 0.
func (f Features) TailBytes() int {
	if f.CsumV2or3() {
		return tailBytes
	}
	return 0
}

// RevokeRecordBytes is the size in bytes of one revoke record: 8 or 4.
func (f Features) RevokeRecordBytes() int {
	if f.Is64Bit() {
		return 8
	}
	return 4
}

// Check refuses feature bits that are unknown or contradict each other. The
// error wraps ErrFeature and names the bits.
func (f Features) Check() error {
	if u := f.Incompat &^ KnownIncompat; u != 0 {
		return fmt.Errorf("%w: incompatible bits %#x found, only %#x are known", ErrFeature, u, KnownIncompat)
	}
	if f.ROCompat != 0 {
		return fmt.Errorf("%w: read-only compatible bits %#x found, none is known", ErrFeature, f.ROCompat)
	}
	if f.CsumV2() && f.CsumV3() {
		return fmt.Errorf("%w: checksum versions 2 and 3 found together", ErrFeature)
	}
	if f.ChecksumV1() && f.CsumV2or3() {
		return fmt.Errorf("%w: checksum version 1 found together with version 2 or 3", ErrFeature)
	}
	return nil
}

// String lists the feature names, comma-separated, unknown bits in hexadecimal.
func (f Features) String() string {
	var out []string
	add := func(word uint32, prefix string, names []string) {
		for i := range 32 {
			if word&(1<<i) == 0 {
				continue
			}
			if i < len(names) {
				out = append(out, names[i])
				continue
			}
			out = append(out, fmt.Sprintf("%s%#x", prefix, uint32(1)<<i))
		}
	}
	add(f.Compat, "compat_", []string{"checksum"})
	add(f.Incompat, "incompat_", []string{"revoke", "64bit", "async_commit", "csum_v2", "csum_v3", "fast_commit"})
	add(f.ROCompat, "ro_compat_", nil)
	return strings.Join(out, ",")
}
