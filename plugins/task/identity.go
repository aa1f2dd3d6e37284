package task

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/task/taskpb"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/kern"
)

// RestoreIdentity implements [sdk.IdentityRestorer]. A process that goes into a
// user namespace takes its users and groups with it, as they are outside: inside
// they need not have numbers, and setgroups(2) need not be allowed. What the
// threads have differently is set later, by their numbers inside.
func (*plugin) RestoreIdentity(ctx context.Context, req *sdk.RestoreRequest) error {
	saved, err := load(req)
	if err != nil {
		return err
	}
	login, err := readOptional(selfPID, "loginuid", 10, loginUnset)
	if err != nil {
		return err
	}
	saved = slices.DeleteFunc(saved, func(p *savedProcess) bool { return p.users == nil })
	place := &placer{pluginFD: req.PluginFD}
	defer place.close()
	if err := place.makeDeleted(saved); err != nil {
		return err
	}
	mains := make([]*savedProcess, len(saved))
	for i, p := range saved {
		mains[i] = p.mainAlone(p.first())
	}
	return eachThread(ctx, req.Host, mains, func(s *script, p *savedProcess, t *savedThread) error {
		have, err := credentialsNow(t.TID)
		if err != nil {
			return err
		}
		setLoginUID(s, uint32(login), p.rec.GetLoginuid())
		if fs := p.rec.GetFs(); fs.GetDeletedCwd() != nil {
			place.enterDeleted(s, fs)
		}
		setIDs(s, have, t.rec.GetCredentials(), nil)
		return nil
	})
}

// first is the thread whose credentials the main thread, which makes all others,
// starts with.
func (p *savedProcess) first() *savedThread {
	if p.main != nil {
		return p.main
	}
	return &p.threads[0]
}

// insideUserNamespace reports what threads of a process in a user namespace have
// other than their main thread and could not be set by themselves.
func (x *examination) insideUserNamespace() {
	ns := x.tree.UserNamespace(x.proc.UserNamespace)
	if ns == nil || x.status[0] == nil {
		return
	}
	for i, st := range x.status {
		if i == 0 || st == nil {
			continue
		}
		if err := checkInside(ns, credentialsOf(x.status[0]), credentialsOf(st)); err != nil {
			x.block(i, "credentials", err.Error(), "")
		}
		tid := x.proc.Threads[i].TID
		if same, err := sharesFS(x.proc.PID, tid); err == nil && !same && deletedDirectory(tid) {
			x.block(i, "cwd", "is deleted, and the thread has it alone in a user namespace, in which it could not enter it again", "")
		}
	}
}

func deletedDirectory(tid int) bool {
	var st unix.Stat_t
	return unix.Stat(fmt.Sprintf("/proc/%d/cwd", tid), &st) == nil && st.Nlink == 0
}

// checkInside makes sure that all credentials of a process can be set.
func (p *savedProcess) checkInside() error {
	if p.users == nil {
		return nil
	}
	main := p.first().rec.GetCredentials()
	for i := range p.threads {
		if err := checkInside(p.users, main, p.threads[i].rec.GetCredentials()); err != nil {
			return err
		}
	}
	return nil
}

// checkInside makes sure that what threads have other than their main thread has
// a number in their user namespace, by which it can be set.
func checkInside(ns *sdk.UserNamespace, main, thread *taskpb.Credentials) error {
	for _, f := range []struct {
		what       string
		have, want []uint32
		ids        sdk.IDMap
	}{
		{"user", main.GetUids(), thread.GetUids(), ns.UIDs},
		{"group", main.GetGids(), thread.GetGids(), ns.GIDs},
	} {
		for i, id := range f.want {
			if _, ok := f.ids.Inside(id); !ok && i < len(f.have) && f.have[i] != id {
				return fmt.Errorf("%s %d, which the main thread does not have, has no number in the user namespace", f.what, id)
			}
		}
	}
	if sameGroups(main.GetGroups(), thread.GetGroups()) {
		return nil
	}
	if ns.SetgroupsDenied {
		return errors.New("supplementary groups differ from those of the main thread, and cannot be set in the user namespace")
	}
	for _, id := range thread.GetGroups() {
		if _, ok := ns.GIDs.Inside(id); !ok {
			return fmt.Errorf("group %d has no number in the user namespace", id)
		}
	}
	return nil
}

// inside turns users or groups into their numbers in a user namespace; those that
// have none become -1, which leaves what is there (setresuid(2)).
func inside(m sdk.IDMap, ids []uint32) []uint32 {
	out := make([]uint32, len(ids))
	for i, id := range ids {
		n, ok := m.Inside(id)
		if !ok {
			n = ^uint32(0)
		}
		out[i] = n
	}
	return out
}

// scheduleFromOutside sets what a thread in a user namespace has no right to set
// for itself.
func scheduleFromOutside(saved []*savedProcess) error {
	for _, p := range saved {
		if p.users == nil {
			continue
		}
		for i := range p.threads {
			t := &p.threads[i]
			s := t.rec.GetScheduling()
			if err := kern.IoprioSet(t.TID, int(s.GetIoprio())); err != nil {
				return fmt.Errorf("set I/O priority of task %d: %w", t.ID, err)
			}
			if err := unix.SchedSetAttr(t.TID, schedAttr(s), 0); err != nil {
				return fmt.Errorf("set scheduling policy of task %d: %w", t.ID, err)
			}
		}
	}
	return nil
}
