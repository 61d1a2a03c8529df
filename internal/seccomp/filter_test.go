package seccomp

import (
	"encoding/binary"
	"testing"

	"golang.org/x/sys/unix"
)

// interpret runs a classic BPF program over a struct seccomp_data and returns its verdict.
func interpret(t *testing.T, prog []unix.SockFilter, data []byte) uint32 {
	t.Helper()
	var acc uint32
	for pc := 0; pc < len(prog); pc++ {
		in := prog[pc]
		taken := false
		switch in.Code {
		case unix.BPF_LD | unix.BPF_W | unix.BPF_ABS:
			acc = binary.LittleEndian.Uint32(data[in.K:])
			continue
		case unix.BPF_ALU | unix.BPF_AND | unix.BPF_K:
			acc &= in.K
			continue
		case unix.BPF_RET | unix.BPF_K:
			return in.K
		case unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K:
			taken = acc == in.K
		case unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K:
			taken = acc&in.K != 0
		default:
			t.Fatalf("instruction %d: code %#x", pc, in.Code)
		}
		if taken {
			pc += int(in.Jt)
		} else {
			pc += int(in.Jf)
		}
	}
	t.Fatal("the program ends without a verdict")
	return 0
}

func seccompData(arch, nr uint32, args ...uint64) []byte {
	data := make([]byte, 64)
	binary.LittleEndian.PutUint32(data, nr)
	binary.LittleEndian.PutUint32(data[4:], arch)
	for i, a := range args {
		binary.LittleEndian.PutUint64(data[16+8*i:], a)
	}
	return data
}

func TestFilter(t *testing.T) {
	const (
		x86, i386, arm64, arm = unix.AUDIT_ARCH_X86_64, unix.AUDIT_ARCH_I386, unix.AUDIT_ARCH_AARCH64, unix.AUDIT_ARCH_ARM
		shared, private, anon = unix.MAP_SHARED, unix.MAP_PRIVATE, unix.MAP_ANONYMOUS
		rw                    = unix.PROT_READ | unix.PROT_WRITE
	)
	amd := target{x86, 9, i386, compatMmap}
	a64 := target{arm64, 222, arm, compatMmap}
	for _, c := range []struct {
		name     string
		target   target
		arch, nr uint32
		flags    uint64
		trapped  bool
	}{
		{"shared", amd, x86, 9, shared, true},
		{"shared populate", amd, x86, 9, shared | unix.MAP_POPULATE, true},
		{"shared validate", amd, x86, 9, unix.MAP_SHARED_VALIDATE | unix.MAP_SYNC, true},
		{"shared fixed", amd, x86, 9, shared | unix.MAP_FIXED, true},
		{"high half of the flags", amd, x86, 9, shared | 1<<40, true},
		{"private", amd, x86, 9, private, false},
		{"private fixed", amd, x86, 9, private | unix.MAP_FIXED, false},
		{"shared anonymous", amd, x86, 9, shared | anon, false},
		{"private anonymous", amd, x86, 9, private | anon, false},
		{"x32", amd, x86, 9 | x32Bit, shared, true},
		{"x32 private", amd, x86, 9 | x32Bit, private, false},
		{"write(2)", amd, x86, 1, shared, false},
		{"munmap(2)", amd, x86, 11, shared, false},
		{"i386 mmap2", amd, i386, 192, shared, true},
		{"i386 mmap2 private", amd, i386, 192, private, false},
		{"i386 mmap2 shared anonymous", amd, i386, 192, shared | anon, false},
		{"i386 call 9 is link(2)", amd, i386, 9, shared, false},
		{"x86_64 call 192 is lgetxattr(2)", amd, x86, 192, shared, false},
		{"another machine", amd, arm64, 222, shared, false},
		{"arm64 shared", a64, arm64, 222, shared, true},
		{"arm64 private", a64, arm64, 222, private, false},
		{"arm mmap2", a64, arm, 192, shared, true},
		{"arm64 call 192", a64, arm64, 192, shared, false},
		{"x86_64 on arm64", a64, x86, 9, shared, false},
	} {
		want := uint32(unix.SECCOMP_RET_ALLOW)
		if c.trapped {
			want = unix.SECCOMP_RET_USER_NOTIF
		}
		got := interpret(t, mmapFilter(c.target), seccompData(c.arch, c.nr, 0, 4096, rw, c.flags, 3, 0))
		if got != want {
			t.Errorf("%s: verdict %#x, want %#x", c.name, got, want)
		}
	}
}

func TestFilterEndsEverywhere(t *testing.T) {
	host, err := hostTarget()
	if err != nil {
		t.Skip(err)
	}
	prog := mmapFilter(host)
	for pc, in := range prog {
		if in.Code&7 == unix.BPF_JMP && max(pc+1+int(in.Jt), pc+1+int(in.Jf)) >= len(prog) {
			t.Errorf("instruction %d jumps out of the program", pc)
		}
	}
	if host.nr != unix.SYS_MMAP {
		t.Errorf("mmap is call %d, want %d", host.nr, unix.SYS_MMAP)
	}
}
