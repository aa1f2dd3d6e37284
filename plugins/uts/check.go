package uts

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/namespace"
	"github.com/firn-cr/firn/sdk/procfs"
)

// subject is what findings are about.
const subject = "uts namespace"

// Check implements [sdk.Checker].
func (*plugin) Check(_ context.Context, req *sdk.CheckRequest) ([]sdk.Finding, error) {
	var findings []sdk.Finding
	for _, r := range req.Resources {
		members := namespace.Members(req.Session, &r)
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
		findings = append(findings, f)
	}
	return findings, nil
}

// CheckImage implements [sdk.ImageChecker].
func (*plugin) CheckImage(_ context.Context, req *sdk.RestoreRequest) ([]sdk.Finding, error) {
	status, err := procfs.Status(os.Getpid())
	if err != nil {
		return nil, err
	}
	var findings []sdk.Finding
	for _, r := range req.Resources {
		members := namespace.Members(req.Session, &r)
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
