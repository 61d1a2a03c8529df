// Package lock gives the project's locks and racy flags in three builds of one interface:
//
//   - plain: aliases of sync and sync/atomic; names, points and pseudo-locks are empty functions that the compiler removes;
//   - -tags deadlock: every acquisition is compared with the rank of its class and with the order of classes seen so far, as lockdep does;
//     a report has both stacks, the shortest cycle and a schedule that ends badly (OnCycle). github.com/sasha-s/go-deadlock below watches
//     locks without names and waits that do not end;
//   - -tags explore: every operation hands control to a scheduler (internal/sched), which decides who goes on.
//
// A lock gets its class and instance by NameMutex, NameRW or NameBool before its first use. The classes stand in class.go; the order in
// fs/doc.go is theirs.
package lock
