package image

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
)

// packedImage is an image with records and payloads, compressed.
func packedImage(t *testing.T) (path string, f *feeder) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "x.firn")
	w, err := CreateCompressed(path, nil, Compression{Level: 3})
	if err != nil {
		t.Fatal(err)
	}
	f = newFeeder(w.Stream("mm"))
	for i := range 50 {
		f.record(t, 1, bytes.Repeat([]byte{byte(i)}, i*31))
		f.bulkRecord(t, 2, bytes.Repeat([]byte("page"), 1024*(i+1)))
	}
	totals, err := w.Commit(context.Background(), CommitOptions{Sync: true})
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || uint64(info.Size()) != totals.FileBytes {
		t.Errorf("%d bytes are told of a file of %d: %v", totals.FileBytes, info.Size(), err)
	}
	return path, f
}

func TestCompressed(t *testing.T) {
	path, f := packedImage(t)
	i, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer i.Close()
	if err := i.Verify(context.Background()); err != nil {
		t.Fatal(err)
	}
	f.check(t, i, "mm")
	if i.Compressed() == 0 || i.Compressed() > i.Size()/10 {
		t.Errorf("%d bytes of %d", i.Compressed(), i.Size())
	}
}

// TestCompressedDamage: wherever a compressed image is damaged or cut, it is
// refused as damaged.
func TestCompressedDamage(t *testing.T) {
	path, _ := packedImage(t)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	check := func(what string, at int, b []byte) {
		t.Helper()
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		i, err := Open(path)
		if err == nil {
			err = errors.Join(i.Verify(context.Background()), i.Close())
		}
		var damage *CorruptError
		if !errors.As(err, &damage) {
			t.Errorf("%s at %d: %v", what, at, err)
		}
	}
	for range 60 {
		at := rand.IntN(len(whole))
		b := bytes.Clone(whole)
		b[at] ^= 0x10
		check("changed", at, b)
		check("cut", at, whole[:at])
	}
}

func TestCompressedAbort(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.firn")
	w, err := CreateCompressed(path, nil, Compression{Level: 1})
	if err != nil {
		t.Fatal(err)
	}
	newFeeder(w.Stream("mm")).bulkRecord(t, 2, make([]byte, 3<<20))
	if err := w.Abort(); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(filepath.Dir(path)); err != nil || len(left) > 0 {
		t.Errorf("%v is left: %v", left, err)
	}
}

func TestParseCompression(t *testing.T) {
	for text, want := range map[string]int{"none": 0, "zstd": 3, "zstd:1": 1, "zstd:22": 22} {
		if c, err := ParseCompression(text); err != nil || c.Level != want {
			t.Errorf("%q: level %d: %v", text, c.Level, err)
		}
	}
	for _, text := range []string{"", "gzip", "zstd:", "zstd:0", "zstd:23", "zstd:x", "none:1"} {
		if _, err := ParseCompression(text); err == nil {
			t.Errorf("%q: no error", text)
		}
	}
}
