package kern_test

import (
	"bytes"
	"errors"
	"os"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/sdk/kern"
	"github.com/firn-cr/firn/sdk/sdktest/gate"
)

func TestUserfaultCopy(t *testing.T) {
	gate.Feature(t, "userfaultfd", kern.HaveUserfaultCopy())
	size := os.Getpagesize()
	mem, err := unix.Mmap(-1, 0, 4*size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(mem)
	r, _, errno := unix.Syscall(unix.SYS_USERFAULTFD, unix.O_CLOEXEC|kern.UserfaultUserModeOnly, 0, 0)
	if errno != 0 {
		t.Fatal(errno)
	}
	fd := int(r)
	defer unix.Close(fd)
	start, length := uint64(uintptr(unsafe.Pointer(&mem[0]))), uint64(len(mem))
	if err := errors.Join(kern.UserfaultAPI(fd), kern.UserfaultRegister(fd, start, length, kern.UserfaultMissing)); err != nil {
		t.Fatal(err)
	}
	src := bytes.Repeat([]byte{7}, 2*size)
	if n, err := kern.UserfaultCopy(fd, start+uint64(size), src); n != len(src) || err != nil {
		t.Errorf("%d bytes, %v", n, err)
	}
	// The second page is there, the first is not.
	if n, err := kern.UserfaultCopy(fd, start, src); n != size || !errors.Is(err, unix.EEXIST) && !errors.Is(err, unix.EAGAIN) {
		t.Errorf("over a page: %d bytes, %v", n, err)
	}
	if err := kern.UserfaultUnregister(fd, start, length); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(mem[:3*size], bytes.Repeat([]byte{7}, 3*size)) || mem[3*size] != 0 {
		t.Error("the memory is not what was copied")
	}
	if n, err := kern.UserfaultCopy(fd, start, nil); n != 0 || err != nil {
		t.Errorf("nothing: %d, %v", n, err)
	}
	if _, err := kern.UserfaultCopy(fd, start+3*uint64(size), src[:size]); err == nil {
		t.Error("copied into a range that is not registered")
	}
}
