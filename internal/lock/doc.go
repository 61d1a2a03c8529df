// Package lock gives the project's mutexes in two builds: plain (aliases of sync, no cost) and -tags deadlock
// (github.com/sasha-s/go-deadlock, which exits with both stacks at the first inversion). The order itself is written in fs/doc.go.
package lock
