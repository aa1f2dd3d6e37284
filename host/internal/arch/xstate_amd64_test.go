package arch

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"

	"github.com/firn-cr/firn/sdk"
)

// someXState is the extended state of a program that has not used any.
func someXState(t testing.TB) []byte {
	t.Helper()
	l := cpuLayout()
	b := make([]byte, l.size(l.xcr0))
	binary.LittleEndian.PutUint32(b[offMXCSR:], 0x1f80)
	binary.LittleEndian.PutUint32(b[offMXCSRMask:], 0xffff)
	binary.LittleEndian.PutUint64(b[offXstateBV:], 3)
	return b
}

func TestCheckXState(t *testing.T) {
	le := binary.LittleEndian
	unknown := uint64(1) << 62
	for name, c := range map[string]struct {
		change func(b []byte) []byte
		want   error
	}{
		"good":      {func(b []byte) []byte { return b }, nil},
		"all used":  {func(b []byte) []byte { le.PutUint64(b[offXstateBV:], cpuLayout().xcr0); return b }, nil},
		"cut":       {func(b []byte) []byte { le.PutUint64(b[offXstateBV:], cpuLayout().xcr0); return b[:len(b)-1] }, sdk.ErrCorrupt},
		"short":     {func(b []byte) []byte { return b[:xstateHeader-1] }, sdk.ErrCorrupt},
		"empty":     {func([]byte) []byte { return nil }, sdk.ErrCorrupt},
		"huge":      {func(b []byte) []byte { return append(b, make([]byte, maxXstate)...) }, sdk.ErrCorrupt},
		"other CPU": {func(b []byte) []byte { le.PutUint64(b[offXstateBV:], unknown); return b }, sdk.ErrUnsupported},
		"compacted": {func(b []byte) []byte { le.PutUint64(b[offXcompBV:], 1<<63); return b }, sdk.ErrCorrupt},
		"reserved":  {func(b []byte) []byte { b[xstateHeader-1] = 1; return b }, sdk.ErrCorrupt},
		"mxcsr":     {func(b []byte) []byte { le.PutUint32(b[offMXCSR:], 1<<31); return b }, sdk.ErrCorrupt},
	} {
		b := c.change(someXState(t))
		if err := CheckXState(b); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

func FuzzCheckXState(f *testing.F) {
	f.Add(someXState(f))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		if CheckXState(b) != nil {
			return
		}
		dst := make([]byte, frameSize(len(b)))
		if _, err := putFrame(dst, 0x1008, 0, Regs{}, b, 0); err != nil {
			t.Fatal(err)
		}
	})
}

// TestXStateLayout proves that what ptrace returns is the standard format of
// the size that the CPU tells, with the kernel's components in the software
// bytes.
func TestXStateLayout(t *testing.T) {
	s := startSubject(t, "hold")
	s.seize()
	st := s.state()
	l := cpuLayout()
	le := binary.LittleEndian
	kernel := le.Uint64(st.xstate[offSoftware:])
	if kernel&^l.xcr0 != 0 || kernel&xfeatureLegacy != xfeatureLegacy {
		t.Errorf("components of the kernel %#x, of the CPU %#x", kernel, l.xcr0)
	}
	if want := l.size(kernel); len(st.xstate) != want {
		t.Errorf("%d bytes, want %d", len(st.xstate), want)
	}
	if err := CheckTask(s.tid); err != nil {
		t.Error(err)
	}
	// Cut to what is in use, as from a CPU with fewer components.
	check(t, SetXState(s.tid, st.xstate[:xstateUsed(st.xstate)]))
	check(t, SetXState(s.tid, append(bytes.Clone(st.xstate), make([]byte, 4096)...)))
	if after := s.state(); !bytes.Equal(after.xstate, st.xstate) {
		t.Error("the extended state changed")
	}
	bad := bytes.Clone(st.xstate)
	le.PutUint64(bad[offXstateBV:], 1<<62)
	if err := SetXState(s.tid, bad); !errors.Is(err, sdk.ErrUnsupported) {
		t.Errorf("foreign components: %v", err)
	}
	s.detach()
	s.finish()
}
