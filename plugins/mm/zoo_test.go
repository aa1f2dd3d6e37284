package mm

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	protRW  = unix.PROT_READ | unix.PROT_WRITE
	private = unix.MAP_PRIVATE
	shared  = unix.MAP_SHARED
)

// tempFile makes a file of the subject with a pattern in it.
func (s *subject) tempFile(name string, npages int) (*os.File, error) {
	path := filepath.Join(s.dir, name)
	var content []byte
	for n := range npages {
		content = append(content, bytes.Repeat([]byte{byte('A' + n)}, int(pageSize))...)
	}
	if err := os.WriteFile(path, content, 0o600); err != nil {
		return nil, err
	}
	return os.OpenFile(path, os.O_RDWR, 0)
}

// zoo sets up one of every kind of memory that is carried.
func (s *subject) zoo() error {
	return errors.Join(s.anonymous(), s.advised(), s.locked(), s.fromFiles(), s.sharedMemory(), s.special(), s.heap())
}

// heap grows the heap to an end within a page.
func (s *subject) heap() error {
	start, err := raw("brk", unix.SYS_BRK, 0)
	if err != nil {
		return err
	}
	end := roundUp(start) + 10*pageSize - heapRest
	if got, err := raw("brk", unix.SYS_BRK, end); err != nil || got != end {
		return fmt.Errorf("brk %x gave %x: %w", end, got, err)
	}
	a := area{start &^ (pageSize - 1), end}
	s.Areas["heap"] = a
	a.fill(2, 5)
	return nil
}

func (s *subject) anonymous() error {
	a, err := s.mapAt("plain", 64, protRW, private, -1)
	if err != nil {
		return err
	}
	a.fill(0, 3)
	a.fill(4, 9)
	clear(a.page(9)) // touched, but zero
	a.fill(10, 64)
	if a, err = s.mapAt("readonly", 8, protRW, private, -1); err != nil {
		return err
	}
	a.fill(2, 6)
	if err := a.protect(unix.PROT_READ); err != nil {
		return err
	}
	if a, err = s.mapAt("hidden", 8, protRW, private, -1); err != nil {
		return err
	}
	a.fill(0, 8)
	if err := a.protect(unix.PROT_NONE); err != nil {
		return err
	}
	if a, err = s.mapAt("writeonly", 4, protRW, private, -1); err != nil {
		return err
	}
	a.fill(0, 4)
	if err := a.protect(unix.PROT_WRITE); err != nil {
		return err
	}
	if _, err = s.mapAt("reserved", 1<<18, unix.PROT_NONE, private|unix.MAP_NORESERVE, -1); err != nil {
		return err
	}
	if a, err = s.mapAt("large", 8<<20/pageSize+3, protRW, private, -1); err != nil {
		return err
	}
	a.fill(0, 8<<20/int(pageSize)+3)
	if a, err = s.mapAt("touched", 4<<20/pageSize, protRW, private, -1); err != nil {
		return err
	}
	a.fill(0, 1) // the rest of the first block and all of the second are not there
	if a, err = s.mapAt("sparse", 4096, protRW, private, -1); err != nil {
		return err
	}
	for n := 0; n < 4096; n += 2 {
		a.fill(n, n+1)
	}
	return nil
}

func (s *subject) advised() error {
	for _, c := range []struct {
		name   string
		advice int
	}{
		{"dontfork", unix.MADV_DONTFORK}, {"wipeonfork", unix.MADV_WIPEONFORK}, {"dontdump", unix.MADV_DONTDUMP},
		{"sequential", unix.MADV_SEQUENTIAL}, {"random", unix.MADV_RANDOM}, {"nohuge", unix.MADV_NOHUGEPAGE},
	} {
		a, err := s.mapAt(c.name, 16, protRW, private, -1)
		if err != nil {
			return err
		}
		a.fill(0, 5)
		if err := a.advise(c.advice); err != nil {
			return err
		}
	}
	huge, err := s.mapAt("huge", 4<<20/pageSize, protRW, private, -1)
	if err != nil {
		return err
	}
	if err := huge.advise(unix.MADV_HUGEPAGE); err != nil && !errors.Is(err, unix.EINVAL) {
		return err
	}
	huge.fill(0, 4<<20/int(pageSize))
	return nil
}

func (s *subject) locked() error {
	a, err := s.mapAt("locked", 4, protRW, private, -1)
	if err != nil {
		return err
	}
	a.fill(1, 2)
	if err := a.call("mlock", unix.SYS_MLOCK, 0); err != nil {
		return err
	}
	if a, err = s.mapAt("lockonfault", 4, protRW, private, -1); err != nil {
		return err
	}
	a.fill(1, 2)
	if err := a.call("mlock2", unix.SYS_MLOCK2, unix.MLOCK_ONFAULT); err != nil {
		return err
	}
	if a, err = s.mapAt("sealed", 4, protRW, private, -1); err != nil {
		return err
	}
	a.fill(1, 3)
	if err := a.call("mseal", unix.SYS_MSEAL, 0); !errors.Is(err, unix.ENOSYS) { // since Linux 6.10
		return err
	}
	return nil
}

func (s *subject) fromFiles() error {
	f, err := s.tempFile("data", 8)
	if err != nil {
		return err
	}
	a, err := s.mapAt("file", 8, protRW, private, int(f.Fd()))
	if err != nil {
		return err
	}
	a.fill(2, 3)
	clear(a.page(3)) // zero, which the file is not
	_ = a.page(5)[0] // clean
	if err := a.protect(unix.PROT_READ); err != nil {
		return err
	}
	if a, err = s.mapAt("cleanfile", 8, unix.PROT_READ, private, int(f.Fd())); err != nil {
		return err
	}
	_ = a.page(0)[0]
	if a, err = s.mapAt("sharedfile", 8, protRW, shared, int(f.Fd())); err != nil {
		return err
	}
	a.page(7)[0] = 'x'
	if _, err = s.mapAt("sharedfilero", 8, unix.PROT_READ, shared, int(f.Fd())); err != nil {
		return err
	}
	zero, err := os.OpenFile("/dev/zero", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	if a, err = s.mapAt("devzero", 4, protRW, private, int(zero.Fd())); err != nil {
		return err
	}
	a.fill(1, 2)
	return nil
}

func (s *subject) sharedMemory() error {
	a, err := s.mapAt("shared", 16, protRW, shared, -1)
	if err != nil {
		return err
	}
	a.fill(4, 8)
	if a, err = s.mapAt("sharedsplit", 16, protRW, shared, -1); err != nil {
		return err
	}
	a.fill(0, 9)
	part := area{a.Start + 4*pageSize, a.Start + 6*pageSize}
	if err := part.protect(unix.PROT_READ); err != nil {
		return err
	}
	hole := area{a.Start + 8*pageSize, a.Start + 10*pageSize}
	return hole.call("munmap", unix.SYS_MUNMAP, 0)
}

func (s *subject) special() error {
	a, err := s.mapAt("named", 4, protRW, private, -1)
	if err != nil {
		return err
	}
	a.fill(0, 1)
	name := append([]byte("firn test"), 0)
	_ = unix.Prctl(unix.PR_SET_VMA, unix.PR_SET_VMA_ANON_NAME, uintptr(a.Start), uintptr(a.End-a.Start), addressOf(name))
	if a, err = s.mapAt("growsdown", 4, protRW, private|unix.MAP_GROWSDOWN, -1); err != nil {
		return err
	}
	a.fill(1, 4)
	if a, err = s.mapAt("guarded", 16, protRW, private, -1); err != nil {
		return err
	}
	a.fill(0, 16)
	guard := area{a.Start + 5*pageSize, a.Start + 7*pageSize}
	if err := guard.advise(madvGuardInstall); err != nil && !errors.Is(err, unix.EINVAL) {
		return err
	}
	if _, err = s.mapAt("droppable", 4, protRW, mapDroppable, -1); errors.Is(err, unix.EINVAL) {
		delete(s.Areas, "droppable")
		err = nil
	}
	return err
}

// sharing maps an object, and asks a second process to map it as well.
func (s *subject) sharing() error {
	a, err := s.mapAt("common", 16, protRW, shared, -1)
	if err != nil {
		return err
	}
	a.fill(0, 8)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), envSubject+"=sharer", envFile+"="+fmt.Sprintf("/proc/%d/map_files/%x-%x", os.Getpid(), a.Start, a.End))
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
	runtime.LockOSThread() // whose end the other process would notice
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	cmd.Stdin = os.Stdin
	if err := cmd.Start(); err != nil {
		return err
	}
	if _, err := bufio.NewReader(out).ReadBytes('\n'); err != nil {
		return err
	}
	pid := uint64(cmd.Process.Pid)
	s.Areas["child"] = area{pid, pid}
	return nil
}

// sharer maps the second half of the object of another process.
func (s *subject) sharer() error {
	f, err := os.OpenFile(os.Getenv(envFile), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	a := area{subjectBase, subjectBase + 8*pageSize}
	_, err = raw("mmap", unix.SYS_MMAP, a.Start, a.End-a.Start, protRW, shared|unix.MAP_FIXED_NOREPLACE, uint64(f.Fd()), 8*pageSize)
	if err != nil {
		return err
	}
	a.fill(0, 2)
	return nil
}

// big is a gibibyte, or what FIRN_MM_SIZE says in MiB.
func (s *subject) big() error {
	size := bigSize()
	a, err := s.mapAt("big", size/pageSize, protRW, private, -1)
	if err != nil {
		return err
	}
	a.fill(0, int(size/pageSize))
	return nil
}
