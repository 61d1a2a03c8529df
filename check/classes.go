package check

// Classes of findings: the part of the image that is wrong and, after the dash, how.
const (
	ClassRead          = "read"       // the device refused to read a block
	ClassTooMany       = "too-many"   // the walk ended early
	ClassSuper         = "superblock" // a field of the superblock
	ClassSuperCsum     = "superblock-checksum"
	ClassGeometry      = "geometry" // sizes that cannot be true for this device
	ClassFeature       = "feature"  // a feature that this checker cannot judge
	ClassBackup        = "backup"   // a backup superblock or descriptor table differs
	ClassNeedsRecovery = "needs-recovery"
	ClassState         = "state" // not cleanly unmounted, or an error was recorded
	ClassJournal       = "journal"
	ClassOrphan        = "orphan"      // an inode waits on the orphan list or in the orphan file
	ClassOrphanList    = "orphan-list" // the list itself is broken

	ClassGroupCsum       = "group-checksum"
	ClassGroupLocation   = "group-location"
	ClassGroupUninit     = "group-uninit"
	ClassBlockBitmapCsum = "block-bitmap-checksum"
	ClassInodeBitmapCsum = "inode-bitmap-checksum"
	ClassBitmapPadding   = "bitmap-padding"
	ClassFreeBlocks      = "free-blocks"   // a count
	ClassFreeInodes      = "free-inodes"   // a count
	ClassUsedDirs        = "used-dirs"     // a count
	ClassItableUnused    = "itable-unused" // a count
	ClassBlockRange      = "block-range"
	ClassBlockShared     = "block-shared" // claimed twice
	ClassBlockFree       = "block-free"   // in use, marked free
	ClassBlockLeak       = "block-leak"   // unused, marked in use
	ClassInodeFree       = "inode-free"   // in use, marked free
	ClassInodeLeak       = "inode-leak"   // unused, marked in use

	ClassInodeCsum  = "inode-checksum"
	ClassInodeMode  = "inode-mode"
	ClassInodeFlags = "inode-flags"
	ClassInodeExtra = "inode-extra" // i_extra_isize
	ClassInodeDtime = "inode-dtime"
	ClassExtent     = "extent"
	ClassExtentCsum = "extent-checksum"
	ClassIndirect   = "indirect"
	ClassIBlocks    = "i-blocks"
	ClassISize      = "i-size"
	ClassSymlink    = "symlink"
	ClassResize     = "resize-inode"

	ClassDir         = "dir"       // a directory's blocks
	ClassDirEntry    = "dir-entry" // an entry
	ClassDirDots     = "dir-dots"  // "." and ".."
	ClassDirType     = "dir-type"
	ClassDirCsum     = "dir-checksum"
	ClassDirTwice    = "dir-duplicate" // one name twice
	ClassDirLinked   = "dir-linked"    // a directory with two names
	ClassHtree       = "htree"
	ClassHtreeCsum   = "htree-checksum"
	ClassLinks       = "links"
	ClassUnreachable = "unreachable"

	ClassXattr         = "xattr"
	ClassXattrIbody    = "xattr-ibody"
	ClassXattrCsum     = "xattr-checksum"
	ClassXattrHash     = "xattr-hash"
	ClassXattrRefcount = "xattr-refcount"

	ClassInlineFeature  = "inline-feature"  // the flag without the feature
	ClassInlineCapacity = "inline-capacity" // i_size beyond the bytes there are
	ClassInlineExtents  = "inline-extents"  // both flags
	ClassInlineNoData   = "inline-no-data"  // the flag without system.data
	ClassInlineTail     = "inline-tail"     // bytes after i_size
	ClassInlineBlocks   = "inline-blocks"   // i_blocks of an inline file
	ClassInlineDir      = "inline-dir"
	ClassInlineStale    = "inline-stale" // system.data without the flag
)
