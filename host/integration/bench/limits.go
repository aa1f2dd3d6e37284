package main

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// limits is what the machine itself can do with the same number of bytes.
type limits struct {
	copied, touched, written, synced series
}

const chunk = 1 << 20

// measure takes one sample of each limit.
func (l *limits) measure(dir string, bytes int64) error {
	size := int(max(bytes, chunk)) &^ (chunk - 1)
	if err := warm(2*int64(size) + spare); err != nil {
		return err
	}
	from, took, err := touch(size)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Munmap(from) }()
	l.touched.add(took)

	to := make([]byte, chunk)
	clear(to)
	start := time.Now()
	for at := 0; at < size; at += chunk {
		copy(to, from[at:])
	}
	l.copied.add(milliseconds(time.Since(start)))

	path := filepath.Join(dir, "limit")
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer os.Remove(path)
	defer f.Close()
	start = time.Now()
	for at := 0; at < size; at += chunk {
		if _, err := f.WriteAt(from[at:at+chunk], int64(at)); err != nil {
			return err
		}
	}
	l.written.add(milliseconds(time.Since(start)))
	if err := f.Sync(); err != nil {
		return err
	}
	l.synced.add(milliseconds(time.Since(start)))
	return nil
}

// warm makes the machine's free memory ready for use. A virtual machine may give
// free memory back to its host within seconds, and getting it again costs
// several times what is measured; it would be charged to whoever comes first.
func warm(size int64) error {
	b, err := unix.Mmap(-1, 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_POPULATE)
	if err != nil {
		return fmt.Errorf("warm %d bytes: %w", size, err)
	}
	return unix.Munmap(b)
}

// spare is what is warm beyond what a case itself needs.
const spare = 256 << 20

// touch maps memory and writes to every page of it.
func touch(size int) ([]byte, float64, error) {
	b, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, 0, fmt.Errorf("map %d bytes: %w", size, err)
	}
	// As in the programs that are measured: pages of 4 KiB.
	if err := unix.Madvise(b, unix.MADV_NOHUGEPAGE); err != nil {
		_ = unix.Munmap(b)
		return nil, 0, fmt.Errorf("advise: %w", err)
	}
	start := time.Now()
	for at := 0; at < size; at += 4096 {
		b[at] = byte(at >> 12)
	}
	return b, milliseconds(time.Since(start)), nil
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
