// Package lock gives the project's locks and racy flags in three builds of one interface:
//
//   - plain: aliases of sync and sync/atomic; names, points and pseudo-locks are empty functions that the compiler removes;
//   - -tags deadlock: github.com/sasha-s/go-deadlock below, and above it an assertion of the rank of each class, reported in lockdep's manner
//     with both stacks and the shortest cycle;
//   - -tags explore: every operation hands control to a scheduler (internal/sched), which decides who goes on.
//
// A lock gets its class and instance by NameMutex, NameRW or NameBool before its first use. The classes stand in class.go; the order in
// fs/doc.go is theirs.
package lock
