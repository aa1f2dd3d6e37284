package sockets

import (
	"context"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/sockets/socketspb"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/tape"
)

// listener is a restored unix listener.
type listener struct {
	object uint64
	fd     int // in this process
	msg    *socketspb.Unix
}

// unchanged leaves an id of setresuid(2) and setresgid(2) as it is.
const unchanged = ^uint32(0)

// listenAs gives listeners the credentials that their clients see. They are
// those of the process that calls listen(2) last, so the process that did so
// before the checkpoint does it again. Its own ids are still the restorer's.
func listenAs(ctx context.Context, req *sdk.RestoreRequest, listeners []listener) error {
	var runs []tape.Run
	var objects []uint64
	for _, l := range listeners {
		p := listenerTask(req, l)
		if p == nil {
			continue
		}
		t := listenTape(req.PluginFD, l)
		if p.UserNamespace != 0 {
			// It has its own ids already, and may not take a descriptor of this process.
			fd, ok := descriptorOf(req, l.object, p)
			if !ok {
				continue // nobody in the tree has it
			}
			t = &tape.Tape{}
			t.Call(unix.SYS_LISTEN, tape.Imm(fd), tape.Imm(l.msg.GetBacklog()))
		}
		runs = append(runs, tape.Run{TID: p.PID, Tape: t})
		objects = append(objects, l.object)
	}
	if len(runs) == 0 {
		return nil
	}
	outcomes, err := req.Host.RunTapes(ctx, runs)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	for i := range outcomes {
		if err := outcomes[i].Err; err != nil {
			return fmt.Errorf("listen on unix socket %d as task %d: %w", objects[i], runs[i].TID, err)
		}
	}
	return nil
}

// listenerTask is the process that listened or, if it is not of the tree, or has
// left a user namespace to those who have the socket, one that has it.
func listenerTask(req *sdk.RestoreRequest, l listener) *sdk.Process {
	if p := req.Tree.Process(sdk.TaskID(l.msg.GetCredentials().GetTask())); p != nil && !p.Zombie {
		if _, ok := descriptorOf(req, l.object, p); ok || p.UserNamespace == 0 {
			return p
		}
	}
	for _, r := range req.Resources {
		if r.Object == l.object && r.File != nil && len(r.File.Refs) > 0 {
			return req.Tree.Process(r.File.Refs[0].Task)
		}
	}
	return nil
}

// descriptorOf is the number by which a process has a socket.
func descriptorOf(req *sdk.RestoreRequest, object uint64, p *sdk.Process) (int, bool) {
	for _, r := range req.Resources {
		if r.Object != object || r.File == nil {
			continue
		}
		for _, ref := range r.File.Refs {
			if ref.Task == p.ID {
				return ref.FD, true
			}
		}
	}
	return -1, false
}

func listenTape(pluginFD int, l listener) *tape.Tape {
	t := &tape.Tape{}
	cred := l.msg.GetCredentials()
	uid, gid := uint32(unix.Geteuid()), uint32(unix.Getegid())
	fd := t.Call(unix.SYS_PIDFD_GETFD, tape.Imm(pluginFD), tape.Imm(l.fd), tape.Imm(0))
	if cred.GetGid() != gid {
		t.Call(unix.SYS_SETRESGID, tape.Imm(unchanged), tape.Imm(cred.GetGid()), tape.Imm(unchanged))
	}
	if cred.GetUid() != uid {
		t.Call(unix.SYS_SETRESUID, tape.Imm(unchanged), tape.Imm(cred.GetUid()), tape.Imm(unchanged))
	}
	t.Call(unix.SYS_LISTEN, fd.Arg(), tape.Imm(l.msg.GetBacklog()))
	if cred.GetUid() != uid {
		t.Call(unix.SYS_SETRESUID, tape.Imm(unchanged), tape.Imm(uid), tape.Imm(unchanged))
	}
	if cred.GetGid() != gid {
		t.Call(unix.SYS_SETRESGID, tape.Imm(unchanged), tape.Imm(gid), tape.Imm(unchanged))
	}
	t.Call(unix.SYS_CLOSE, fd.Arg())
	return t
}
