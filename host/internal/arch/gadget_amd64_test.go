package arch

import (
	"bytes"
	"testing"
)

func TestEpilogue(t *testing.T) {
	for name, c := range map[string]struct {
		code string
		ok   bool
		want Gadget
	}{
		"ret":                  {"\xc3", true, Gadget{}},
		"leave":                {"\xc9\xc3", true, Gadget{Ret: 8}},
		"leave, cleared":       {"\xc9\x31\xd2\x45\x31\xdb\xc3", true, Gadget{Ret: 8}},
		"pops":                 {"\x5b\x41\x5e\x5d\xc3", true, Gadget{Ret: 24}},
		"add, pop":             {"\x48\x83\xc4\x30\x5b\xc3", true, Gadget{Ret: 0x38}},
		"add of 32 bits":       {"\x48\x81\xc4\x00\x01\x00\x00\xc3", true, Gadget{Ret: 0x100}},
		"lea from rbp":         {"\x48\x8d\x65\xf0\x5b\x41\x5e\x5d\xc3", true, Gadget{Ret: 8, Low: -16}},
		"lea from rsp":         {"\x48\x8d\x64\x24\x10\xc3", true, Gadget{Ret: 16}},
		"mov rbp, leave":       {"\x48\x89\xec\x5d\xc3", true, Gadget{Ret: 8}},
		"rbp from rsp":         {"\x58\x48\x89\xe5\x58\xc9\xc3", true, Gadget{Ret: 16}},
		"leave after pop rbp":  {"\x5d\xc9\xc3", false, Gadget{}},
		"leave after mov":      {"\x48\x89\xc5\xc9\xc3", false, Gadget{}},
		"leave after xor":      {"\x31\xed\xc9\xc3", false, Gadget{}},
		"pop rsp":              {"\x5c\xc3", false, Gadget{}},
		"pop r12":              {"\x41\x5c\xc3", true, Gadget{Ret: 8}},
		"store":                {"\x48\x89\x03\xc3", false, Gadget{}},
		"load":                 {"\x48\x8b\x03\xc3", false, Gadget{}},
		"jump":                 {"\x48\x83\xf8\x20\x75\x02\xc3", false, Gadget{}},
		"cmp":                  {"\x48\x83\xf8\x20\xc3", true, Gadget{}},
		"mov esp":              {"\x89\xec\xc3", false, Gadget{}},
		"mov rsp, rax":         {"\x48\x89\xc4\xc3", false, Gadget{}},
		"mov r12, rax":         {"\x49\x89\xc4\xc3", true, Gadget{}},
		"and rsp":              {"\x48\x83\xe4\xf0\xc3", false, Gadget{}},
		"add esp":              {"\x83\xc4\x08\xc3", false, Gadget{}},
		"too deep":             {"\x48\x81\xc4\x00\x10\x00\x00\xc3", false, Gadget{}},
		"prefix without code":  {"\x48", false, Gadget{}},
		"end of the image":     {"\x48\x83", false, Gadget{}},
		"operand is cut off":   {"\x48\x81\xc4\x00", false, Gadget{}},
		"nothing":              {"", false, Gadget{}},
		"another system call":  {"\x0f\x05\xc3", false, Gadget{}},
		"code without a ret":   {string(bytes.Repeat([]byte{0x90}, 200)), false, Gadget{}},
		"push is not expected": {"\x50\x58\xc3", false, Gadget{}},
	} {
		g, ok := epilogue([]byte(c.code))
		if ok != c.ok || g != c.want {
			t.Errorf("%s: %+v %v, want %+v %v", name, g, ok, c.want, c.ok)
		}
	}
}

func FuzzGadgets(f *testing.F) {
	_, image, err := VDSO()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(image)
	f.Add([]byte("\x0f\x05\xc3"))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, g := range Gadgets(b) {
			if !bytes.HasPrefix(b[g.Off:], syscallInsn) || g.Low > 0 || g.Ret < g.Low || g.Ret > maxEpilogue {
				t.Fatalf("gadget %+v", g)
			}
		}
	})
}
