package bpf

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/firn-cr/firn/plugins/bpf/bpfpb"
	"github.com/firn-cr/firn/plugins/internal/fdtest"
	"github.com/firn-cr/firn/plugins/internal/tracetest"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/sdktest"
	"github.com/firn-cr/firn/sdk/sdktest/gate"
)

// take turns a map into a descriptor that the test owns.
func take(t *testing.T, spec *ebpf.MapSpec, fill func(m *ebpf.Map) error) int {
	t.Helper()
	m, err := ebpf.NewMap(spec)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if err := fill(m); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.FcntlInt(uintptr(m.FD()), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	return fd
}

// open uses a descriptor and leaves it open.
func open(t *testing.T, fd int) *ebpf.Map {
	t.Helper()
	dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	m, err := ebpf.NewMapFromFD(dup)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

func value(n uint32) []byte { return bytes.Repeat(binary.LittleEndian.AppendUint32(nil, n), 3) }

// TestMaps: entries, the limit, the name, frozen maps, and two files of one map.
func TestMaps(t *testing.T) {
	gate.Cap(t, unix.CAP_SYS_ADMIN)
	const entries = 20000
	specs := []*ebpf.MapSpec{
		{Name: "table", Type: ebpf.Hash, KeySize: 4, ValueSize: 12, MaxEntries: entries + 1},
		{Name: "list", Type: ebpf.Array, KeySize: 4, ValueSize: 12, MaxEntries: entries},
		{Name: "least_used", Type: ebpf.LRUHash, KeySize: 4, ValueSize: 12, MaxEntries: 4 * entries},
	}
	var fds []int
	for i, spec := range specs {
		fds = append(fds, take(t, spec, func(m *ebpf.Map) error {
			for n := range uint32(entries) {
				if spec.Type == ebpf.Array && n%3 == 0 {
					continue
				}
				if err := m.Put(n, value(n*7+uint32(i))); err != nil {
					return err
				}
			}
			if spec.Name == "list" {
				return m.Freeze()
			}
			return nil
		}))
	}
	info, err := open(t, fds[0]).Info()
	if err != nil {
		t.Fatal(err)
	}
	id, _ := info.ID()
	second, err := ebpf.NewMapFromID(id)
	if err != nil {
		t.Fatal(err)
	}
	again, err := unix.FcntlInt(uintptr(second.FD()), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	second.Close()

	fdtest.Dump(t, New(), nil, append(fds, again)...).Restore()
	for i, spec := range specs {
		m := open(t, fds[i])
		info, err := m.Info()
		if err != nil || info.Name != spec.Name || info.Type != spec.Type || info.MaxEntries != spec.MaxEntries || info.Frozen() != (spec.Name == "list") {
			t.Errorf("%s: %+v, %v", spec.Name, info, err)
		}
		for n := range uint32(entries) {
			want := value(n*7 + uint32(i))
			if spec.Type == ebpf.Array && n%3 == 0 {
				want = value(0)
			}
			if got, err := m.LookupBytes(n); err != nil || !bytes.Equal(got, want) {
				t.Fatalf("%s: entry %d is %x, %v", spec.Name, n, got, err)
			}
		}
	}
	if err := open(t, fds[0]).Put(uint32(entries), value(1)); err != nil {
		t.Error(err)
	}
	if err := open(t, fds[0]).Put(uint32(entries+1), value(1)); err == nil {
		t.Error("the table has no limit")
	}
	if err := open(t, fds[1]).Put(uint32(1), value(1)); err == nil {
		t.Error("a frozen map was changed")
	}
	if got, err := open(t, again).LookupBytes(uint32(entries)); err != nil || !bytes.Equal(got, value(1)) {
		t.Errorf("the other file of the map: %x, %v", got, err)
	}
}

func TestRefused(t *testing.T) {
	gate.Cap(t, unix.CAP_SYS_ADMIN)
	none := func(*ebpf.Map) error { return nil }
	cpus := take(t, &ebpf.MapSpec{Name: "cpus", Type: ebpf.PerCPUArray, KeySize: 4, ValueSize: 8, MaxEntries: 1}, none)
	reader := take(t, &ebpf.MapSpec{Name: "reader", Type: ebpf.Hash, KeySize: 4, ValueSize: 8, MaxEntries: 1, Flags: unix.BPF_F_RDONLY}, none)
	used := take(t, &ebpf.MapSpec{Name: "used", Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1}, none)
	for fd, want := range map[int]string{
		cpus:   `BPF map "cpus" (PerCPUArray, 1 entries at most): its type is not carried`,
		reader: "is open for reading or writing only",
	} {
		b := sdktest.Blockers(fdtest.Check(t, New(), nil, fd).Findings)
		if len(b) != 1 || !strings.Contains(b[0], want) {
			t.Errorf("findings %q, want %q", b, want)
		}
	}
	p, err := ebpf.NewProgram(user(open(t, used)))
	if err != nil {
		t.Fatal(err)
	}
	if b := sdktest.Blockers(fdtest.Check(t, New(), nil, used).Findings); len(b) != 1 || !strings.Contains(b[0], "uses it") {
		t.Errorf("findings %q", b)
	}
	p.Close()
	for _, fd := range []int{cpus, reader, used} {
		unix.Close(fd)
	}
}

func TestCorrupt(t *testing.T) {
	good := &bpfpb.Map{Type: uint32(ebpf.Hash), KeySize: 4, ValueSize: 8, MaxEntries: 1}
	for name, m := range map[string]map[uint32]proto.Message{
		"nothing":     {},
		"type":        {kindMap: &bpfpb.Map{Type: 99, KeySize: 4, ValueSize: 4}},
		"no keys":     {kindMap: &bpfpb.Map{Type: uint32(ebpf.Hash), ValueSize: 4}},
		"entries":     {kindEntries: &bpfpb.Entries{}},
		"half a key":  {kindMap: good, kindEntries: &bpfpb.Entries{Keys: make([]byte, 6), Values: make([]byte, 8)}},
		"values":      {kindMap: good, kindEntries: &bpfpb.Entries{Keys: make([]byte, 8), Values: make([]byte, 8)}},
		"lost handle": {kindHandle: &bpfpb.Handle{Map: 77}},
		"own handle":  {kindHandle: &bpfpb.Handle{Map: 9}},
	} {
		records := &tracetest.Records{}
		for _, kind := range []uint32{kindMap, kindEntries, kindHandle} {
			if m[kind] != nil {
				if err := records.Emit(context.Background(), kind, 9, m[kind]); err != nil {
					t.Fatal(err)
				}
			}
		}
		req := &sdk.RestoreRequest{Records: records, Session: &sdk.Session{Resources: []sdk.Resource{{Kind: sdk.KindFile, Object: 9}}}}
		if _, err := (&plugin{}).CheckImage(context.Background(), req); !errors.Is(err, sdk.ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// user is a program that does nothing but refer to a map.
func user(m *ebpf.Map) *ebpf.ProgramSpec {
	return &ebpf.ProgramSpec{Name: "user", Type: ebpf.SocketFilter, License: "GPL", Instructions: asm.Instructions{
		asm.LoadMapPtr(asm.R1, m.FD()),
		asm.Mov.Imm(asm.R0, 0),
		asm.Return(),
	}}
}
