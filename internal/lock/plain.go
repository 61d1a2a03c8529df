//go:build !deadlock

package lock

import "sync"

// Mutex is sync.Mutex: the plain build pays nothing.
type Mutex = sync.Mutex

// RWMutex is sync.RWMutex.
type RWMutex = sync.RWMutex

// Checking says whether lock order is checked in this build.
const Checking = false
