package probe

import (
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/sdk/kern"
)

// haveMapFiles opens one of this process's own mappings, which takes the right
// to do so for any.
func haveMapFiles() (string, error) {
	const dir = "/proc/self/map_files"
	d, err := os.Open(dir)
	if err != nil {
		return "", err
	}
	defer d.Close()
	names, err := d.Readdirnames(1)
	if err != nil {
		return "", err
	}
	f, err := os.Open(dir + "/" + names[0])
	if err != nil {
		return "", err
	}
	return "", f.Close()
}

func havePagemapScan() (string, error) {
	const want = kern.PageFile | kern.PagePresent | kern.PageSwapped
	known, err := kern.HavePagemapScan(want | kern.PageGuard | kern.PageWritten)
	if err != nil {
		return "", err
	}
	if known&want != want {
		return "", lacks(fmt.Sprintf("categories %#x of %#x", known&want, want))
	}
	detail := ""
	if known&kern.PageGuard == 0 {
		detail = "without guard pages"
	}
	return detail, nil
}

// haveSoftDirty looks at a page that was just written: its bit is set on every
// kernel that has one (Documentation/admin-guide/mm/soft-dirty.rst).
func haveSoftDirty() (string, error) {
	const softDirty = 1 << 55
	size := os.Getpagesize()
	mem, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return "", err
	}
	defer unix.Munmap(mem)
	mem[0] = 1
	f, err := os.Open("/proc/self/pagemap")
	if err != nil {
		return "", err
	}
	defer f.Close()
	var entry uint64
	addr := uintptr(unsafe.Pointer(&mem[0]))
	if _, err := f.ReadAt((*[8]byte)(unsafe.Pointer(&entry))[:], int64(addr)/int64(size)*8); err != nil {
		return "", err
	}
	if entry&softDirty == 0 {
		return "", lacks("kernel built without CONFIG_MEM_SOFT_DIRTY")
	}
	return "", nil
}

// struct uffdio_api and the names in it, from linux/userfaultfd.h.
type uffdioAPI struct{ api, features, ioctls uint64 }

const (
	uffdAPI        = 0xaa
	uffdioAPIIoctl = 0xc018aa3f // _IOWR(0xaa, 0x3f, struct uffdio_api)

	uffdFeatureWPUnpopulated = 1 << 13
	uffdFeatureWPAsync       = 1 << 15
	uffdFeatureMissingShmem  = 1 << 5
)

func haveUserfaultfd() (string, error) {
	features, err := userfaultfdFeatures()
	if err != nil {
		return "", err
	}
	if features&uffdFeatureMissingShmem == 0 {
		return "without shared memory", nil
	}
	return "", nil
}

func haveUserfaultfdAsync() (string, error) {
	features, err := userfaultfdFeatures()
	if err != nil {
		return "", err
	}
	const want = uffdFeatureWPAsync | uffdFeatureWPUnpopulated
	if features&want != want {
		return "", lacks(fmt.Sprintf("features %#x, want %#x", features, want))
	}
	return "", nil
}

func userfaultfdFeatures() (uint64, error) {
	fd, _, errno := unix.RawSyscall(unix.SYS_USERFAULTFD, unix.O_CLOEXEC|unix.O_NONBLOCK, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	defer unix.Close(int(fd))
	api := uffdioAPI{api: uffdAPI}
	if _, _, errno := unix.RawSyscall(unix.SYS_IOCTL, fd, uffdioAPIIoctl, uintptr(unsafe.Pointer(&api))); errno != 0 {
		return 0, errno
	}
	return api.features, nil
}
