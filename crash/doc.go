// Package crash proves that a crash loses nothing that was promised. A seeded workload runs on the file system in this process, without
// the kernel, over a device that records every write and flush. The record is then cut at every write and flush; of the writes that
// no flush had followed some are dropped or torn. Each image that results is mounted again, which replays the journal, and held against
// package check, against a model of what the workload had done, and against e2fsck.
//
// With a journal (data=ordered) the promises are: the tree is that after one of the operations, not before the last one that an fsync
// made durable and not after the last one begun; a file that is inline has the bytes of exactly that moment; a byte of a file in blocks
// is one that the file had there since its last fsync, since an overwrite in place is in no transaction. Without a journal only the
// bytes of a file count, at the flush that ended its fsync, after e2fsck -fy.
//
// Sectors of 512 bytes are written whole or not at all. The two sectors of the ext4 superblock count as one: ext4 itself has no way to
// mount, and no journal to consult, when they are torn apart.
package crash
