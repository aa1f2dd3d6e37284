package main

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/sdktest"
)

func TestKmsg(t *testing.T) {
	f, err := os.Open("/dev/kmsg")
	if err != nil {
		t.Skip(err)
	}
	defer f.Close()
	const object = 7
	h := sdktest.New(t, plugin{}, sdktest.Config{
		Tree: sdktest.Tree(os.Getpid()),
		Resources: []sdk.Resource{{
			Kind: sdk.KindFile, Object: object, Task: sdk.TaskID(os.Getpid()),
			File: &sdk.File{
				Link: "/dev/kmsg", Type: sdk.TypeChar, Rdev: unix.Mkdev(1, 11),
				Refs: []sdk.FDRef{{Task: sdk.TaskID(os.Getpid()), FD: int(f.Fd())}},
			},
		}},
	})
	img, err := h.Dump()
	if err != nil {
		t.Fatal(err)
	}
	r, err := h.Restore(img)
	if err != nil {
		t.Fatal(err)
	}
	if fd := r.FD(object); fd < 0 {
		t.Errorf("descriptor %d", fd)
	}
}
