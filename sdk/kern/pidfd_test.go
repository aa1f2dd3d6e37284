package kern_test

import (
	"errors"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/sdk/kern"
)

func TestDeadPidfd(t *testing.T) {
	for _, want := range []unix.WaitStatus{0, 7 << 8, 255 << 8, unix.WaitStatus(unix.SIGKILL), unix.WaitStatus(unix.SIGTERM), unix.WaitStatus(unix.SIGSEGV)} {
		fd, err := kern.DeadPidfd(want, "/proc/self/ns/pid")
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		if err := unix.PidfdSendSignal(fd, 0, nil, 0); !errors.Is(err, unix.ESRCH) {
			t.Errorf("status %#x: signal: %v", want, err)
		}
		if got, ok := kern.PidfdExitStatus(fd); ok && got != want {
			t.Errorf("status %#x, want %#x", got, want)
		}
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		if n, err := unix.Poll(poll, 0); n != 1 || err != nil {
			t.Errorf("poll: %d, %v", n, err)
		}
	}
	live, err := unix.PidfdOpen(unix.Getpid(), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(live)
	if status, ok := kern.PidfdExitStatus(live); ok {
		t.Errorf("a live process ended with %#x", status)
	}
}
