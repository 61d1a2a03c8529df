package xattr

import (
	"bytes"
	"errors"
	"fmt"
	"sync"
	"testing"

	"inlinefs/inode"
	"inlinefs/internal/fserr"
)

// TestParallel lets readers, and a writer of size and times, run beside changes of attributes: values are whole, and no foreign field
// is lost. It is worth most under -race.
func TestParallel(t *testing.T) {
	img, inos := files(t, shapes[0], 2, 0)
	m := open(t, img)
	want := []map[string][]byte{{}, {}}
	var wg, side sync.WaitGroup
	stop := make(chan struct{})
	for k, ino := range inos {
		i := m.get(ino)
		side.Add(2)
		go func() {
			defer side.Done()
			readWhole(t, i, stop)
		}()
		go func() {
			defer side.Done()
			countUp(t, i, stop)
		}()
		wg.Go(func() {
			defer m.cache.Put(i)
			for n := range 200 {
				v := bytes.Repeat([]byte{byte(n)}, 10+n%7*90)
				if err := m.set(i, "user.v", v, 0); err != nil {
					t.Errorf("set %d: %v", n, err)
				}
				want[k]["user.v"] = v
				if n%11 == 10 {
					if err := m.remove(i, "user.v"); err != nil {
						t.Errorf("remove %d: %v", n, err)
					}
					delete(want[k], "user.v")
				}
			}
		})
	}
	wg.Wait()
	close(stop)
	side.Wait()
	m.close()
	judge(t, img, want)
}

// countUp changes a field that attributes have nothing to do with until stop is closed.
func countUp(t *testing.T, i *inode.Inode, stop chan struct{}) {
	for n := uint32(0); ; n++ {
		select {
		case <-stop:
			return
		default:
		}
		i.Mu.Lock()
		if v := i.Raw.Version(); n > 0 && v != n {
			t.Errorf("%s: i_version %d, want %d: a change was lost", i.Name(), v, n)
		}
		i.Raw.SetVersion(n + 1)
		i.Mu.Unlock()
	}
}

// readWhole reads user.v until stop is closed: all its bytes are the same.
func readWhole(t *testing.T, i *inode.Inode, stop chan struct{}) {
	buf := make([]byte, 4096)
	for {
		select {
		case <-stop:
			return
		default:
		}
		n, err := Get(nil, i, "user.v", buf)
		if errors.Is(err, fserr.NoData) {
			continue
		}
		if err == nil && (n == 0 || !bytes.Equal(buf[:n], bytes.Repeat(buf[:1], n))) {
			err = fmt.Errorf("torn value %x", buf[:n])
		}
		if err == nil {
			_, err = List(i, nil)
		}
		if err != nil {
			t.Errorf("%s: %v", i.Name(), err)
			return
		}
	}
}
