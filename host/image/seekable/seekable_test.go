package seekable

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/firn-cr/firn/host/image/blocks"
)

// sample is half noise and half text.
func sample(n int) []byte {
	b := make([]byte, n)
	c := rand.NewChaCha8([32]byte{7})
	_, _ = c.Read(b[:n/2])
	copy(b[n/2:], bytes.Repeat([]byte("what repeats "), n/26+1))
	return b
}

func pack(t *testing.T, content []byte, level int) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := NewWriter(&out, level, 1)
	if err != nil {
		t.Fatal(err)
	}
	for rest := content; len(rest) > 0; {
		n := min(len(rest), 300001)
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

func unpack(b []byte) ([]byte, error) {
	f, err := Open(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.NewSectionReader(f, 0, f.Size()))
}

func TestRoundTrip(t *testing.T) {
	for _, n := range []int{0, 1, blocks.Size, blocks.Size + 1, 5*blocks.Size + 12345} {
		content := sample(n)
		packed := pack(t, content, 3)
		got, err := unpack(packed)
		if err != nil || !bytes.Equal(got, content) {
			t.Errorf("%d bytes: %d come back: %v", n, len(got), err)
		}
		if n > 0 && !Is(bytes.NewReader(packed)) {
			t.Errorf("%d bytes: not recognized", n)
		}
	}
}

// TestDamage: no byte can change, and none can be missing, without an error.
func TestDamage(t *testing.T) {
	content := sample(2*blocks.Size + 1000)
	packed := pack(t, content, 1)
	for range 300 {
		at := rand.IntN(len(packed))
		b := bytes.Clone(packed)
		b[at] ^= 1 << rand.IntN(8)
		got, err := unpack(b)
		var damage *Error
		if err == nil && !bytes.Equal(got, content) || err != nil && !errors.As(err, &damage) {
			t.Fatalf("byte %d changed: %v", at, err)
		}
		if got, err := unpack(packed[:at]); err == nil && !bytes.Equal(got, content) {
			t.Fatalf("cut at %d: no error", at)
		}
	}
}

func TestWriteFails(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	w, err := NewWriter(full, 3, 1)
	if err != nil {
		t.Fatal(err)
	}
	for range 100 {
		if _, err = w.Write(sample(blocks.Size)); err != nil {
			break
		}
	}
	if err := errors.Join(err, w.Close()); err == nil {
		t.Error("a full disk is no error")
	}
}

// TestTool: zstd(1) reads it.
func TestTool(t *testing.T) {
	zstd, err := exec.LookPath("zstd")
	if err != nil {
		t.Fatal("zstd is missing: make deps installs what the tests need")
	}
	content := sample(3*blocks.Size + 5)
	path := filepath.Join(t.TempDir(), "x.zst")
	if err := os.WriteFile(path, pack(t, content, 9), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := exec.Command(zstd, "-dc", path).Output()
	if err != nil || !bytes.Equal(got, content) {
		t.Errorf("%d bytes: %v", len(got), err)
	}
}

func FuzzTable(f *testing.F) {
	f.Add(encodeTable([]frame{{0, 5, 0, 9}, {5, 7, 9, 1}}))
	f.Fuzz(func(t *testing.T, table []byte) {
		frames, err := readTable(bytes.NewReader(table), int64(len(table)))
		if err == nil && len(frames) > 0 {
			t.Errorf("%d frames in a file that has none", len(frames))
		}
		_, _ = readTable(io.NewSectionReader(bytes.NewReader(append(make([]byte, 64), table...)), 0, 64+int64(len(table))), 64+int64(len(table)))
	})
}
