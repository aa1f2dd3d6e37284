package files

import (
	"os"
	"os/signal"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/internal/fdtest"
	"github.com/firn-cr/firn/sdk/kern"
)

func TestOwner(t *testing.T) {
	r, w := pipe2(t, unix.O_NONBLOCK)
	want := kern.FileOwner{Type: kern.OwnerPID, ID: os.Getpid(), Signal: int(unix.SIGUSR2), UID: uint32(os.Getuid()), EUID: uint32(os.Geteuid())}
	if err := kern.SetFileOwner(r, want); err != nil {
		t.Fatal(err)
	}
	if _, err := unix.FcntlInt(uintptr(r), unix.F_SETFL, unix.O_NONBLOCK|unix.O_ASYNC); err != nil {
		t.Fatal(err)
	}
	fdtest.Dump(t, New(), nil, r, w).Restore()
	if got, err := kern.GetFileOwner(r); got != want || err != nil {
		t.Errorf("owner %+v, %v; want %+v", got, err, want)
	}
	if flags := fdtest.Flags(t, r); flags&unix.O_ASYNC == 0 || flags&unix.O_NONBLOCK == 0 {
		t.Errorf("flags %#o", flags)
	}
	got := make(chan os.Signal, 1)
	signal.Notify(got, unix.SIGUSR2)
	defer signal.Stop(got)
	mustWrite(t, w, "x")
	select {
	case <-got:
	case <-time.After(5 * time.Second):
		t.Error("no signal")
	}
}

func TestOwnerOutside(t *testing.T) {
	r, w := pipe2(t, 0)
	defer unix.Close(r)
	unix.Close(w)
	if err := kern.SetFileOwner(r, kern.FileOwner{Type: kern.OwnerPID, ID: os.Getppid()}); err != nil {
		t.Fatal(err)
	}
	blocked(t, r, "its signals go to task")
}
