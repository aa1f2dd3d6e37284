package wire

import (
	"fmt"

	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/internal/remote"
	"github.com/firn-cr/firn/sdk/internal/tapecall"
	pb "github.com/firn-cr/firn/sdk/proto/pluginpb"
	"github.com/firn-cr/firn/sdk/tape"
)

// The host's half of the conversions: it encodes what a host sends and decodes
// what it gets. The plugin's half is in package sdk.

func treeToWire(t *sdk.Tree) *pb.Tree {
	if t == nil {
		return nil
	}
	m := &pb.Tree{Root: uint32(t.Root), Processes: make([]*pb.Process, 0, len(t.Processes))}
	for i := range t.Processes {
		p := &t.Processes[i]
		out := &pb.Process{
			Id: uint32(p.ID), Pid: int32(p.PID), Parent: uint32(p.Parent), Pgid: uint32(p.PGID), Sid: uint32(p.SID),
			Comm: []byte(p.Comm), Zombie: p.Zombie, ReservedStart: p.Reserved.Start, ReservedEnd: p.Reserved.End,
			UserNamespace: uint32(p.UserNamespace),
		}
		for _, th := range p.Threads {
			out.Threads = append(out.Threads, &pb.Thread{Id: uint32(th.ID), Tid: int32(th.TID)})
		}
		m.Processes = append(m.Processes, out)
	}
	for _, u := range t.UserNamespaces {
		m.UserNamespaces = append(m.UserNamespaces, &pb.UserNamespace{
			Parent: uint32(u.Parent), Owner: u.Owner, Uids: idMapToWire(u.UIDs), Gids: idMapToWire(u.GIDs),
			SetgroupsDenied: u.SetgroupsDenied, Keeper: int32(u.Keeper),
		})
	}
	return m
}

func idMapToWire(ids sdk.IDMap) (out []*pb.IDRange) {
	for _, r := range ids {
		out = append(out, &pb.IDRange{Inside: r.Inside, Outside: r.Outside, Count: r.Count})
	}
	return out
}

func resourcesToWire(rs []sdk.Resource) []*pb.Resource {
	out := make([]*pb.Resource, 0, len(rs))
	for i := range rs {
		r := &rs[i]
		m := &pb.Resource{Kind: uint32(r.Kind), Object: r.Object, Task: uint32(r.Task), File: fileToWire(r.File)}
		if v := r.VMA; v != nil {
			m.Vma = &pb.VMA{
				Start: v.Start, End: v.End, Perm: v.Perm, Offset: v.Offset,
				Dev: v.Dev, Ino: v.Ino, Rdev: v.Rdev, Path: []byte(v.Path),
			}
		}
		if n := r.Namespace; n != nil {
			m.Namespace = &pb.Namespace{Name: n.Name, Ino: n.Ino, Owner: uint32(n.Owner)}
			for _, t := range n.Tasks {
				m.Namespace.Tasks = append(m.Namespace.Tasks, uint32(t))
			}
		}
		out = append(out, m)
	}
	return out
}

func fileToWire(f *sdk.File) *pb.File {
	if f == nil {
		return nil
	}
	m := &pb.File{
		Link: []byte(f.Link), Type: string(f.Type), Mode: f.Mode, Dev: f.Dev, Ino: f.Ino, Rdev: f.Rdev,
		Size: f.Size, Flags: f.Flags, Offset: f.Offset, MountId: int32(f.MountID), Fs: f.FS,
	}
	if s := f.Socket; s != nil {
		m.Socket = &pb.Socket{Family: int32(s.Family), Type: int32(s.Type), Protocol: int32(s.Protocol)}
	}
	for _, r := range f.Refs {
		m.Refs = append(m.Refs, &pb.FDRef{Task: uint32(r.Task), Fd: int32(r.FD), Cloexec: r.Cloexec})
	}
	for _, h := range f.Holders {
		m.Holders = append(m.Holders, &pb.FileHolder{
			Plugin: h.Plugin, Object: h.Object, Subject: h.Subject, Pid: int32(h.PID), Fd: int32(h.FD),
		})
	}
	return m
}

func findingsFromWire(ms []*pb.Finding) ([]sdk.Finding, error) {
	var out []sdk.Finding
	for _, m := range ms {
		if m.GetLevel() > uint32(sdk.LevelBlock) {
			return nil, fmt.Errorf("finding about %q with level %d: %w", m.GetSubject(), m.GetLevel(), sdk.ErrCorrupt)
		}
		out = append(out, sdk.Finding{
			Level: sdk.Level(m.GetLevel()), Task: sdk.TaskID(m.GetTask()), Object: m.GetObject(),
			Subject: m.GetSubject(), Text: m.GetText(), Help: m.GetHelp(),
		})
	}
	return out, nil
}

func providedFromWire(ms []*pb.Provided) ([]Provided, error) {
	var out []Provided
	seen := make(map[uint64]bool, len(ms))
	for _, m := range ms {
		if m.GetFd() < 0 || seen[m.GetObject()] {
			return nil, fmt.Errorf("object %d is provided twice or as descriptor %d: %w", m.GetObject(), m.GetFd(), sdk.ErrCorrupt)
		}
		seen[m.GetObject()] = true
		out = append(out, Provided{Object: m.GetObject(), FD: int(m.GetFd())})
	}
	return out, nil
}

func heldToWire(hs []sdk.HeldFile) (out []*pb.HeldFile) {
	for _, h := range hs {
		out = append(out, &pb.HeldFile{
			Holder: h.Holder, Fd: int32(h.FD), Subject: h.Subject, Object: h.Object, Pid: int32(h.PID),
		})
	}
	return out
}

func heldFromWire(ms []*pb.HeldFile) ([]sdk.HeldFile, error) {
	var out []sdk.HeldFile
	for _, m := range ms {
		if m.GetFd() < 0 {
			return nil, fmt.Errorf("held file with descriptor %d: %w", m.GetFd(), sdk.ErrCorrupt)
		}
		out = append(out, sdk.HeldFile{Holder: m.GetHolder(), FD: int(m.GetFd()), Subject: m.GetSubject()})
	}
	return out, nil
}

func tapesFromWire(m *pb.RunTapes) ([]tape.Run, error) {
	out := make([]tape.Run, 0, len(m.GetRuns()))
	for i, r := range m.GetRuns() {
		if r.GetTid() <= 0 || i == 0 && r.GetSame() {
			return nil, fmt.Errorf("tape for task %d: %w", r.GetTid(), sdk.ErrCorrupt)
		}
		if r.GetSame() {
			out = append(out, tape.Run{TID: int(r.GetTid()), Tape: out[i-1].Tape})
			continue
		}
		calls, err := tapecall.Unpack(r.GetCalls(), len(r.GetData()))
		if err != nil {
			return nil, fmt.Errorf("tape for task %d: %w", r.GetTid(), err)
		}
		out = append(out, tape.Run{TID: int(r.GetTid()), Tape: &tape.Tape{Calls: calls, Data: r.GetData()}})
	}
	return out, nil
}

func outcomesToWire(os []tape.Outcome) *pb.TapeOutcomes {
	m := &pb.TapeOutcomes{Outcomes: make([]*pb.TapeOutcome, 0, len(os))}
	for i := range os {
		o := &os[i]
		m.Outcomes = append(m.Outcomes, &pb.TapeOutcome{Results: o.Results, Data: o.Data, Error: remote.Encode(o.Err)})
	}
	return m
}

func tracesToWire(ts []sdk.TraceInfo) *pb.TraceInfos {
	m := &pb.TraceInfos{Infos: make([]*pb.TraceInfo, 0, len(ts))}
	programs := map[string]uint32{}
	for i := range ts {
		t := &ts[i]
		info := &pb.TraceInfo{
			Tid: int32(t.TID), SigMask: t.SigMask, Pending: t.Pending, SharedPending: t.SharedPending,
			StackPointer: t.StackPointer, InstructionPointer: t.InstructionPointer,
		}
		if r := t.Rseq; r != nil {
			info.Rseq = &pb.Rseq{Addr: r.Addr, Size: r.Size, Signature: r.Signature, Flags: r.Flags}
		}
		for _, f := range t.SeccompFilters {
			n, known := programs[string(f.Program)]
			if !known {
				n = uint32(len(m.Programs))
				programs[string(f.Program)], m.Programs = n, append(m.Programs, f.Program)
			}
			info.SeccompFilters = append(info.SeccompFilters, &pb.SeccompFilter{Program: n, Flags: f.Flags})
		}
		m.Infos = append(m.Infos, info)
	}
	return m
}
