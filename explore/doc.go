// Package explore searches the interleavings of a few clients of one file exhaustively: the daemon's own request handlers (fs) and all
// below them, compiled with -tags explore, over an image in memory, without FUSE. Every lock, flag and injected failure is a switch
// point of internal/sched.
//
// What stands for the kernel is client.go: one file's page as a FUSE client keeps it under direct I/O with mappings. The rest is the
// code that a mount runs.
package explore
