// Package inline keeps the data of small files inside the inode, and moves it to a block when the file outgrows it, is
// preallocated, or may be mapped.
//
// Two flags make three states (ext4-inline-data.md, B.2). I is INLINE_DATA_FL on disk; M is MayInline, EXT4_STATE_MAY_INLINE_DATA.
//
//	I0  !I  M   a new file: its first write decides
//	I1   I  M   inline; the raw inode is the truth
//	I3  !I !M   an ordinary file, for life
//
// ext4 has a fourth, I2, while a delayed allocation is pending; here conversion is done when it is decided on.
//
// A write(2) is two steps, as in the kernel. WriteBegin decides the mode and opens the handle of an inline write; WriteEnd stores the
// bytes. As the kernel does, WriteEnd derives the mode again from the inode. The Token from WriteBegin tells whether that was the same
// answer: when it was not, somebody moved the file between the two steps without the inode lock, and that is the bug of this project.
//
// strategy.go has the five moments at which a strategy may convert a file that is about to be mapped; strategy_NAME.go are the
// strategies; default_NAME.go, chosen by build tag, names the one that a mount uses.
package inline
