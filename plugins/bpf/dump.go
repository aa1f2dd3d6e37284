package bpf

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/bpf/bpfpb"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/openfile"
)

// carried are the types of maps whose entries bpf(2) reads and writes as they are.
var carried = map[ebpf.MapType]bool{ebpf.Hash: true, ebpf.Array: true, ebpf.LRUHash: true, ebpf.LPMTrie: true}

// flagNUMANode is BPF_F_NUMA_NODE: the kernel does not tell which.
const flagNUMANode = 1 << 2

// Check implements [sdk.Checker].
func (*plugin) Check(_ context.Context, req *sdk.CheckRequest) ([]sdk.Finding, error) {
	var report openfile.Report
	users, err := programs()
	if err != nil {
		users = nil // whoever may not list them may not read maps either
	}
	err = each(req.Session, func(r *sdk.Resource, m *ebpf.Map, info *ebpf.MapInfo) error {
		id, _ := info.ID()
		switch text := refusal(r, info); {
		case text != "":
			report.Block(r, name(info)+": "+text, "")
		case users[id] != "":
			report.Block(r, fmt.Sprintf("%s: the program %s uses it", name(info), users[id]), "")
		default:
			if btf, ok := info.BTFID(); ok && btf != 0 {
				report.Note(r, name(info)+": the types of its keys and values (BTF) are not carried")
			}
			report.Add(r, sdk.LevelOK, "ok, "+name(info), "")
		}
		return nil
	})
	if errors.Is(err, unix.EPERM) {
		for i := range req.Resources {
			report.Block(&req.Resources[i], "BPF map: may not be read", "run firn with CAP_SYS_ADMIN")
		}
		return report.Findings(), nil
	}
	if err != nil && !req.Frozen && openfile.Gone(err) {
		return nil, nil
	}
	return report.Findings(), err
}

func name(info *ebpf.MapInfo) string {
	return fmt.Sprintf("BPF map %q (%s, %d entries at most)", info.Name, info.Type, info.MaxEntries)
}

// refusal tells why a map cannot be carried; empty if it can.
func refusal(r *sdk.Resource, info *ebpf.MapInfo) string {
	switch {
	case !carried[info.Type]:
		return "its type is not carried"
	case info.Flags&flagNUMANode != 0:
		return "is bound to a NUMA node, of which the kernel does not tell the number"
	case r.File.Flags&unix.O_ACCMODE != unix.O_RDWR:
		return "is open for reading or writing only"
	}
	return ""
}

// each calls f with every map.
func each(s *sdk.Session, f func(*sdk.Resource, *ebpf.Map, *ebpf.MapInfo) error) error {
	access := openfile.NewAccess(s.Tree)
	defer access.Close()
	for i := range s.Resources {
		r := &s.Resources[i]
		fd, err := access.Dup(r)
		if err != nil {
			return err
		}
		m, err := ebpf.NewMapFromFD(fd) // which owns the descriptor
		if err != nil {
			return fmt.Errorf("%s: %w", openfile.Subject(r), err)
		}
		info, err := m.Info()
		if err == nil {
			err = f(r, m, info)
		}
		if err = errors.Join(err, m.Close()); err != nil {
			return fmt.Errorf("%s: %w", openfile.Subject(r), err)
		}
	}
	return nil
}

// programs names, for each map that loaded programs use, one of these.
func programs() (map[ebpf.MapID]string, error) {
	users := map[ebpf.MapID]string{}
	for id := ebpf.ProgramID(0); ; {
		next, err := ebpf.ProgramGetNextID(id)
		if errors.Is(err, os.ErrNotExist) {
			return users, nil
		}
		if err != nil {
			return nil, fmt.Errorf("list programs: %w", err)
		}
		id = next
		p, err := ebpf.NewProgramFromID(id)
		if errors.Is(err, os.ErrNotExist) {
			continue // unloaded since
		}
		if err != nil {
			return nil, fmt.Errorf("program %d: %w", id, err)
		}
		info, err := p.Info()
		if err == nil {
			maps, _ := info.MapIDs()
			for _, m := range maps {
				users[m] = fmt.Sprintf("%d %q", id, info.Name)
			}
		}
		if err = errors.Join(err, p.Close()); err != nil {
			return nil, fmt.Errorf("program %d: %w", id, err)
		}
	}
}

// maxEntries is how many bytes of keys and values go into a record.
const maxEntries = 64 << 10

// Dump implements [sdk.Dumper]. Two open files may be of one map: the second one is
// only a handle.
func (*plugin) Dump(ctx context.Context, req *sdk.DumpRequest) error {
	seen := map[ebpf.MapID]uint64{}
	return each(req.Session, func(r *sdk.Resource, m *ebpf.Map, info *ebpf.MapInfo) error {
		if text := refusal(r, info); text != "" {
			return fmt.Errorf("%s: %s: %w", name(info), text, sdk.ErrUnsupported)
		}
		id, ok := info.ID()
		if !ok {
			return fmt.Errorf("the kernel gives no number of a map: %w", sdk.ErrKernel)
		}
		if first, ok := seen[id]; ok {
			return req.Records.Emit(ctx, kindHandle, r.Object, &bpfpb.Handle{Map: first})
		}
		seen[id] = r.Object
		extra, _ := info.MapExtra()
		msg := &bpfpb.Map{
			Type: uint32(info.Type), KeySize: info.KeySize, ValueSize: info.ValueSize, MaxEntries: info.MaxEntries,
			Flags: info.Flags, Name: info.Name, Extra: extra, Frozen: info.Frozen(),
		}
		if err := req.Records.Emit(ctx, kindMap, r.Object, msg); err != nil {
			return err
		}
		return emitEntries(ctx, req.Records, r.Object, m)
	})
}

// emitEntries writes what is in a map. Elements of arrays that are zero are what
// they are in a new one.
func emitEntries(ctx context.Context, records sdk.Emitter, object uint64, m *ebpf.Map) error {
	some := &bpfpb.Entries{}
	flush := func() error {
		if len(some.Keys) == 0 {
			return nil
		}
		err := records.Emit(ctx, kindEntries, object, some)
		some = &bpfpb.Entries{}
		return err
	}
	var key, value []byte
	for it := m.Iterate(); ; {
		if !it.Next(&key, &value) {
			if err := it.Err(); err != nil {
				return fmt.Errorf("read entries: %w", err)
			}
			return flush()
		}
		if m.Type() == ebpf.Array && isZero(value) {
			continue
		}
		some.Keys, some.Values = append(some.Keys, key...), append(some.Values, value...)
		if len(some.Keys)+len(some.Values) > maxEntries {
			if err := flush(); err != nil {
				return err
			}
		}
	}
}

func isZero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}
