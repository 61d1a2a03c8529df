package blockdev

import (
	"bytes"
	"encoding/binary"
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// record makes a random run on a device of n bytes and returns its log, the base and the device's bytes at each entry.
func record(t *testing.T, seed int64, n int) (*Recorder, []byte, [][]byte) {
	t.Helper()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewSource(seed))
	base := make([]byte, n)
	rng.Read(base)
	mem := NewMem(append([]byte(nil), base...))
	r := NewRecorder(mem)
	states := [][]byte{mem.Snapshot()}
	for k := range 200 {
		switch rng.Intn(6) {
		case 0:
			if err := r.Flush(); err != nil {
				t.Fatal(err)
			}
		case 1:
			r.Mark(string(rune('a' + k%26)))
		default:
			p := make([]byte, 1+rng.Intn(3000))
			rng.Read(p)
			if _, err := r.WriteAt(p, int64(rng.Intn(n-len(p)+1))); err != nil {
				t.Fatal(err)
			}
		}
		states = append(states, mem.Snapshot())
	}
	return r, base, states
}

func TestRecorderReplaysEveryPrefix(t *testing.T) {
	r, base, states := record(t, 1, 1<<16)
	rp, err := NewReplay(base, r.Entries())
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range append(rand.New(rand.NewSource(2)).Perm(len(states)), 0, 1, len(states)-1) {
		o, err := rp.Image(n, nil)
		if err != nil {
			t.Fatal(err)
		}
		got, err := o.Snapshot()
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, states[n]) {
			t.Errorf("prefix of %d entries: image differs from the device", n)
		}
	}
	half := len(states) / 2
	o, err := rp.Image(half, r.Entries()[half:])
	if err != nil {
		t.Fatal(err)
	}
	if got, err := o.Snapshot(); err != nil || !bytes.Equal(got, states[len(states)-1]) {
		t.Errorf("prefix with all later writes differs from the device (err %v)", err)
	}
	if !bytes.Equal(base, states[0]) {
		t.Error("the base was changed")
	}
}

func TestRecorderLogRoundTrip(t *testing.T) {
	r, _, _ := record(t, 3, 1<<15)
	want := r.Entries()
	var b bytes.Buffer
	if err := WriteLog(&b, want); err != nil {
		t.Fatal(err)
	}
	le := binary.LittleEndian
	if m := le.Uint64(b.Bytes()); m != 0x6a736677736872 {
		t.Errorf("magic 0x%x", m)
	}
	if n := le.Uint64(b.Bytes()[16:]); n != uint64(len(want)) {
		t.Errorf("nr_entries %d, want %d", n, len(want))
	}
	raw := append([]byte(nil), b.Bytes()...)
	got, err := ReadLog(&b)
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != len(want) {
		t.Fatalf("%d entries read, want %d", len(got), len(want))
	}
	for n := range want {
		if got[n].Flags != want[n].Flags || got[n].Off != want[n].Off || !bytes.Equal(got[n].Data, want[n].Data) {
			t.Errorf("entry %d differs", n)
		}
	}
	if _, err := ReadLog(bytes.NewReader(raw[:len(raw)-1])); err == nil && want[len(want)-1].IsWrite() {
		t.Error("a log cut short was read")
	}
	raw[0] ^= 1
	if _, err := ReadLog(bytes.NewReader(raw)); err == nil {
		t.Error("a log with another magic was read")
	}
}

func TestRecorderWholeSectors(t *testing.T) {
	mem := NewMem(bytes.Repeat([]byte{7}, 4096))
	r := NewRecorder(mem)
	if _, err := r.WriteAt([]byte{1, 2, 3}, 1000); err != nil {
		t.Fatal(err)
	}
	e := r.Entries()
	if len(e) != 1 || e[0].Off != 512 || len(e[0].Data) != 512 || e[0].Data[487] != 7 || e[0].Data[488] != 1 || e[0].Data[490] != 3 {
		t.Errorf("recorded %+v", e)
	}
	if _, err := r.WriteAt([]byte{1}, 4096); err == nil {
		t.Error("a write past the end succeeded")
	}
	if n := len(r.Entries()); n != 1 {
		t.Errorf("%d entries after a failed write, want 1", n)
	}
	if err := WriteLog(&bytes.Buffer{}, []LogEntry{{Off: 3, Data: make([]byte, 512)}}); err == nil {
		t.Error("a write of part of a sector was logged")
	}
	if _, err := NewReplay(make([]byte, 100), e); err == nil {
		t.Error("a log beyond its base was taken")
	}
}

// TestRecorderReplayLog holds the log against the public tool.
func TestRecorderReplayLog(t *testing.T) {
	bin, err := exec.LookPath("replay-log")
	if err != nil {
		t.Skip("replay-log (xfstests) is not installed")
	}
	r, base, states := record(t, 4, 1<<16)
	dir := t.TempDir()
	logFile, img := filepath.Join(dir, "log"), filepath.Join(dir, "img")
	f, err := os.Create(logFile)
	if err != nil {
		t.Fatal(err)
	}
	if err := WriteLog(f, r.Entries()); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(img, base, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(bin, "--log", logFile, "--replay", img).CombinedOutput(); err != nil {
		t.Fatalf("replay-log: %v\n%s", err, out)
	}
	if got, err := os.ReadFile(img); err != nil || !bytes.Equal(got, states[len(states)-1]) {
		t.Errorf("what replay-log made differs from the device (err %v)", err)
	}
}
