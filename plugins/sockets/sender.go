package sockets

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/sockets/socketspb"
	"github.com/firn-cr/firn/sdk"
)

// sender makes the record of who sent a message; nil if nobody is known.
func (s *survey) sender(it *item, c *unix.Ucred) *socketspb.Sender {
	if c == nil {
		return nil
	}
	out := &socketspb.Sender{Uid: c.Uid, Gid: c.Gid}
	if p := s.sess.Tree.ByPID(int(c.Pid)); p != nil {
		out.Task = uint32(p.ID)
		return out
	}
	out.Pid = uint32(c.Pid)
	if !runs(int(c.Pid)) {
		s.report.Note(it.res, fmt.Sprintf("unix socket: a message in its queue is from process %d, which has ended: the receiver will be told another number", c.Pid))
	}
	return out
}

// senderPID is the number of a process that sends in the name of another one. Of one
// that is not there any more, it is that of this process, which will not be there
// soon either; the kernel takes none that does not exist.
func (u *unixRestore) senderPID(c *socketspb.Sender) int {
	if p := u.tree.Process(sdk.TaskID(c.GetTask())); p != nil {
		return p.PID
	}
	if pid := int(c.GetPid()); pid > 0 && runs(pid) {
		return pid
	}
	return os.Getpid()
}

// runs tells whether there is a process of a number.
func runs(pid int) bool { return unix.Kill(pid, 0) != unix.ESRCH }
