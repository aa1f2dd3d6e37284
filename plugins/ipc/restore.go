package ipc

import (
	"context"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/ipc/ipcpb"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/namespace"
	"github.com/firn-cr/firn/sdk/procfs"
	"github.com/firn-cr/firn/sdk/tape"
)

// saved is a namespace of an image.
type saved struct {
	object     uint64
	members    []*sdk.Process
	record     *ipcpb.Namespace
	segments   []*ipcpb.Segment
	queues     []*savedQueue
	semaphores []*ipcpb.SemaphoreSet
	posix      []*ipcpb.MessageQueue
}

type savedQueue struct {
	*ipcpb.Queue
	messages []*ipcpb.Message
}

// load reads and checks the records of all namespaces.
func load(req *sdk.RestoreRequest) ([]*saved, error) {
	var all []*saved
	for i := range req.Resources {
		r := &req.Resources[i]
		members := namespace.Members(req.Session, r)
		if len(members) == 0 {
			continue
		}
		s := &saved{object: r.Object, members: members}
		for rec, err := range req.Records.Object(r.Object) {
			if err == nil {
				err = s.add(rec)
			}
			if err != nil {
				return nil, fmt.Errorf("ipc namespace of task %d: %w", members[0].ID, err)
			}
		}
		if err := s.whole(); err != nil {
			return nil, fmt.Errorf("ipc namespace of task %d: %w", members[0].ID, err)
		}
		all = append(all, s)
	}
	return all, nil
}

// add takes one record over.
func (s *saved) add(r sdk.Record) error {
	switch r.Kind {
	case kindNamespace:
		s.record = &ipcpb.Namespace{}
		if err := r.Decode(s.record); err != nil {
			return err
		}
		return validSysctls(s.record.Sysctls)
	case kindSegment:
		m := &ipcpb.Segment{}
		s.segments = append(s.segments, m)
		if err := r.Decode(m); err != nil {
			return err
		}
		return validOwner(m.Owner)
	case kindQueue:
		q := &savedQueue{Queue: &ipcpb.Queue{}}
		s.queues = append(s.queues, q)
		if err := r.Decode(q.Queue); err != nil {
			return err
		}
		return validOwner(q.Owner)
	case kindMessage:
		m := &ipcpb.Message{}
		if err := r.Decode(m); err != nil {
			return err
		}
		if len(s.queues) == 0 {
			return fmt.Errorf("message without queue: %w", sdk.ErrCorrupt)
		}
		q := s.queues[len(s.queues)-1]
		q.messages = append(q.messages, m)
		return validMessage(m)
	case kindSemaphores:
		m := &ipcpb.SemaphoreSet{}
		s.semaphores = append(s.semaphores, m)
		if err := r.Decode(m); err != nil {
			return err
		}
		if err := validSemaphores(m); err != nil {
			return err
		}
		return validOwner(m.Owner)
	case kindMessageQueue:
		m := &ipcpb.MessageQueue{}
		s.posix = append(s.posix, m)
		if err := r.Decode(m); err != nil {
			return err
		}
		return validMessageQueue(m)
	}
	return nil
}

// whole tells whether everything is there.
func (s *saved) whole() error {
	if s.record == nil {
		return fmt.Errorf("no record of object %d: %w", s.object, sdk.ErrCorrupt)
	}
	for _, q := range s.queues {
		if uint64(len(q.messages)) != q.Messages {
			return fmt.Errorf("message queue %d has %d messages, not %d: %w", q.Owner.Id, len(q.messages), q.Messages, sdk.ErrCorrupt)
		}
	}
	return nil
}

// CheckImage implements [sdk.ImageChecker].
func (*plugin) CheckImage(_ context.Context, req *sdk.RestoreRequest) ([]sdk.Finding, error) {
	status, err := procfs.Status(os.Getpid())
	if err != nil {
		return nil, err
	}
	all, err := load(req)
	if err != nil {
		return nil, err
	}
	var findings []sdk.Finding
	for _, s := range all {
		f := sdk.Finding{Task: s.members[0].ID, Object: s.object, Subject: subject}
		if status.CapEff&(1<<unix.CAP_SYS_ADMIN) == 0 {
			f.Level, f.Text, f.Help = sdk.LevelBlock, "needs CAP_SYS_ADMIN", "run firn with CAP_SYS_ADMIN"
			findings = append(findings, f)
		}
		if n := s.strangers(); n > 0 {
			f.Level, f.Text = sdk.LevelNote, fmt.Sprintf("%d semaphores were changed last by tasks that are not restored; they will name another", n)
			findings = append(findings, f)
		}
	}
	for i := range req.Resources {
		r := &req.Resources[i]
		if _, ok := namespace.Joined(req.Session, r); ok {
			findings = append(findings, sdk.Finding{
				Level: sdk.LevelBlock, Task: r.Task, Object: r.Object, Subject: subject,
				Text: "its objects are restored into a namespace of their own", Help: "leave out --" + namespace.JoinOption,
			})
		}
	}
	list, err := checkImageDescriptors(req)
	return append(findings, list...), err
}

// strangers counts semaphores whose last process is not in the tree.
func (s *saved) strangers() int {
	known, n := map[uint32]bool{0: true}, 0
	for _, p := range s.members {
		known[uint32(p.ID)] = true
	}
	for _, set := range s.semaphores {
		for _, pid := range set.Last {
			if !known[pid] {
				n++
			}
		}
	}
	return n
}

// RestoreNamespaces implements [sdk.NamespaceRestorer].
func (*plugin) RestoreNamespaces(ctx context.Context, req *sdk.RestoreRequest) error {
	all, err := load(req)
	if err != nil || len(all) == 0 {
		return err
	}
	err = namespace.Restore(ctx, req, unix.CLONE_NEWIPC, func(*sdk.Resource) (*tape.Tape, error) {
		t := &tape.Tape{}
		t.Call(unix.SYS_UNSHARE, tape.Imm(unix.CLONE_NEWIPC))
		return t, nil
	})
	if err != nil {
		return err
	}
	for _, s := range all {
		if err := within(s.members[0].PID, func() error { return s.create(req.Records) }); err != nil {
			return fmt.Errorf("ipc namespace of task %d: %w", s.members[0].ID, err)
		}
		if err := s.runAdjustments(ctx, req.Host); err != nil {
			return err
		}
	}
	return nil
}

// create makes all objects in the calling thread's namespace, whose limits
// become those of the image later.
func (s *saved) create(records sdk.Records) error {
	if err := s.makeRoom(); err != nil {
		return err
	}
	for _, m := range s.segments {
		if err := restoreSegment(records, m); err != nil {
			return fmt.Errorf("shared memory %d: %w", m.Owner.Id, err)
		}
	}
	for _, q := range s.queues {
		if err := restoreQueue(q.Queue, q.messages); err != nil {
			return fmt.Errorf("message queue %d: %w", q.Owner.Id, err)
		}
	}
	for _, m := range s.semaphores {
		if err := restoreSemaphores(m); err != nil {
			return fmt.Errorf("semaphores %d: %w", m.Owner.Id, err)
		}
	}
	for _, q := range s.posix {
		if err := restoreMessageQueue(q); err != nil {
			return fmt.Errorf("POSIX message queue /%s: %w", q.Name, err)
		}
	}
	return nil
}

// makeRoom raises the limits on how many objects there may be.
func (s *saved) makeRoom() error {
	if err := raise("kernel/shmmni", uint64(len(s.segments))); err != nil {
		return err
	}
	if err := raise("kernel/msgmni", uint64(len(s.queues))); err != nil {
		return err
	}
	most, sum := 0, 0
	for _, m := range s.semaphores {
		most, sum = max(most, len(m.Values)), sum+len(m.Values)
	}
	if err := raise("kernel/sem", uint64(most), uint64(sum), 1, uint64(len(s.semaphores))); err != nil {
		return err
	}
	if len(s.posix) == 0 {
		return nil
	}
	return raise("fs/mqueue/queues_max", uint64(len(s.posix)))
}

// RestoreTasks implements [sdk.TaskRestorer]: everything is attached by now, so
// segments that were removed can be again, and the limits can be what they
// were, which may be below what there is.
func (*plugin) RestoreTasks(_ context.Context, req *sdk.RestoreRequest) error {
	all, err := load(req)
	if err != nil {
		return err
	}
	for _, s := range all {
		err := within(s.members[0].PID, func() error {
			for _, m := range s.segments {
				if !m.Destroyed {
					continue
				}
				if err := control(procfs.SharedMemory, m.Owner.Id, ipcRmid, nil); err != nil {
					return fmt.Errorf("remove shared memory %d: %w", m.Owner.Id, err)
				}
			}
			return writeSysctls(s.record.Sysctls)
		})
		if err != nil {
			return fmt.Errorf("ipc namespace of task %d: %w", s.members[0].ID, err)
		}
	}
	return nil
}
