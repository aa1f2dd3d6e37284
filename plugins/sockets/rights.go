package sockets

import (
	"context"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/sockets/socketspb"
	"github.com/firn-cr/firn/sdk"
)

// carrying is a message with which files travel (SCM_RIGHTS, unix(7)).
type carrying struct {
	msg *socketspb.Message
	// fds are duplicates in this process.
	fds []int
}

// Held implements [sdk.Holder]: what travels through sockets and was not received
// yet. Of a tree that runs it is left alone, as all queues are.
func (p *plugin) Held(_ context.Context, req *sdk.CheckRequest) ([]sdk.HeldFile, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.frozen == nil || !req.Frozen {
		return nil, nil
	}
	var out []sdk.HeldFile
	for i := range p.frozen.items {
		it := &p.frozen.items[i]
		for _, fd := range it.rights {
			out = append(out, sdk.HeldFile{Holder: it.res.Object, FD: fd, Subject: it.file().Subject() + ", in its queue"})
		}
	}
	return out, nil
}

// name tells messages by which objects the files are known that travel with them.
func (it *item) name(held []sdk.HeldFile) error {
	if len(it.carrying) == 0 {
		return nil
	}
	objects := map[int]uint64{}
	for _, h := range held {
		objects[h.FD] = h.Object
	}
	for _, c := range it.carrying {
		c.msg.Rights = nil
		for _, fd := range c.fds {
			if objects[fd] == 0 {
				return fmt.Errorf("descriptors in its queue: nobody carries them: %w", sdk.ErrUnsupported)
			}
			c.msg.Rights = append(c.msg.Rights, objects[fd])
		}
	}
	return nil
}

// control makes what travels with a message: files, which it fetches, and who sent it.
// done closes the files again.
func (u *unixRestore) control(m *socketspb.Message) (control []byte, done func(), err error) {
	var fds []int
	done = func() { closeAll(fds) }
	for _, object := range m.GetRights() {
		fd, err := u.fetch(object)
		if err != nil {
			done()
			return nil, nil, fmt.Errorf("file that travels in it: %w", err)
		}
		fds = append(fds, fd)
	}
	if len(fds) > 0 {
		control = unix.UnixRights(fds...)
	}
	if c := m.GetCredentials(); c != nil {
		control = append(control, unix.UnixCredentials(&unix.Ucred{Pid: int32(u.senderPID(c)), Uid: c.GetUid(), Gid: c.GetGid()})...)
	}
	return control, done, nil
}

// waits tells whether files travel in the queues: they are filled when these are
// there.
func (u *unixRestore) waits() bool {
	for _, r := range u.im.unix {
		for _, m := range r.queue {
			if len(m.GetRights()) > 0 {
				return true
			}
		}
	}
	return false
}
