package tapecall

import (
	"bytes"
	"errors"
	"reflect"
	"testing"

	"github.com/firn-cr/firn/sdk/internal/sentinel"
	"github.com/firn-cr/firn/sdk/tape"
)

func sample() *tape.Tape {
	t := &tape.Tape{}
	name := t.String("/proc/self/exe")
	buf := t.Buffer(4096)
	fd := t.Call(257, tape.Imm(-100), name.Arg(), tape.Imm(0))
	t.Try(0, fd.Arg(), buf.Arg(), tape.Imm(4096))
	t.Call(3, fd.Arg())
	t.Call(9, tape.Imm(uint64(1)<<63), tape.Imm(1), tape.Imm(2), tape.Imm(3), fd.Arg(), buf.Arg())
	return t
}

func TestRoundTrip(t *testing.T) {
	want := sample()
	got, err := Unpack(Pack(want.Calls), len(want.Data))
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want.Calls) {
		t.Errorf("got %+v\nwant %+v", got, want.Calls)
	}
}

func TestUnpackRefuses(t *testing.T) {
	good := sample()
	for name, change := range map[string]func(b []byte) []byte{
		"short":        func(b []byte) []byte { return b[:len(b)-1] },
		"reserved":     func(b []byte) []byte { b[60] = 1; return b },
		"flags":        func(b []byte) []byte { b[7] = 1; return b },
		"kind":         func(b []byte) []byte { b[5] = 3; return b },
		"data":         func(b []byte) []byte { b[5] = 1; b[9] = 0xff; return b },
		"later result": func(b []byte) []byte { b[5] = 2; return b },
		"too many":     func([]byte) []byte { return make([]byte, Size*(tape.MaxEntries+1)) },
	} {
		if _, err := Unpack(change(Pack(good.Calls)), len(good.Data)); !errors.Is(err, sentinel.ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := Unpack(nil, tape.MaxData+1); !errors.Is(err, sentinel.ErrCorrupt) {
		t.Errorf("large data area: %v", err)
	}
}

func FuzzUnpack(f *testing.F) {
	s := sample()
	f.Add(Pack(s.Calls), len(s.Data))
	f.Add([]byte{1}, 0)
	f.Fuzz(func(t *testing.T, b []byte, dataLen int) {
		calls, err := Unpack(b, dataLen)
		if err != nil {
			return
		}
		if !bytes.Equal(Pack(calls), b) {
			t.Errorf("pack(unpack(%x)) differs", b)
		}
	})
}
