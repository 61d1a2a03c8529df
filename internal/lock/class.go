package lock

// Class is a kind of lock: all locks of a class stand at one place of the lock order.
type Class struct {
	// Name is the kernel's name.
	Name string
	// Rank is the place in the order, taken from low to high; 0 for a class that the table does not place.
	Rank int
	// Nests says that two locks of the class may be held at once: an ancestor before what is below it, else by instance number. Which of the
	// two is above cannot be told from the locks, so that the checker asks only for the same order each time.
	Nests bool
	// Leaf says that critical sections of the class commute as far as anybody can tell (caches, counters): the explorer gives them no
	// switch point and no dependence.
	Leaf bool
}

// The classes, in the order of fs/doc.go, which a test compares with this list (kernel: mm/filemap.c, fs/ext4/super.c).
var (
	Rename     = &Class{Name: "s_vfs_rename_mutex", Rank: 10}
	Rwsem      = &Class{Name: "i_rwsem", Rank: 20, Nests: true}
	MmapLock   = &Class{Name: "mmap_lock", Rank: 30}
	Invalidate = &Class{Name: "invalidate_lock", Rank: 40}
	Checkpoint = &Class{Name: "j_checkpoint_mutex", Rank: 45}
	Trans      = &Class{Name: "transaction start", Rank: 50}
	Orphans    = &Class{Name: "s_orphan_lock", Rank: 60}
	Folio      = &Class{Name: "folio lock", Rank: 70}
	XattrSem   = &Class{Name: "xattr_sem", Rank: 80, Nests: true}
	DataSem    = &Class{Name: "i_data_sem", Rank: 90, Nests: true}
	InodeLoad  = &Class{Name: "I_NEW", Rank: 95, Leaf: true}
	GroupLock  = &Class{Name: "ext4_lock_group", Rank: 100}
	RawLock    = &Class{Name: "i_raw_lock", Rank: 110}
	SuperLock  = &Class{Name: "s_error_lock", Rank: 120, Leaf: true}
	WriteBack  = &Class{Name: "writeback", Rank: 125}
	BufferLock = &Class{Name: "buffer lock", Rank: 130}
)

// Part is a set of the parts of what one lock guards, for Touching.
type Part uint8

// The parts of a raw inode. What only i_data_sem orders (the extent cache) is none of them and stands for nothing to the explorer.
const (
	RawFlags Part = 1 << iota // i_flags, i_mode, and what is in the attribute area
	RawMap                    // i_block
	RawSize                   // i_size
	RawRest                   // times, owner, links, i_blocks

	Parts   = 5
	RawNone = Part(1 << (Parts - 1)) // the extent cache: commutes with every other part
)

// Barrier is what a handle holds shared and a commit takes exclusively in the exploring build; elsewhere a commit sleeps until handles have
// stopped, which Trans stands for.
var Barrier = exploringClass("jbd2_handle", 49)

// exploringClass is a class of the exploring build, which is not in the list above.
func exploringClass(name string, rank int) *Class { return &Class{Name: name, Rank: rank} }
