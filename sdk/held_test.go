package sdk_test

import (
	"context"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/sdktest"
	"github.com/firn-cr/firn/sdk/wire"
)

// holder holds a new file at every check.
type holder struct{ fds []int }

func (*holder) Describe() sdk.Description {
	return sdk.Description{Name: "holder", Version: "1.0.0"}
}

func (*holder) Check(context.Context, *sdk.CheckRequest) ([]sdk.Finding, error) { return nil, nil }

func (h *holder) Held(context.Context, *sdk.CheckRequest) ([]sdk.HeldFile, error) {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	h.fds = append(h.fds, fd)
	return []sdk.HeldFile{{Holder: 1, FD: fd, Subject: "the test"}}, err
}

// TestHeldFilesAreClosed: the SDK closes what a Holder has handed over when it is
// of no use any more.
func TestHeldFilesAreClosed(t *testing.T) {
	h := &holder{}
	open := func(n int) bool {
		_, err := unix.FcntlInt(uintptr(h.fds[n]), unix.F_GETFD, 0)
		return err == nil
	}
	s := sdktest.New(t, h, sdktest.Config{}).Open()
	run := func(p wire.Phase) wire.Result {
		res, err := s.Run(p)
		if err != nil {
			t.Fatal(err)
		}
		return res
	}
	if res := run(wire.PhaseCheck); len(res.Held) != 1 || res.Held[0].FD != h.fds[0] || !open(0) {
		t.Fatalf("the check holds %v", res.Held)
	}
	run(wire.PhaseCheck)
	if h.fds[1] != h.fds[0] { // else the number was free again
		t.Errorf("the descriptors %v: the first one is still open", h.fds)
	}
	run(wire.PhaseThawed)
	if open(1) {
		t.Error("a descriptor is open after the thaw")
	}
	run(wire.PhaseCheck)
	s.Close()
	if open(2) {
		t.Error("a descriptor is open after the session")
	}
}
