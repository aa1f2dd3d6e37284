package main

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/sdktest"
	"github.com/firn-cr/firn/sdk/sdktest/gate"
)

// subject is a program that has /dev/kmsg open for writing and looks at it all the
// time.
const subject = `exec 3>/dev/kmsg
while [ "$(readlink /proc/$$/fd/3)" = /dev/kmsg ]; do echo right; sleep 0.02; done >>log
echo bad >>log`

func TestKmsg(t *testing.T) {
	gate.Cap(t, unix.CAP_SYSLOG)
	const object = 7
	sdktest.Conform(t, sdktest.Conformance{
		Plugin: func() sdk.Plugin { return plugin{} },
		Setup: func(t testing.TB) sdktest.Config {
			f, err := os.Open("/dev/kmsg")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { f.Close() })
			task := sdk.TaskID(os.Getpid())
			return sdktest.Config{Tree: sdktest.Tree(os.Getpid()), Resources: []sdk.Resource{{
				Kind: sdk.KindFile, Object: object, Task: task,
				File: &sdk.File{
					Link: "/dev/kmsg", Type: sdk.TypeChar, Rdev: unix.Mkdev(1, 11),
					Refs: []sdk.FDRef{{Task: task, FD: int(f.Fd())}},
				},
			}}}
		},
		Verify: func(t testing.TB, s *sdktest.Session) {
			var st unix.Stat_t
			if err := unix.Fstat(s.FD(object), &st); err != nil || st.Rdev != unix.Mkdev(1, 11) {
				t.Errorf("device %#x, %v", st.Rdev, err)
			}
		},
		Program: ".",
		Subject: []string{"/bin/sh", "-c", subject},
	})
}
