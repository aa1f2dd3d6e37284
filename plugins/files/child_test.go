package files

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/sdk/procfs"
)

// childMode makes the test binary a process that does one thing, says "ready"
// and waits for the end of its input.
const childMode = "FIRN_TEST_FILES_CHILD"

// init keeps the main goroutine of a child on the main thread, by whose
// namespaces a process is known.
func init() {
	if os.Getenv(childMode) != "" {
		runtime.LockOSThread()
	}
}

func TestMain(m *testing.M) {
	if mode := os.Getenv(childMode); mode != "" {
		if err := childMain(mode, os.Args[1]); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println("ready")
		os.Stdin.Read(make([]byte, 1))
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func childMain(mode, arg string) error {
	switch mode {
	case "posix-lock":
		fd, err := openAt3(arg, unix.O_RDWR)
		if err != nil {
			return err
		}
		return unix.FcntlFlock(uintptr(fd), unix.F_SETLK, &unix.Flock_t{Type: unix.F_WRLCK, Start: 1, Len: 2})
	case "open-fifo":
		_, err := openAt3(arg, unix.O_RDWR)
		return err
	case "hold":
		return nil
	case "notify":
		fd, err := openAt3(arg, unix.O_RDONLY|unix.O_DIRECTORY)
		if err == nil {
			_, err = unix.FcntlInt(uintptr(fd), unix.F_NOTIFY, dnCreate)
		}
		return err
	case "own-uts":
		return unix.Unshare(unix.CLONE_NEWUTS)
	}
	return fmt.Errorf("mode %q", mode)
}

// openAt3 opens a file as descriptor 3.
func openAt3(path string, flags int) (int, error) {
	fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	return 3, unix.Dup3(fd, 3, unix.O_CLOEXEC)
}

type child struct{ pid int }

// startChild starts the test binary in a mode; it ends with the test. extra
// are its descriptors from 3 on.
func startChild(t *testing.T, mode, arg string, extra ...*os.File) child {
	t.Helper()
	cmd := exec.Command("/proc/self/exe", arg)
	cmd.Env = append(os.Environ(), childMode+"="+mode)
	cmd.ExtraFiles = extra
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("child: %v", err)
		}
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || line != "ready\n" {
		t.Fatalf("child said %q: %v", line, err)
	}
	return child{pid: cmd.Process.Pid}
}

// fileOf duplicates a descriptor into a file.
func fileOf(t *testing.T, fd int) *os.File {
	t.Helper()
	dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(dup), "fd")
	t.Cleanup(func() { f.Close() })
	return f
}

func fdinfoOf(t *testing.T, fd int) *procfs.FDInfo {
	t.Helper()
	info, err := procfs.ReadFDInfo(os.Getpid(), fd)
	if err != nil {
		t.Fatal(err)
	}
	return info
}
