package blockdev

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// File is an image file or a block special file.
type File struct {
	f      *os.File
	size   int64
	offset int64
	ro     bool
	block  bool // a block special file
}

// FileOptions say how to open an image.
type FileOptions struct {
	ReadOnly bool
	// Offset is where the file system starts in the file, in bytes (a partition in a disk image).
	Offset int64
	// NoLock skips flock(2): for readers of an image that is known to be quiet.
	NoLock bool
}

// OpenFile opens path and takes flock(2) on it: exclusive for writing, shared for reading. ErrBusy (wrapped) when another process
// holds it, and, for writing, when the kernel has mounted it: a block device that is claimed, a file behind a loop device that is.
// A read-only open needs no write permission.
func OpenFile(path string, o FileOptions) (*File, error) {
	flag := os.O_RDWR
	if o.ReadOnly {
		flag = os.O_RDONLY
	} else if st, err := os.Stat(path); err == nil && st.Mode()&os.ModeDevice != 0 {
		flag |= unix.O_EXCL // of a block device: refused while it is mounted
	}
	f, err := os.OpenFile(path, flag, 0)
	if errors.Is(err, unix.EBUSY) {
		return nil, fmt.Errorf("%s: %w, or mounted", path, ErrBusy)
	}
	if err != nil {
		return nil, err
	}
	d, err := newFile(f, path, o)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return d, nil
}

func newFile(f *os.File, path string, o FileOptions) (*File, error) {
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if st.IsDir() {
		return nil, fmt.Errorf("%s: is a directory, want an image file or a block device", path)
	}
	if !o.NoLock {
		how := unix.LOCK_EX
		if o.ReadOnly {
			how = unix.LOCK_SH
		}
		if err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB); err != nil {
			if errors.Is(err, unix.EWOULDBLOCK) {
				return nil, fmt.Errorf("%s: %w%s", path, ErrBusy, holders(st))
			}
			return nil, fmt.Errorf("flock %s: %w", path, err)
		}
		if !o.ReadOnly && st.Mode().IsRegular() {
			if dev := usedLoop(path, o.Offset); dev != "" {
				return nil, fmt.Errorf("%s: %w: the kernel has mounted it through %s", path, ErrBusy, dev)
			}
		}
	}
	// A block device's st_size is 0; its end is where seeking stops.
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, fmt.Errorf("size of %s: %w", path, err)
	}
	if end == 0 {
		return nil, fmt.Errorf("%s: is empty, 0 bytes", path)
	}
	if o.Offset < 0 || o.Offset >= end {
		return nil, fmt.Errorf("%s: offset %d is outside its %d bytes", path, o.Offset, end)
	}
	return &File{f: f, size: end - o.Offset, offset: o.Offset, ro: o.ReadOnly, block: st.Mode()&os.ModeDevice != 0}, nil
}

// ReadAt reads with pread(2).
func (d *File) ReadAt(p []byte, off int64) (int, error) {
	if err := checkRange("read", off, len(p), d.size); err != nil {
		return 0, err
	}
	return d.f.ReadAt(p, off+d.offset)
}

// WriteAt writes with pwrite(2).
func (d *File) WriteAt(p []byte, off int64) (int, error) {
	if d.ro {
		return 0, ErrReadOnly
	}
	if err := checkRange("write", off, len(p), d.size); err != nil {
		return 0, err
	}
	return d.f.WriteAt(p, off+d.offset)
}

// Flush is fdatasync(2).
func (d *File) Flush() error {
	if d.ro {
		return nil
	}
	return unix.Fdatasync(int(d.f.Fd()))
}

// Preallocate writes zeros where the image file has holes or unwritten extents, which read as zeros. On a block device it does nothing.
func (d *File) Preallocate(off, n int64) error {
	if d.ro {
		return ErrReadOnly
	}
	if err := checkRange("preallocation", off, int(n), d.size); err != nil {
		return err
	}
	if d.block {
		return nil
	}
	fd, at, end := int(d.f.Fd()), off+d.offset, off+d.offset+n
	for at < end {
		hole, err := unix.Seek(fd, at, unix.SEEK_HOLE)
		if err != nil {
			return fmt.Errorf("seek for a hole from byte %d: %w", at, err)
		}
		if hole >= end {
			return nil
		}
		data, err := unix.Seek(fd, hole, unix.SEEK_DATA)
		switch {
		case errors.Is(err, unix.ENXIO): // a hole up to the end of the file
			data = end
		case err != nil:
			return fmt.Errorf("seek for data from byte %d: %w", hole, err)
		}
		at = min(data, end)
		if _, err := d.f.WriteAt(make([]byte, at-hole), hole); err != nil {
			return err
		}
	}
	return nil
}

// Size is the image's length after the offset, in bytes.
func (d *File) Size() int64 { return d.size }

// ReadOnly says whether the image was opened for reading only.
func (d *File) ReadOnly() bool { return d.ro }

// Close closes the file, which releases the flock.
func (d *File) Close() error { return d.f.Close() }
