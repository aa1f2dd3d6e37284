package clocks

import (
	"errors"
	"fmt"
	"os"

	"github.com/firn-cr/firn/sdk"
)

// hostClocks is the flag of a restore that leaves the clocks alone.
const hostClocks = "host-clocks"

// own is the name under /proc/PID/ns of the namespace that a process is in.
const own = "time"

// Claims are the namespaces that have to do with the clocks.
func Claims() []sdk.Claim {
	return []sdk.Claim{
		{Kind: sdk.KindNamespace, Namespace: own},
		{Kind: sdk.KindNamespace, Namespace: "time_for_children"},
	}
}

// Check reports time namespaces that only some processes of the tree are in:
// one pair of clocks is saved. It relies on the caller to report processes
// whose children would be born into another time namespace than their own.
func Check(s *sdk.Session) []sdk.Finding {
	// Not those of the tree: of one that runs some may have ended since.
	living := 0
	for i := range s.Resources {
		if s.Resources[i].Kind == sdk.KindTask {
			living++
		}
	}
	var findings []sdk.Finding
	for _, r := range s.Resources {
		ns := r.Namespace
		if r.Kind != sdk.KindNamespace || ns == nil || ns.Name != own || len(ns.Tasks) == living {
			continue
		}
		findings = append(findings, sdk.Finding{
			Level: sdk.LevelBlock, Task: r.Task, Object: r.Object, Subject: "time namespace",
			Text: fmt.Sprintf("time:[%d] is that of some processes of the tree only", ns.Ino),
		})
	}
	return findings
}

// CheckMachine reports what keeps saved clocks from going on on this machine.
// privileged tells that the restorer has CAP_SYS_ADMIN.
func CheckMachine(s *sdk.Session, privileged bool) []sdk.Finding {
	if s.Enabled(hostClocks) {
		return nil
	}
	f := sdk.Finding{Level: sdk.LevelFlag, Subject: "clocks", Help: "--" + hostClocks + " if the program can live with that"}
	if _, err := os.Stat("/proc/self/timens_offsets"); errors.Is(err, os.ErrNotExist) {
		f.Text = "this kernel has no time namespaces: the monotonic clocks would jump"
		return []sdk.Finding{f}
	}
	if !privileged {
		f.Text = "without CAP_SYS_ADMIN there is no time namespace: the monotonic clocks would jump"
		return []sdk.Finding{f}
	}
	return nil
}
