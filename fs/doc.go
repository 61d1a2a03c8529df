// Package fs turns FUSE requests into operations on an ext4 image. It is the only package that knows go-fuse.
//
// A request becomes a journal.Task; the operation takes the inode locks, opens a handle, and calls downward: dir, inline, extent,
// xattr, alloc, inode, journal, buffer, blockdev. Nothing calls upward.
//
// # Lock order
//
// First to last; a lock is taken only while holding locks that stand before it. In brackets the kernel's lock.
//
//	1  renameMu                 cross-directory renames [s_vfs_rename_mutex]
//	2  Inode.Rw                 parents before children, two of a kind by inode number [i_rwsem]
//	3  handle                   journal.Start to Stop [transaction start]
//	4  orphanMu                 the orphan list [s_orphan_lock]
//	5  Inode.XattrSem           [xattr_sem]
//	6  Inode.DataSem            [i_data_sem]
//	7  Group.Mu                 bitmaps and descriptor of a group [ext4_lock_group]
//	8  Inode.Mu                 the raw inode in core [i_raw_lock]
//	9  super.FS.sbMu            the superblock
//	10 buffer.Head lock         [buffer lock]
//	11 leaf locks               journal state, cache shards, mm.Mapping, event.Ring: never held across a call
//
// A fault (READ that fills the page cache) comes while the client holds mmap_lock and the folio lock; a WRITE comes with the client's
// i_rwsem held, its buffer already faulted in. So a fault may wait for Inode.Rw, but nothing under Inode.Rw may wait for a fault, for a
// write-back, or notify the kernel. The lock-checking build (-tags deadlock) reports any inversion among 1 to 10.
package fs
