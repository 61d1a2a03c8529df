// Package seccomp runs a command under a seccomp user-notification listener, so that each shared mapping of a file of one mount is
// announced before the mapping exists. The filter is inherited by every thread and child of the command. A trapped mmap(2) sleeps
// at system call entry, before mmap_lock, until the supervisor has answered.
//
// What it does not see: mappings inherited over fork(2), mremap(2) of a mapping (its mmap was announced), and writes into a
// mapping by ptrace(2) or process_vm_writev(2). A thread which replaces the descriptor by dup2(2) while another thread's mmap(2) of
// it is being looked at escapes the announcement: it is a notice, not a guard.
package seccomp

import (
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"
)

// Offsets in struct seccomp_data: nr, arch, instruction pointer, six 64-bit arguments (little endian: low half first).
const (
	offNr    = 0
	offArch  = 4
	offFlags = 16 + 8*3

	x32Bit     = 0x40000000
	compatMmap = 192 // mmap2 of i386 and of 32-bit arm alike
)

// target is what one machine calls mmap(2): natively, and in its 32-bit programs.
type target struct {
	arch, nr             uint32
	compatArch, compatNr uint32
}

func hostTarget() (target, error) {
	switch runtime.GOARCH {
	case "amd64":
		return target{unix.AUDIT_ARCH_X86_64, unix.SYS_MMAP, unix.AUDIT_ARCH_I386, compatMmap}, nil
	case "arm64":
		return target{unix.AUDIT_ARCH_AARCH64, unix.SYS_MMAP, unix.AUDIT_ARCH_ARM, compatMmap}, nil
	}
	return target{}, fmt.Errorf("seccomp filter for %s: want amd64 or arm64", runtime.GOARCH)
}

func stmt(code uint16, k uint32) unix.SockFilter { return unix.SockFilter{Code: code, K: k} }

func jump(code uint16, k uint32, jt, jf uint8) unix.SockFilter {
	return unix.SockFilter{Code: code, Jt: jt, Jf: jf, K: k}
}

// mmapFilter asks the supervisor about mmap(2) with MAP_SHARED (MAP_SHARED_VALIDATE has its bit, too) and without MAP_ANONYMOUS,
// and allows everything else. The jump distances count from the next instruction.
func mmapFilter(t target) []unix.SockFilter {
	const (
		load = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
		jeq  = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
		jset = unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K
		and  = unix.BPF_ALU | unix.BPF_AND | unix.BPF_K
		ret  = unix.BPF_RET | unix.BPF_K
	)
	return []unix.SockFilter{
		/*  0 */ stmt(load, offArch),
		/*  1 */ jump(jeq, t.arch, 0, 3), // else 5
		/*  2 */ stmt(load, offNr),
		/*  3 */ stmt(and, ^uint32(x32Bit)),
		/*  4 */ jump(jeq, t.nr, 3, 6), // 8, else 11
		/*  5 */ jump(jeq, t.compatArch, 0, 5), // else 11
		/*  6 */ stmt(load, offNr),
		/*  7 */ jump(jeq, t.compatNr, 0, 3), // else 11
		/*  8 */ stmt(load, offFlags),
		/*  9 */ jump(jset, unix.MAP_SHARED, 0, 1), // else 11
		/* 10 */ jump(jset, unix.MAP_ANONYMOUS, 0, 1), // else 12
		/* 11 */ stmt(ret, unix.SECCOMP_RET_ALLOW),
		/* 12 */ stmt(ret, unix.SECCOMP_RET_USER_NOTIF),
	}
}
