package image

import (
	"github.com/firn-cr/firn/host/image/imagepb"
	"github.com/firn-cr/firn/sdk"
)

// TreeToProto converts a tree. What [sdk.Process] does not have is for the
// caller to fill in; the state is running or zombie.
func TreeToProto(t *sdk.Tree) *imagepb.HostTree {
	m := &imagepb.HostTree{Root: uint32(t.Root)}
	for n := range t.Processes {
		p := &t.Processes[n]
		h := &imagepb.HostProcess{
			Id: uint32(p.ID), Parent: uint32(p.Parent), Pgid: uint32(p.PGID), Sid: uint32(p.SID), Comm: []byte(p.Comm),
			State: imagepb.State_STATE_RUNNING, ReservedStart: p.Reserved.Start, ReservedEnd: p.Reserved.End,
			UserNamespace: uint32(p.UserNamespace),
		}
		if p.Zombie {
			h.State = imagepb.State_STATE_ZOMBIE
		}
		for _, th := range p.Threads {
			h.Threads = append(h.Threads, uint32(th.ID))
		}
		m.Processes = append(m.Processes, h)
	}
	for _, u := range t.UserNamespaces {
		m.UserNamespaces = append(m.UserNamespaces, &imagepb.HostUserNamespace{
			Parent: uint32(u.Parent), Owner: u.Owner, Uids: idsToProto(u.UIDs), Gids: idsToProto(u.GIDs),
			SetgroupsDenied: u.SetgroupsDenied,
		})
	}
	return m
}

func idsToProto(ids sdk.IDMap) (out []*imagepb.HostIDRange) {
	for _, r := range ids {
		out = append(out, &imagepb.HostIDRange{Inside: r.Inside, Outside: r.Outside, Count: r.Count})
	}
	return out
}

func idsFromProto(ranges []*imagepb.HostIDRange) (out sdk.IDMap) {
	for _, r := range ranges {
		out = append(out, sdk.IDRange{Inside: r.Inside, Outside: r.Outside, Count: r.Count})
	}
	return out
}

// TreeFromProto converts a tree back. PIDs and TIDs are those of the
// checkpoint.
func TreeFromProto(m *imagepb.HostTree) *sdk.Tree {
	t := &sdk.Tree{Root: sdk.TaskID(m.GetRoot())}
	for _, h := range m.GetProcesses() {
		p := sdk.Process{
			ID: sdk.TaskID(h.Id), PID: int(h.Id), Parent: sdk.TaskID(h.Parent),
			PGID: sdk.TaskID(h.Pgid), SID: sdk.TaskID(h.Sid), Comm: string(h.Comm),
			Zombie:   h.State == imagepb.State_STATE_ZOMBIE,
			Reserved: sdk.AddrRange{Start: h.ReservedStart, End: h.ReservedEnd}, UserNamespace: int(h.UserNamespace),
		}
		for _, id := range h.Threads {
			p.Threads = append(p.Threads, sdk.Thread{ID: sdk.TaskID(id), TID: int(id)})
		}
		t.Processes = append(t.Processes, p)
	}
	for _, u := range m.GetUserNamespaces() {
		t.UserNamespaces = append(t.UserNamespaces, sdk.UserNamespace{
			Parent: int(u.Parent), Owner: u.Owner, UIDs: idsFromProto(u.Uids), GIDs: idsFromProto(u.Gids),
			SetgroupsDenied: u.SetgroupsDenied,
		})
	}
	return t
}

func fileToProto(o Object) *imagepb.HostFile {
	f := o.Resource.File
	m := &imagepb.HostFile{
		Object: o.Resource.Object, Plugin: o.Plugin, Task: uint32(o.Resource.Task),
		Link: []byte(f.Link), Type: string(f.Type), Mode: f.Mode, Dev: f.Dev, Ino: f.Ino, Rdev: f.Rdev,
		Size: f.Size, Flags: f.Flags, Offset: f.Offset, MountId: int32(f.MountID),
	}
	if s := f.Socket; s != nil {
		m.Socket = &imagepb.HostSocket{Family: int32(s.Family), Type: int32(s.Type), Protocol: int32(s.Protocol)}
	}
	for _, r := range f.Refs {
		m.Refs = append(m.Refs, &imagepb.HostFDRef{Task: uint32(r.Task), Fd: int32(r.FD), Cloexec: r.Cloexec})
	}
	for _, h := range f.Holders {
		m.Holders = append(m.Holders, &imagepb.HostHolder{Plugin: h.Plugin, Object: h.Object, Subject: h.Subject})
	}
	return m
}

func fileFromProto(m *imagepb.HostFile) Object {
	f := &sdk.File{
		Link: string(m.Link), Type: sdk.FileType(m.Type), Mode: m.Mode, Dev: m.Dev, Ino: m.Ino, Rdev: m.Rdev,
		Size: m.Size, Flags: m.Flags, Offset: m.Offset, MountID: int(m.MountId),
	}
	if s := m.Socket; s != nil {
		f.Socket = &sdk.Socket{Family: int(s.Family), Type: int(s.Type), Protocol: int(s.Protocol)}
	}
	for _, r := range m.Refs {
		f.Refs = append(f.Refs, sdk.FDRef{Task: sdk.TaskID(r.Task), FD: int(r.Fd), Cloexec: r.Cloexec})
	}
	for _, h := range m.Holders {
		f.Holders = append(f.Holders, sdk.FileHolder{Plugin: h.Plugin, Object: h.Object, Subject: h.Subject})
	}
	return Object{Plugin: m.Plugin, Resource: sdk.Resource{
		Kind: sdk.KindFile, Object: m.Object, Task: sdk.TaskID(m.Task), File: f,
	}}
}

func namespaceToProto(o Object) *imagepb.HostNamespace {
	n := o.Resource.Namespace
	m := &imagepb.HostNamespace{
		Object: o.Resource.Object, Plugin: o.Plugin, Task: uint32(o.Resource.Task), Name: n.Name, Ino: n.Ino,
		Owner: uint32(n.Owner),
	}
	for _, t := range n.Tasks {
		m.Tasks = append(m.Tasks, uint32(t))
	}
	return m
}

func namespaceFromProto(m *imagepb.HostNamespace) Object {
	n := &sdk.Namespace{Name: m.Name, Ino: m.Ino, Owner: int(m.Owner)}
	for _, t := range m.Tasks {
		n.Tasks = append(n.Tasks, sdk.TaskID(t))
	}
	return Object{Plugin: m.Plugin, Resource: sdk.Resource{
		Kind: sdk.KindNamespace, Object: m.Object, Task: sdk.TaskID(m.Task), Namespace: n,
	}}
}
