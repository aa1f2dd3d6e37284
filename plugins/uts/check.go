package uts

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/procfs"
)

// subject is what findings are about.
const subject = "uts namespace"

// Check implements [sdk.Checker].
func (*plugin) Check(_ context.Context, req *sdk.CheckRequest) ([]sdk.Finding, error) {
	var findings []sdk.Finding
	for _, r := range req.Resources {
		members := living(req.Session, &r)
		if len(members) == 0 {
			continue
		}
		f := sdk.Finding{Task: members[0].ID, Object: r.Object, Subject: subject}
		ns, err := read(members[0].PID)
		switch {
		case (errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH)) && !req.Frozen:
			continue // it has just ended
		case err != nil:
			f.Level, f.Text, f.Help = sdk.LevelBlock, err.Error(), "run firn with CAP_SYS_ADMIN"
		default:
			f.Text = fmt.Sprintf("host name %q, domain name %q", ns.GetHostname(), ns.GetDomainname())
		}
		if foreign, err := ownedByOthers(members[0].PID); err == nil && foreign {
			f.Level, f.Text, f.Help = sdk.LevelBlock, "belongs to another user namespace than firn's", ""
		}
		findings = append(findings, f)
	}
	return findings, nil
}

// ownedByOthers tells whether the user namespace that owns a process's UTS
// namespace is not the plugin's: who has rights over the names would change.
// See ioctl_nsfs(2).
func ownedByOthers(pid int) (bool, error) {
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/uts", pid))
	if err != nil {
		return false, fmt.Errorf("open namespace: %w", err)
	}
	defer ns.Close()
	owner, err := unix.IoctlRetInt(int(ns.Fd()), unix.NS_GET_USERNS)
	if errors.Is(err, unix.EPERM) {
		return true, nil // not below the plugin's own
	}
	if err != nil {
		return false, fmt.Errorf("read owner of namespace: %w", err)
	}
	defer unix.Close(owner)
	var theirs, own unix.Stat_t
	if err := unix.Fstat(owner, &theirs); err != nil {
		return false, fmt.Errorf("stat owner of namespace: %w", err)
	}
	if err := unix.Stat("/proc/self/ns/user", &own); err != nil {
		return false, fmt.Errorf("stat own user namespace: %w", err)
	}
	return theirs.Ino != own.Ino || theirs.Dev != own.Dev, nil
}

// CheckImage implements [sdk.ImageChecker].
func (*plugin) CheckImage(_ context.Context, req *sdk.RestoreRequest) ([]sdk.Finding, error) {
	status, err := procfs.Status(os.Getpid())
	if err != nil {
		return nil, err
	}
	var findings []sdk.Finding
	for _, r := range req.Resources {
		members := living(req.Session, &r)
		if len(members) == 0 {
			continue
		}
		if _, err := load(req.Records, r.Object); err != nil {
			return nil, fmt.Errorf("uts namespace of task %d: %w", members[0].ID, err)
		}
		if status.CapEff&(1<<unix.CAP_SYS_ADMIN) == 0 {
			findings = append(findings, sdk.Finding{Level: sdk.LevelBlock, Task: members[0].ID, Object: r.Object,
				Subject: subject, Text: "needs CAP_SYS_ADMIN", Help: "run firn with CAP_SYS_ADMIN"})
		}
	}
	return findings, nil
}
