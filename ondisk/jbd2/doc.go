// Package jbd2 turns the records of the jbd2 journal into Go values and back.
// It does no input or output: every function works on a caller's byte slice,
// checks its bounds and never panics on what it finds there.
//
// All integers of a jbd2 log are big-endian. A log is a run of file system
// blocks; block 0 holds the superblock, and the blocks from s_first on hold
// transactions. A transaction is a sequence of descriptor blocks, each
// followed by the data blocks its tags name, and revoke blocks, closed by one
// commit block. Every one of these carries the same header: a magic number, a
// block type and the transaction's sequence number.
//
// The layout of tags, revoke records and checksums depends on the feature bits
// in the superblock; Format holds what is needed to know it.
package jbd2
