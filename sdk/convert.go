package sdk

import (
	"fmt"
	"strings"

	"github.com/firn-cr/firn/sdk/internal/protocol"
	"github.com/firn-cr/firn/sdk/internal/remote"
	"github.com/firn-cr/firn/sdk/internal/tapecall"
	pb "github.com/firn-cr/firn/sdk/proto/pluginpb"
	"github.com/firn-cr/firn/sdk/tape"
)

// The plugin's half of the conversions between the types of this package and
// those of the wire: it encodes what a plugin sends and decodes what it gets.
// The host's half is in package wire.

func treeFromWire(m *pb.Tree) *Tree {
	t := &Tree{Root: TaskID(m.GetRoot()), Processes: make([]Process, 0, len(m.GetProcesses()))}
	for _, p := range m.GetProcesses() {
		out := Process{
			ID: TaskID(p.GetId()), PID: int(p.GetPid()), Parent: TaskID(p.GetParent()),
			PGID: TaskID(p.GetPgid()), SID: TaskID(p.GetSid()), Comm: string(p.GetComm()), Zombie: p.GetZombie(),
			Reserved: AddrRange{Start: p.GetReservedStart(), End: p.GetReservedEnd()}, UserNamespace: int(p.GetUserNamespace()),
		}
		for _, th := range p.GetThreads() {
			out.Threads = append(out.Threads, Thread{ID: TaskID(th.GetId()), TID: int(th.GetTid())})
		}
		t.Processes = append(t.Processes, out)
	}
	for _, u := range m.GetUserNamespaces() {
		t.UserNamespaces = append(t.UserNamespaces, UserNamespace{
			Parent: int(u.GetParent()), Owner: u.GetOwner(), UIDs: idMapFromWire(u.GetUids()), GIDs: idMapFromWire(u.GetGids()),
			SetgroupsDenied: u.GetSetgroupsDenied(), Keeper: int(u.GetKeeper()),
		})
	}
	return t
}

func idMapFromWire(ms []*pb.IDRange) (out IDMap) {
	for _, m := range ms {
		out = append(out, IDRange{Inside: m.GetInside(), Outside: m.GetOutside(), Count: m.GetCount()})
	}
	return out
}

func resourcesFromWire(ms []*pb.Resource) []Resource {
	out := make([]Resource, 0, len(ms))
	for _, m := range ms {
		out = append(out, Resource{
			Kind: Kind(m.GetKind()), Object: m.GetObject(), Task: TaskID(m.GetTask()),
			File: fileFromWire(m.GetFile()), VMA: vmaFromWire(m.GetVma()), Namespace: namespaceFromWire(m.GetNamespace()),
		})
	}
	return out
}

func fileFromWire(m *pb.File) *File {
	if m == nil {
		return nil
	}
	f := &File{
		Link: string(m.GetLink()), Type: FileType(m.GetType()), Mode: m.GetMode(), Dev: m.GetDev(), Ino: m.GetIno(),
		Rdev: m.GetRdev(), Size: m.GetSize(), Flags: m.GetFlags(), Offset: m.GetOffset(),
		MountID: int(m.GetMountId()), FS: m.GetFs(),
	}
	if s := m.GetSocket(); s != nil {
		f.Socket = &Socket{Family: int(s.GetFamily()), Type: int(s.GetType()), Protocol: int(s.GetProtocol())}
	}
	for _, r := range m.GetRefs() {
		f.Refs = append(f.Refs, FDRef{Task: TaskID(r.GetTask()), FD: int(r.GetFd()), Cloexec: r.GetCloexec()})
	}
	for _, h := range m.GetHolders() {
		f.Holders = append(f.Holders, FileHolder{
			Plugin: h.GetPlugin(), Object: h.GetObject(), Subject: h.GetSubject(), PID: int(h.GetPid()), FD: int(h.GetFd()),
		})
	}
	return f
}

func vmaFromWire(m *pb.VMA) *VMA {
	if m == nil {
		return nil
	}
	return &VMA{
		AddrRange: AddrRange{Start: m.GetStart(), End: m.GetEnd()}, Perm: m.GetPerm(), Offset: m.GetOffset(),
		Dev: m.GetDev(), Ino: m.GetIno(), Rdev: m.GetRdev(), Path: string(m.GetPath()),
	}
}

func namespaceFromWire(m *pb.Namespace) *Namespace {
	if m == nil {
		return nil
	}
	n := &Namespace{Name: m.GetName(), Ino: m.GetIno(), Owner: int(m.GetOwner())}
	for _, t := range m.GetTasks() {
		n.Tasks = append(n.Tasks, TaskID(t))
	}
	return n
}

func findingsToWire(fs []Finding) []*pb.Finding {
	out := make([]*pb.Finding, 0, len(fs))
	for _, f := range fs {
		out = append(out, &pb.Finding{
			Level: uint32(f.Level), Task: uint32(f.Task), Object: f.Object,
			Subject: strings.ToValidUTF8(f.Subject, "?"), Text: strings.ToValidUTF8(f.Text, "?"), Help: strings.ToValidUTF8(f.Help, "?"),
		})
	}
	return out
}

func heldToWire(hs []HeldFile) (out []*pb.HeldFile) {
	for _, h := range hs {
		out = append(out, &pb.HeldFile{Holder: h.Holder, Fd: int32(h.FD), Subject: strings.ToValidUTF8(h.Subject, "?")})
	}
	return out
}

func heldFromWire(ms []*pb.HeldFile) (out []HeldFile) {
	for _, m := range ms {
		out = append(out, HeldFile{
			Holder: m.GetHolder(), FD: int(m.GetFd()), Subject: m.GetSubject(), Object: m.GetObject(), PID: int(m.GetPid()),
		})
	}
	return out
}

func claimsToWire(cs []Claim) []*pb.Claim {
	out := make([]*pb.Claim, 0, len(cs))
	for _, c := range cs {
		m := &pb.Claim{
			Kind: uint32(c.Kind), Type: string(c.Type), Anon: c.Anon,
			Path: c.Path, Fs: c.FS, Namespace: c.Namespace,
		}
		if d := c.Device; d != nil {
			m.Device = &pb.Device{Major: int32(d.Major), Minor: int32(d.Minor)}
		}
		if s := c.Socket; s != nil {
			m.Socket = &pb.Socket{Family: int32(s.Family), Type: int32(s.Type), Protocol: int32(s.Protocol)}
		}
		out = append(out, m)
	}
	return out
}

func descriptionToWire(d *Description) (*pb.DescribeResponse, error) {
	m := &pb.DescribeResponse{
		Name: d.Name, Version: d.Version, Summary: d.Summary, ApiVersion: protocol.APIVersion,
		Claims: claimsToWire(d.Claims), Attends: claimsToWire(d.Attends),
		After: d.After, Capabilities: d.Capabilities,
	}
	for _, r := range d.Records {
		t := &pb.RecordType{Kind: r.Kind, Version: uint32(r.Version), Name: r.Name, Optional: r.Optional}
		if r.Message != nil {
			t.Message = string(r.Message.ProtoReflect().Descriptor().FullName())
		}
		m.Records = append(m.Records, t)
	}
	var err error
	m.Descriptors, err = descriptorSet(d.Records)
	return m, err
}

func tapeToWire(r *tape.Run) *pb.TapeRun {
	m := &pb.TapeRun{Tid: int32(r.TID)}
	if r.Tape != nil {
		m.Calls, m.Data = tapecall.Pack(r.Tape.Calls), r.Tape.Data
	}
	return m
}

func outcomeFromWire(m *pb.TapeOutcome) tape.Outcome {
	return tape.Outcome{Results: m.GetResults(), Data: m.GetData(), Err: remote.Decode(m.GetError())}
}

func traceFromWire(m *pb.TraceInfo, programs [][]byte) (TraceInfo, error) {
	t := TraceInfo{
		TID: int(m.GetTid()), SigMask: m.GetSigMask(), Pending: m.GetPending(), SharedPending: m.GetSharedPending(),
		StackPointer: m.GetStackPointer(), InstructionPointer: m.GetInstructionPointer(),
	}
	if r := m.GetRseq(); r != nil {
		t.Rseq = &Rseq{Addr: r.GetAddr(), Size: r.GetSize(), Signature: r.GetSignature(), Flags: r.GetFlags()}
	}
	for _, f := range m.GetSeccompFilters() {
		if int64(f.GetProgram()) >= int64(len(programs)) {
			return t, fmt.Errorf("trace of thread %d: program %d of %d: %w", t.TID, f.GetProgram(), len(programs), ErrCorrupt)
		}
		t.SeccompFilters = append(t.SeccompFilters, SeccompFilter{Program: programs[f.GetProgram()], Flags: f.GetFlags()})
	}
	return t, nil
}
