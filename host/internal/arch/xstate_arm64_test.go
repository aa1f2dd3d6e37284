package arch

import (
	"encoding/binary"
	"errors"
	"testing"

	"github.com/firn-cr/firn/sdk"
)

// someXState is the extended state of a program that uses no SVE.
func someXState(t testing.TB) []byte {
	t.Helper()
	return make([]byte, fpsimdSize)
}

func sveState(vl int) []byte {
	b := make([]byte, fpsimdSize+sveHeader+sveRegs(vl)+8)
	binary.LittleEndian.PutUint16(b[fpsimdSize+offSVEVL:], uint16(vl))
	binary.LittleEndian.PutUint16(b[fpsimdSize+offSVEFlags:], sveRegsActive)
	return b
}

func TestCheckXState(t *testing.T) {
	for name, c := range map[string]struct {
		b    []byte
		want error
	}{
		"vectors":   {make([]byte, fpsimdSize), nil},
		"SVE":       {sveState(32), nil},
		"largest":   {sveState(256), nil},
		"cut":       {sveState(32)[:1000], sdk.ErrCorrupt},
		"no length": {make([]byte, fpsimdSize+sveHeader), sdk.ErrCorrupt},
		"empty":     {nil, sdk.ErrCorrupt},
	} {
		if err := CheckXState(c.b); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

// TestFrameRecords walks the records of a frame as the kernel does.
func TestFrameRecords(t *testing.T) {
	for _, x := range [][]byte{someXState(t), sveState(16), sveState(64)} {
		frame := make([]byte, frameSize(len(x)))
		sp, err := putFrame(frame, 0x1008, 0, Regs{}, x, 0)
		if err != nil || sp != 0x1010 {
			t.Fatalf("sp %#x, error %v", sp, err)
		}
		rec := frame[8+frameRecords:]
		var magics []uint32
		for {
			magic, size := binary.LittleEndian.Uint32(rec), binary.LittleEndian.Uint32(rec[4:])
			magics = append(magics, magic)
			if magic == 0 {
				break
			}
			if size%frameAlign != 0 || int(size) > len(rec) {
				t.Fatalf("record %#x of %d bytes", magic, size)
			}
			rec = rec[size:]
		}
		want := 2
		if len(x) > fpsimdSize {
			want = 3
		}
		if len(magics) != want {
			t.Errorf("%d bytes of state: records %#x", len(x), magics)
		}
	}
}

func TestEpilogue(t *testing.T) {
	for name, c := range map[string]struct {
		code []uint32
		ok   bool
		ret  int64
	}{
		"ret":             {[]uint32{insnRet}, true, 0},
		"nop":             {[]uint32{insnNop, insnRet}, true, 0},
		"mov w3, w4":      {[]uint32{0x2a0403e3, insnRet}, true, 0},
		"frame":           {[]uint32{0xa8c27bfd, insnRet}, true, 32},
		"loads, add":      {[]uint32{0xa94153f3, 0x9100c3ff, insnRet}, true, 48},
		"load beyond":     {[]uint32{0xa94153f3, insnRet}, false, 0},
		"authenticated":   {[]uint32{0xd50323bf, insnRet}, false, 0},
		"store":           {[]uint32{0xf90002e0, insnRet}, false, 0},
		"mov x30, x4":     {[]uint32{0xaa0403fe, insnRet}, false, 0},
		"end of the code": {nil, false, 0},
	} {
		var code []byte
		for _, insn := range c.code {
			code = binary.LittleEndian.AppendUint32(code, insn)
		}
		ret, ok := epilogue(code)
		if ok != c.ok || ok && ret != c.ret {
			t.Errorf("%s: %d %v, want %d %v", name, ret, ok, c.ret, c.ok)
		}
	}
}
