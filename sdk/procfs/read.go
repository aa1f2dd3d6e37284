package procfs

import (
	"fmt"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"
)

// buffers are for files that are parsed at once. Most fit.
var buffers = sync.Pool{New: func() any { return new([8 << 10]byte) }}

// Read reads a file of /proc/PID, "status" or "task/7/comm". It takes half of
// the time of os.ReadFile, which asks the poller about every file.
func Read(pid int, name string) ([]byte, error) {
	buf := buffers.Get().(*[8 << 10]byte)
	defer buffers.Put(buf)
	b, err := readInto(buf[:], pid, name)
	if err != nil {
		return nil, err
	}
	return append([]byte(nil), b...), nil
}

// readAndParse hands the content of a file to a parser that keeps none of it.
func readAndParse[T any](pid int, name string, parse func([]byte) (T, error)) (T, error) {
	buf := buffers.Get().(*[8 << 10]byte)
	defer buffers.Put(buf)
	b, err := readInto(buf[:], pid, name)
	if err != nil {
		var none T
		return none, err
	}
	return parse(b)
}

// readInto reads a file to its end, into buf if it is long enough.
func readInto(buf []byte, pid int, name string) ([]byte, error) {
	fd, err := open("/proc/" + strconv.Itoa(pid) + "/" + name)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", name, err)
	}
	defer unix.Close(fd)
	for n := 0; ; {
		if n == len(buf) {
			buf = append(buf[:n:n], make([]byte, n)...)
		}
		got, err := unix.Read(fd, buf[n:])
		switch {
		case err == unix.EINTR:
		case err != nil:
			return nil, fmt.Errorf("read %s: %w", name, err)
		case got == 0:
			return buf[:n], nil
		default:
			n += got
		}
	}
}

func open(path string) (int, error) {
	for {
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != unix.EINTR {
			return fd, err
		}
	}
}
