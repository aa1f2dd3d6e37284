package delta

import (
	"bytes"
	"io"
	"math/rand/v2"
	"testing"
)

func noise(n int, seed byte) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

func pack(t *testing.T, content, parent []byte, repeats bool) []byte {
	t.Helper()
	var base *Base
	if parent != nil {
		var err error
		if base, err = NewBase(Parent{"parent", 7, uint64(len(parent))}, bytes.NewReader(parent)); err != nil {
			t.Fatal(err)
		}
	}
	var out bytes.Buffer
	w, err := NewWriter(&out, base, repeats, 1)
	if err != nil {
		t.Fatal(err)
	}
	for rest := content; len(rest) > 0; {
		n := min(len(rest), 123457)
		if _, err := w.Write(rest[:n]); err != nil {
			t.Fatal(err)
		}
		rest = rest[n:]
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if w.Written() != int64(out.Len()) {
		t.Errorf("says that it wrote %d bytes of %d", w.Written(), out.Len())
	}
	return out.Bytes()
}

func unpack(b, parent []byte) ([]byte, error) {
	f, err := Open(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		return nil, err
	}
	var p io.ReaderAt
	if parent != nil {
		p = bytes.NewReader(parent)
	}
	return io.ReadAll(io.NewSectionReader(f.NewReader(p), 0, f.Size()))
}

func TestDelta(t *testing.T) {
	parent := noise(5<<20, 1)
	changed := bytes.Clone(parent)
	for range 10 {
		changed[rand.IntN(len(changed))]++
	}
	shifted := append(noise(3*Page, 2), parent...)
	repeated := bytes.Repeat(noise(2*Page, 3), 600)
	for name, c := range map[string]struct {
		content, parent []byte
		repeats         bool
		most            int // that may be stored
	}{
		"empty":           {nil, nil, false, 200},
		"no parent":       {parent[:1234567], nil, false, 1234567 + 200},
		"same":            {parent, parent, false, 200},
		"some pages":      {changed, parent, false, 11*Page + 1000},
		"shifted":         {shifted, parent, false, 4*Page + 200},
		"repeats":         {repeated, nil, true, 2*Page + 30000},
		"odd end":         {append(bytes.Clone(parent), 1, 2, 3), parent, true, 300},
		"all at once":     {append(bytes.Clone(repeated), changed...), parent, true, 14*Page + 30000},
		"a page of zeros": {make([]byte, 100*Page), nil, true, Page + 3000},
	} {
		packed := pack(t, c.content, c.parent, c.repeats)
		if len(packed) > c.most {
			t.Errorf("%s: %d bytes of %d, want %d at most", name, len(packed), len(c.content), c.most)
		}
		if !Is(bytes.NewReader(packed)) {
			t.Errorf("%s: not recognized", name)
		}
		got, err := unpack(packed, c.parent)
		if err != nil || !bytes.Equal(got, c.content) {
			t.Errorf("%s: %d of %d bytes: %v", name, len(got), len(c.content), err)
		}
	}
}

// TestDamage: a table that was changed or cut is refused; pages have no checksum
// here.
func TestDamage(t *testing.T) {
	parent := noise(1<<20, 1)
	content := append(noise(Page, 9), parent...)
	packed := pack(t, content, parent, true)
	for at := len(magic) + Page; at < len(packed); at++ {
		b := bytes.Clone(packed)
		b[at] ^= 1 << rand.IntN(8)
		if _, err := unpack(b, parent); err == nil {
			t.Fatalf("byte %d of %d changed: no error", at, len(packed))
		}
		if _, err := unpack(packed[:at], parent); err == nil {
			t.Fatalf("cut at %d: no error", at)
		}
	}
	if _, err := unpack(packed, nil); err == nil {
		t.Error("without its parent: no error")
	}
}

func FuzzOpen(f *testing.F) {
	f.Add(encodeTail(0, 8, nil, Parent{}))
	f.Add(append(bytes.Clone(magic), encodeTail(9, 8, []extent{{fromFile, 0, 9}}, Parent{"p", 1, 2})...))
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := Open(bytes.NewReader(b), int64(len(b)))
		if err != nil || d.size > 1<<24 {
			return
		}
		_, _ = io.Copy(io.Discard, io.NewSectionReader(d.NewReader(bytes.NewReader(make([]byte, 100))), 0, d.Size()))
	})
}
