package xattr

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"

	"inlinefs/internal/fserr"
	"inlinefs/ondisk"
)

func callACL(es ...aclEntry) []byte { return acl(es).call() }

const none = undefinedID

// minimal is u::rwx,g::r-x,o::r-x.
func minimal() []byte {
	return callACL(aclEntry{tagUserObj, 7, none}, aclEntry{tagGroupObj, 5, none}, aclEntry{tagOther, 5, none})
}

// extended is u::rwx,u:1000:rw-,g::r-x,g:50:rwx,m::rwx,o::---.
func extended() []byte {
	return callACL(aclEntry{tagUserObj, 7, none}, aclEntry{tagUser, 6, 1000}, aclEntry{tagGroupObj, 5, none}, aclEntry{tagGroup, 7, 50},
		aclEntry{tagMask, 7, none}, aclEntry{tagOther, 0, none})
}

func TestACLForms(t *testing.T) {
	for _, p := range [][]byte{minimal(), extended()} {
		disk, err := aclToDisk(p)
		if err != nil {
			t.Fatal(err)
		}
		back, err := aclFromDisk(disk)
		if err != nil || !bytes.Equal(back, p) {
			t.Errorf("%x became %x on disk and came back as %x, %v", p, disk, back, err)
		}
	}
	disk, err := aclToDisk(extended())
	if err != nil || len(disk) != 4+4*4+2*8 {
		t.Errorf("the extended ACL takes %d bytes on disk (%v), want 36", len(disk), err)
	}
	if none, err := parseACL([]byte{2, 0, 0, 0}); none != nil || err != nil {
		t.Errorf("ACL without entries: %v, %v", none, err)
	}
}

func TestACLInvalid(t *testing.T) {
	u, g, o := aclEntry{tagUserObj, 7, none}, aclEntry{tagGroupObj, 5, none}, aclEntry{tagOther, 5, none}
	for name, p := range map[string][]byte{
		"short":          {2, 0},
		"odd length":     append(minimal(), 1),
		"no owner":       callACL(g, o),
		"no group":       callACL(u, o),
		"no others":      callACL(u, g),
		"twice others":   callACL(u, g, o, o),
		"twice owner":    callACL(u, u, g, o),
		"order":          callACL(u, o, g),
		"named, no mask": callACL(u, aclEntry{tagUser, 4, 7}, g, o),
		"no id":          callACL(u, aclEntry{tagUser, 4, none}, g, aclEntry{tagMask, 7, none}, o),
		"permission":     callACL(aclEntry{tagUserObj, 8, none}, g, o),
		"tag":            callACL(u, g, aclEntry{0x40, 1, none}, o),
		"mask last":      callACL(u, g, o, aclEntry{tagMask, 7, none}),
	} {
		if _, err := parseACL(p); !errors.Is(err, fserr.Invalid) {
			t.Errorf("%s: %v, want invalid", name, err)
		}
	}
	if _, err := parseACL(binary.LittleEndian.AppendUint32(nil, 1)); !errors.Is(err, fserr.NotSupported) {
		t.Errorf("version 1 in a system call: %v, want not supported", err)
	}
}

func TestACLMode(t *testing.T) {
	for _, c := range []struct {
		p     []byte
		mode  uint16
		equal bool
	}{
		{minimal(), 0o755, true},
		{extended(), 0o770, false},
		{callACL(aclEntry{tagUserObj, 6, none}, aclEntry{tagGroupObj, 7, none}, aclEntry{tagMask, 4, none}, aclEntry{tagOther, 1, none}), 0o641, false},
	} {
		a, err := parseACL(c.p)
		if err != nil {
			t.Fatal(err)
		}
		if mode, equal := a.mode(); mode != c.mode || equal != c.equal {
			t.Errorf("%v: mode 0%o, %v; want 0%o, %v", a, mode, equal, c.mode, c.equal)
		}
	}
}

func TestInheritACL(t *testing.T) {
	for _, c := range []struct {
		name          string
		parent        []byte
		mode, want    uint16
		access, deflt []byte
	}{
		{"no default", nil, ondisk.ModeReg | 0o666, ondisk.ModeReg | 0o666, nil, nil},
		{"symlink", extended(), ondisk.ModeLnk | 0o777, ondisk.ModeLnk | 0o777, nil, nil},
		{"minimal, file", minimal(), ondisk.ModeReg | 0o666, ondisk.ModeReg | 0o644, nil, nil},
		{"minimal, directory", minimal(), ondisk.ModeDir | 0o3777, ondisk.ModeDir | 0o3755, nil, minimal()},
		{"extended, file", extended(), ondisk.ModeReg | 0o664, ondisk.ModeReg | 0o660,
			callACL(aclEntry{tagUserObj, 6, none}, aclEntry{tagUser, 6, 1000}, aclEntry{tagGroupObj, 5, none}, aclEntry{tagGroup, 7, 50},
				aclEntry{tagMask, 6, none}, aclEntry{tagOther, 0, none}), nil},
		{"extended, directory", extended(), ondisk.ModeDir | 0o755, ondisk.ModeDir | 0o750,
			callACL(aclEntry{tagUserObj, 7, none}, aclEntry{tagUser, 6, 1000}, aclEntry{tagGroupObj, 5, none}, aclEntry{tagGroup, 7, 50},
				aclEntry{tagMask, 5, none}, aclEntry{tagOther, 0, none}), extended()},
	} {
		access, deflt, mode, err := InheritACL(c.parent, c.mode)
		if err != nil || mode != c.want || !bytes.Equal(access, c.access) || !bytes.Equal(deflt, c.deflt) {
			t.Errorf("%s: %x, %x, 0%o, %v; want %x, %x, 0%o", c.name, access, deflt, mode, err, c.access, c.deflt, c.want)
		}
	}
	if _, _, _, err := InheritACL([]byte{1}, ondisk.ModeReg); !errors.Is(err, fserr.Invalid) {
		t.Errorf("bad default ACL: %v, want invalid", err)
	}
}

func TestChmodACL(t *testing.T) {
	if got := ChmodACL(nil, 0o640); got != nil {
		t.Errorf("chmod without an ACL made %x", got)
	}
	for _, p := range [][]byte{minimal(), extended()} {
		a, err := parseACL(ChmodACL(p, 0o641))
		if err != nil {
			t.Fatal(err)
		}
		if mode, _ := a.mode(); mode != 0o641 {
			t.Errorf("ACL %v means mode 0%o, want 0641", a, mode)
		}
	}
	// With a mask the owning group's entry stays.
	a, err := parseACL(ChmodACL(extended(), 0o600))
	if err != nil || a[a.find(tagGroupObj)].perm != 5 {
		t.Errorf("ACL %v, %v: the owning group's entry changed", a, err)
	}
}

// FuzzACL decodes arbitrary ACLs in both forms; what is valid survives a round trip.
func FuzzACL(f *testing.F) {
	f.Add(minimal())
	f.Add(extended())
	disk, err := aclToDisk(extended())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(disk)
	f.Fuzz(func(t *testing.T, p []byte) {
		if a, err := parseACL(p); err == nil && a != nil {
			back, err := aclFromDisk(a.disk())
			if err != nil || !bytes.Equal(back, a.call()) {
				t.Fatalf("%v came back as %x, %v", a, back, err)
			}
			ChmodACL(p, 0o751)
			if _, _, _, err := InheritACL(p, ondisk.ModeDir|0o777); err != nil {
				t.Fatal(err)
			}
		}
		if a, err := parseDisk(p); err == nil && !bytes.Equal(a.disk(), p) {
			t.Fatalf("%x became %x", p, a.disk())
		}
	})
}
