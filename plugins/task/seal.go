package task

import (
	"context"
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/task/taskpb"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/procfs"
)

// selfPID is the plugin's own process in /proc.
var selfPID = os.Getpid()

// Seal implements [sdk.Sealer], in steps: each takes away what the one before
// needs, of other threads as well.
func (*plugin) Seal(ctx context.Context, req *sdk.RestoreRequest) error {
	saved, err := load(req)
	if err != nil {
		return err
	}
	place := &placer{pluginFD: req.PluginFD}
	defer place.close()
	here := slices.DeleteFunc(slices.Clone(saved), func(p *savedProcess) bool { return p.users != nil })
	if err := place.makeDeleted(here); err != nil {
		return err
	}
	if err := eachThread(ctx, req.Host, saved, place.thread); err != nil {
		return err
	}
	if err := scheduleFromOutside(saved); err != nil {
		return err
	}
	if err := sealSeccomp(ctx, req.Host, saved); err != nil {
		return err
	}
	if err := sealRights(ctx, req.Host, saved); err != nil {
		return err
	}
	if err := eachThread(ctx, req.Host, saved, startClocks); err != nil {
		return err
	}
	return verifyRights(ctx, saved)
}

// thread says where paths start and when the thread runs. Until here all paths
// of all threads started from the restorer's root.
func (p *placer) thread(s *script, sp *savedProcess, t *savedThread) error {
	fs, own := t.rec.GetFs(), true
	if sp.leads(t) {
		fs, own = sp.rec.GetFs(), false
	}
	if fs != nil {
		if err := p.setFS(s, fs, own, sp.users != nil); err != nil {
			return err
		}
	}
	sched := t.rec.GetScheduling()
	setCPUs(s, sched)
	if sp.users == nil {
		setPriorities(s, sched)
	}
	return nil
}

// sealRights sets limits and credentials.
func sealRights(ctx context.Context, host sdk.Host, saved []*savedProcess) error {
	// The threads of a process have what its main thread has, which made them.
	have := map[sdk.TaskID]*taskpb.Credentials{}
	for _, p := range saved {
		c, err := startingCredentials(p)
		if err != nil {
			return err
		}
		have[p.proc.ID] = c
	}
	return eachThread(ctx, host, saved, func(s *script, p *savedProcess, t *savedThread) error {
		if p.leads(t) {
			if err := setLimits(s, p.rec.GetLimits()); err != nil {
				return err
			}
		}
		setCredentials(s, have[p.proc.ID], t.rec.GetCredentials(), p.users)
		return nil
	})
}

// startClocks sets what a change of credentials has cleared, and starts the
// timers.
func startClocks(s *script, p *savedProcess, t *savedThread) error {
	sealThread(s, t.rec)
	if !p.leads(t) {
		return nil
	}
	sealProcess(s, p.rec)
	armPosixTimers(s, p.rec.GetPosixTimers())
	return armIntervalTimers(s, p.rec.GetIntervalTimers())
}

// startingCredentials are those that all threads of a process have before theirs
// are set.
func startingCredentials(p *savedProcess) (*taskpb.Credentials, error) {
	c, err := credentialsNow(p.threads[0].TID)
	if err != nil || p.users != nil { // who enters a user namespace has the default securebits there
		return c, err
	}
	bits, err := unix.PrctlRetInt(unix.PR_GET_SECUREBITS, 0, 0, 0, 0)
	if err != nil {
		return nil, fmt.Errorf("read own securebits: %w", err)
	}
	c.Securebits = uint32(bits) // the tasks are descendants of the host, as the plugin is
	return c, nil
}

// credentialsNow reads the credentials that a thread has now.
func credentialsNow(tid int) (*taskpb.Credentials, error) {
	status, err := procfs.Status(tid)
	if err != nil {
		return nil, fmt.Errorf("credentials of task %d: %w", tid, err)
	}
	return credentialsOf(&status), nil
}

// verifyRights reads the credentials and the seccomp state of all threads back.
func verifyRights(ctx context.Context, saved []*savedProcess) error {
	own, err := procfs.Status(selfPID)
	if err != nil {
		return err
	}
	var threads []*savedThread
	for _, p := range saved {
		if p.main != nil {
			// Another thread stands for the process now, and if the tree has a
			// PID namespace of its own, the main thread's number is new here.
			status, err := procfs.Status(p.proc.PID)
			if err != nil {
				return err
			}
			p.main.TID = status.Tgid
			threads = append(threads, p.main)
		}
		for i := range p.threads {
			threads = append(threads, &p.threads[i])
		}
	}
	return inParallel(ctx, len(threads), func(i int) error {
		t := threads[i]
		status, err := procfs.Status(t.TID)
		if err == nil {
			err = verifyCredentials(credentialsOf(&status), t.rec.GetCredentials())
		}
		// A restorer under seccomp hands its filters down.
		// That of a main thread that has exited is gone (seccomp_filter_release).
		if err == nil && own.Seccomp == unix.SECCOMP_MODE_DISABLED && t.rec.Scheduling != nil {
			err = verifySeccomp(&status, t)
		}
		if err != nil {
			return fmt.Errorf("seal task %d: %w", t.ID, err)
		}
		return nil
	})
}
