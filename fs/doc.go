// Package fs turns FUSE requests into operations on an ext4 image. It is the only package that knows go-fuse.
//
// A request becomes a journal.Task; the operation takes the inode locks, opens a handle, and calls downward: dir, inline, extent,
// xattr, alloc, inode, journal, buffer, blockdev. Nothing calls upward.
//
// # Lock order
//
// First to last; a lock is taken only while holding locks that stand before it. In brackets the kernel's lock, which is the name of the
// class in internal/lock; a test compares the two lists.
//
//	 1 renameMu           cross-directory renames [s_vfs_rename_mutex]
//	 2 Inode.Rw           ancestors before what is below them, directories before files, else by inode number [i_rwsem]
//	 3 mm MmapLock        the client's address space, one per process; a shadow [mmap_lock]
//	 4 mm Invalidate      the inode's page cache against truncation; a shadow [invalidate_lock]
//	 5 journal cpMu       one checkpoint at a time; it waits for commits [j_checkpoint_mutex]
//	 6 handle             journal.Start to Stop, and every wait for a commit [transaction start]
//	 7 orphanMu           the orphan list [s_orphan_lock]
//	 8 mm Folio           page 0 of an inode; a shadow [folio lock]
//	 9 Inode.XattrSem     attributes and inline data [xattr_sem]
//	10 Inode.DataSem      logical to physical blocks [i_data_sem]
//	11 Inode.loadMu       an inode that is being read [I_NEW]
//	12 Group.Mu           bitmaps and descriptor of a group [ext4_lock_group]
//	13 Inode.Mu           the raw inode in core [i_raw_lock]
//	14 super.FS.sbMu      the superblock [s_error_lock]
//	15 buffer writeMu     one write-back at a time, and the wait for it [writeback]
//	16 buffer.Head.mu     the bytes of a block [buffer lock]
//
// Below them are leaf locks, which have no class: journal state, cache shards, mm.Mapping, event.Ring. They are never held across a call
// that takes one of the above.
//
// Two directories neither of which is above the other are held together under renameMu only, or as children of one that is held: what is
// above what does not change meanwhile (kernel: directory-locking).
//
// A shadow stands for a lock that the client's kernel holds while the client sleeps in a request; mm takes it so that the order is checked
// here.
//
// A fault (READ that fills the page cache) comes while the client holds mmap_lock and the folio lock; a WRITE comes with the client's
// i_rwsem held, its buffer already faulted in. So nothing under Inode.Rw may wait for the client to fault or to write back, or notify the
// kernel; a request notifies (notify.go) when it has given its locks back and before it is answered. It may wait for a shadow: who holds one is a request of this daemon, which ends by itself as long as it does not take Inode.Rw
// under the shadow. The strategies mkwrite_ilock and mmap do just that, by Inode.LockRwKillable, and are convicted of it; a fault that needs
// Inode.Rw drops the shadows first (FaultRetry). The lock-checking build (-tags deadlock) reports any inversion among 1 to 16.
package fs
