package kern

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/sdk/sdktest/gate"
)

func TestFileOwner(t *testing.T) {
	f, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	fd := int(f.Fd())
	if o, err := GetFileOwner(fd); err != nil || !o.IsZero() {
		t.Errorf("new file: %+v, %v", o, err)
	}
	want := FileOwner{Type: OwnerPGRP, ID: unix.Getpgrp(), Signal: 34, UID: uint32(os.Getuid()), EUID: uint32(os.Geteuid())}
	if err := SetFileOwner(fd, want); err != nil {
		t.Fatal(err)
	}
	if got, err := GetFileOwner(fd); got != want || err != nil {
		t.Errorf("got %+v, %v; want %+v", got, err, want)
	}
}

func TestFileOwnerOfAnotherUser(t *testing.T) {
	gate.Cap(t, unix.CAP_SETUID)
	f, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	want := FileOwner{Type: OwnerPID, ID: os.Getpid(), UID: 1234, EUID: 1235}
	if err := SetFileOwner(int(f.Fd()), want); err != nil {
		t.Fatal(err)
	}
	if got, err := GetFileOwner(int(f.Fd())); got != want || err != nil {
		t.Errorf("got %+v, %v; want %+v", got, err, want)
	}
	if v, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0); v != 1 || err != nil {
		t.Errorf("dumpable %d, %v", v, err)
	}
	if unix.Geteuid() != 0 {
		t.Errorf("euid %d", unix.Geteuid())
	}
}
