package ipc

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/ipc/ipcpb"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/namespace"
)

// deletedSuffix is what the kernel appends to the name of an unlinked queue.
const deletedSuffix = " (deleted)"

// kept are the flags of mq_open(3) that a descriptor keeps.
const kept = unix.O_ACCMODE | unix.O_NONBLOCK

// homes tells to which namespace the POSIX queues of a device belong: the
// object of one of the tree, 0 for the plugin's own.
func homes(s *sdk.Session) (map[uint64]uint64, error) {
	found := map[uint64]uint64{}
	dev, err := queueDevice()
	if err != nil {
		return nil, err
	}
	found[dev] = 0
	for i := range s.Resources {
		r := &s.Resources[i]
		members := namespace.Members(s, r)
		if len(members) == 0 {
			continue
		}
		err := within(members[0].PID, func() (err error) {
			dev, err = queueDevice()
			return err
		})
		if err != nil {
			return nil, err
		}
		found[dev] = r.Object
	}
	return found, nil
}

// files are the descriptors among the resources.
func files(s *sdk.Session) []*sdk.Resource {
	var list []*sdk.Resource
	for i := range s.Resources {
		if s.Resources[i].File != nil {
			list = append(list, &s.Resources[i])
		}
	}
	return list
}

// describe makes the record of a descriptor; text tells why it cannot be
// carried.
func describe(homes map[uint64]uint64, f *sdk.File) (d *ipcpb.Descriptor, text string) {
	home, ok := homes[f.Dev]
	switch {
	case !ok:
		return nil, "a POSIX message queue of an IPC namespace that no process of the tree lives in"
	case strings.HasSuffix(f.Link, deletedSuffix):
		return nil, "a POSIX message queue that was unlinked"
	case f.Flags&unix.O_PATH != 0:
		return nil, "a POSIX message queue, opened with O_PATH"
	}
	name := f.Link[strings.LastIndexByte(f.Link, '/')+1:]
	return &ipcpb.Descriptor{Namespace: home, Name: []byte(name), Flags: f.Flags & kept}, ""
}

// checkDescriptors reports the descriptors. That of the plugin's own namespace
// is opened again by its name, like a file.
func checkDescriptors(s *sdk.Session) ([]sdk.Finding, error) {
	list := files(s)
	if len(list) == 0 {
		return nil, nil
	}
	known, err := homes(s)
	if err != nil {
		return nil, err
	}
	var found []sdk.Finding
	for _, r := range list {
		f := sdk.Finding{Task: r.Task, Object: r.Object, Subject: r.File.Subject()}
		d, text := describe(known, r.File)
		if text == "" && d.Namespace == 0 {
			text, err = checkOwnQueue(d)
			if err != nil {
				return nil, err
			}
		}
		if text != "" {
			f.Level, f.Text, f.Help = sdk.LevelBlock, text, "close it before the checkpoint"
		} else {
			f.Text = fmt.Sprintf("POSIX message queue /%s", d.Name)
		}
		found = append(found, f)
	}
	return found, nil
}

// checkOwnQueue looks at a queue of the plugin's own namespace, which stays as
// it is but for a notification: that ends with the process.
func checkOwnQueue(d *ipcpb.Descriptor) (string, error) {
	fd, err := openQueue(d.Name, unix.O_RDONLY, nil)
	if err != nil {
		return fmt.Sprintf("POSIX message queue /%s: %v", d.Name, err), nil
	}
	defer unix.Close(fd)
	q, err := readQueue(fd, string(d.Name))
	if err != nil {
		return "", err
	}
	if q.messages = 0; q.blocked() != "" { // they stay
		return fmt.Sprintf("POSIX message queue /%s %s", d.Name, q.blocked()), nil
	}
	return "", nil
}

func dumpDescriptors(ctx context.Context, req *sdk.DumpRequest) error {
	list := files(req.Session)
	if len(list) == 0 {
		return nil
	}
	known, err := homes(req.Session)
	if err != nil {
		return err
	}
	for _, r := range list {
		d, text := describe(known, r.File)
		if text != "" {
			return fmt.Errorf("dump %s: %s: %w", r.File.Link, text, sdk.ErrUnsupported)
		}
		if err := req.Records.Emit(ctx, kindDescriptor, r.Object, d); err != nil {
			return err
		}
	}
	return nil
}

// loadDescriptor reads the record of a descriptor.
func loadDescriptor(records sdk.Records, object uint64) (*ipcpb.Descriptor, error) {
	for r, err := range records.Object(object) {
		if err != nil {
			return nil, err
		}
		if r.Kind != kindDescriptor {
			continue
		}
		d := &ipcpb.Descriptor{}
		if err := r.Decode(d); err != nil {
			return nil, err
		}
		if d.Flags&^kept != 0 {
			return nil, fmt.Errorf("flags %#x: %w", d.Flags, sdk.ErrCorrupt)
		}
		return d, validName(d.Name)
	}
	return nil, fmt.Errorf("no record of object %d: %w", object, sdk.ErrCorrupt)
}

// RestoreObjects implements [sdk.ObjectRestorer]: the namespaces are there by
// now, with their queues.
func (*plugin) RestoreObjects(_ context.Context, req *sdk.RestoreRequest) error {
	for _, r := range files(req.Session) {
		d, err := loadDescriptor(req.Records, r.Object)
		if err == nil {
			err = restoreDescriptor(req, r.Object, d)
		}
		if err != nil {
			return fmt.Errorf("restore %s: %w", r.File.Link, err)
		}
	}
	return nil
}

func restoreDescriptor(req *sdk.RestoreRequest, object uint64, d *ipcpb.Descriptor) error {
	fd := -1
	open := func() (err error) {
		fd, err = openQueue(d.Name, int(d.Flags), nil)
		return err
	}
	if d.Namespace == 0 {
		if err := open(); err != nil {
			return err
		}
		return req.Provide(object, fd)
	}
	members := membersOf(req.Session, d.Namespace)
	if len(members) == 0 {
		return fmt.Errorf("no task in namespace %d: %w", d.Namespace, sdk.ErrCorrupt)
	}
	if err := within(members[0].PID, open); err != nil {
		return err
	}
	return req.Provide(object, fd)
}

// checkImageDescriptors reports queues of the plugin's own namespace that are
// not there any more.
func checkImageDescriptors(req *sdk.RestoreRequest) ([]sdk.Finding, error) {
	var found []sdk.Finding
	for _, r := range files(req.Session) {
		d, err := loadDescriptor(req.Records, r.Object)
		if err != nil {
			return nil, err
		}
		if d.Namespace != 0 {
			continue
		}
		fd, err := openQueue(d.Name, int(d.Flags), nil)
		if err == nil {
			unix.Close(fd)
			continue
		}
		f := sdk.Finding{Level: sdk.LevelBlock, Task: r.Task, Object: r.Object, Subject: r.File.Subject(),
			Text: fmt.Sprintf("POSIX message queue /%s: %v", d.Name, err)}
		if errors.Is(err, unix.ENOENT) {
			f.Help = "create the queue as it was"
		}
		found = append(found, f)
	}
	return found, nil
}

// membersOf are the processes in the namespace that is an object.
func membersOf(s *sdk.Session, object uint64) []*sdk.Process {
	for i := range s.Resources {
		if r := &s.Resources[i]; r.Object == object {
			return namespace.Members(s, r)
		}
	}
	return nil
}
