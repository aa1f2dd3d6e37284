package kern_test

import (
	"os"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/sdk/kern"
	"github.com/firn-cr/firn/sdk/sdktest/gate"
)

func TestPagemapScan(t *testing.T) {
	known, err := kern.HavePagemapScan(kern.PagePresent | kern.PageFile)
	gate.Feature(t, "PAGEMAP_SCAN", err == nil)
	if known != kern.PagePresent|kern.PageFile {
		t.Fatalf("known categories %x", known)
	}
	size := os.Getpagesize()
	mem, err := unix.Mmap(-1, 0, 8*size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(mem)
	for _, i := range []int{1, 2, 5} {
		mem[i*size] = 1
	}
	f, err := os.Open("/proc/self/pagemap")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	start := uint64(uintptr(unsafe.Pointer(&mem[0])))
	args := kern.PagemapScanArgs{Start: start, End: start + uint64(len(mem)), All: kern.PagePresent, Return: kern.PagePresent}
	regions := make([]kern.PageRegion, 4)
	n, end, err := kern.PagemapScan(f, args, regions)
	if err != nil || n != 2 || end != args.End {
		t.Fatalf("%d regions up to %x, %v", n, end, err)
	}
	page := uint64(size)
	if regions[0].Start != start+page || regions[0].End != start+3*page || regions[1].Start != start+5*page {
		t.Errorf("regions %x in %x", regions[:n], start)
	}
	n, end, err = kern.PagemapScan(f, args, regions[:1])
	if err != nil || n != 1 || end >= args.End || end < start+3*page {
		t.Errorf("full vector: %d regions up to %x, %v", n, end, err)
	}
}
