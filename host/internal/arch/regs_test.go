package arch

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"
	"time"

	"github.com/firn-cr/firn/sdk"
)

func FuzzRegs(f *testing.F) {
	seq := make([]byte, regsSize)
	for i := range seq {
		seq[i] = byte(i)
	}
	f.Add(seq)
	f.Add(seq[1:])
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := RegsFromBytes(b)
		if len(b) != regsSize {
			if !errors.Is(err, sdk.ErrCorrupt) {
				t.Fatalf("%d bytes: error %v", len(b), err)
			}
			return
		}
		if err != nil || !bytes.Equal(r.Bytes(), b) {
			t.Fatalf("encoded %x, decoded from %x, error %v", r.Bytes(), b, err)
		}
		r.SetPC(1)
		r.SetSP(2)
		if r.PC() != 1 || r.SP() != 2 {
			t.Fatal("program counter or stack pointer do not stay")
		}
	})
}

func TestEncodeEntry(t *testing.T) {
	e := bytes.Repeat([]byte{0xee}, EntrySize)
	EncodeEntry(e, 39, true, [6]uint64{1, 2, 3, 4, 5, 6}, [6]bool{1: true, 5: true})
	le := binary.LittleEndian
	if le.Uint32(e) != 39 || le.Uint16(e[4:]) != 1 || le.Uint16(e[6:]) != 1<<1|1<<5 || EntryResult(e) != 0 {
		t.Errorf("entry % x", e)
	}
	for i := range 6 {
		if le.Uint64(e[8+8*i:]) != uint64(i+1) {
			t.Errorf("argument %d of % x", i, e)
		}
	}
	result := int64(-2)
	le.PutUint64(e[offEntryResult:], uint64(result))
	if EntryResult(e) != result {
		t.Errorf("result %d", EntryResult(e))
	}
}

func TestPlaceTapeRefuses(t *testing.T) {
	x := someXState(t)
	slice := make([]byte, EntriesOffset(len(x))+2*EntrySize)
	for name, c := range map[string]struct {
		addr   uint64
		count  int
		xstate []byte
	}{
		"alignment": {addr: 0x1008, count: 2, xstate: x},
		"size":      {addr: 0x1000, count: 3, xstate: x},
		"negative":  {addr: 0x1000, count: -1, xstate: x},
		"state":     {addr: 0x1000, count: 2, xstate: x[:100]},
	} {
		if _, err := PlaceTape(slice, c.addr, 0, c.count, Regs{}, c.xstate, 0, time.Second); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if _, err := PlaceTape(slice, 0x1000, 0, 2, Regs{}, x, 0, 1500*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	le := binary.LittleEndian
	if le.Uint64(slice[OffTimeout:]) != 1 || le.Uint64(slice[OffTimeout+8:]) != 5e8 {
		t.Errorf("timeout % x", slice[OffTimeout:OffTimeout+16])
	}
}

// TestPlaceCallFits places a call at every alignment: the block is large enough.
func TestPlaceCallFits(t *testing.T) {
	x := someXState(t)
	gadgets := []Gadget{{}, {Ret: maxEpilogue}}
	for _, g := range gadgets {
		block := make([]byte, CallBlockSize(len(x)))
		for addr := uint64(0x1000); addr < 0x1080; addr += 8 {
			r, err := PlaceCall(block, addr, g, 0x7000, 0x8000, Regs{}, x, 0, 1, [6]uint64{})
			if err != nil {
				t.Fatalf("gadget %+v at %#x: %v", g, addr, err)
			}
			if sp := r.SP(); sp < addr || sp+uint64(g.Ret) >= addr+uint64(len(block)) || r.PC() != 0x7000 {
				t.Fatalf("gadget %+v at %#x: sp %#x pc %#x", g, addr, sp, r.PC())
			}
		}
	}
	for name, g := range map[string]Gadget{
		"deep":  {Ret: maxEpilogue + 8},
		"below": {Ret: -8},
	} {
		if _, err := PlaceCall(make([]byte, 1<<16), 0, g, 0, 0, Regs{}, x, 0, 1, [6]uint64{}); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if _, err := PlaceCall(make([]byte, 8), 0, Gadget{}, 0, 0, Regs{}, x, 0, 1, [6]uint64{}); err == nil {
		t.Error("small block: no error")
	}
}

func TestSigreturn(t *testing.T) {
	text := append(make([]byte, 64), SigreturnCode()...)
	if got := FindSigreturn(text); got != 64 {
		t.Errorf("found at %d", got)
	}
	if got := FindSigreturn(text[:70]); got != -1 {
		t.Errorf("half of it found at %d", got)
	}
	if got := FindSigreturn(nil); got != -1 {
		t.Errorf("found in nothing: %d", got)
	}
}
