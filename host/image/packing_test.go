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
	w, err := CreatePacked(path, nil, Packing{Level: 3})
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
	if i.Stored() == 0 || i.Stored() > i.Size()/10 {
		t.Errorf("%d bytes of %d", i.Stored(), i.Size())
	}
}

// TestCompressedDamage: wherever a compressed image is cut, or damaged so that its
// content is another one, it is refused as damaged.
func TestCompressedDamage(t *testing.T) {
	path, f := packedImage(t)
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
			defer i.Close()
			err = i.Verify(context.Background())
		}
		if err == nil && what == "changed" {
			f.check(t, i, "mm") // a bit of a frame's header that does not matter
			return
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
	w, err := CreatePacked(path, nil, Packing{Level: 1})
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
		if c, err := ParseCompression(text); err != nil || c != want {
			t.Errorf("%q: level %d: %v", text, c, err)
		}
	}
	for _, text := range []string{"", "gzip", "zstd:", "zstd:0", "zstd:23", "zstd:x", "none:1"} {
		if _, err := ParseCompression(text); err == nil {
			t.Errorf("%q: no error", text)
		}
	}
}

// chain writes three images of which each is based on the one before, and returns
// their paths.
func chain(t *testing.T, p Packing) (paths []string, last *feeder) {
	t.Helper()
	dir := t.TempDir()
	pages := make([][]byte, 200)
	for i := range pages {
		pages[i] = make([]byte, 4096)
		for j := range pages[i] {
			pages[i][j] = byte(rand.Uint32())
		}
	}
	for n := range 3 {
		path := filepath.Join(dir, string(rune('a'+n))+".firn")
		if n > 0 {
			parent, err := Open(paths[n-1])
			if err != nil {
				t.Fatal(err)
			}
			if p.Base, err = NewBase(parent, path); err != nil {
				t.Fatal(err)
			}
			parent.Close()
		}
		pages[n][77]++
		w, err := CreatePacked(path, nil, p)
		if err != nil {
			t.Fatal(err)
		}
		last = newFeeder(w.Stream("mm"))
		for i := 0; i < len(pages); i += 50 {
			last.bulkRecord(t, 2, bytes.Join(pages[i:i+50], nil))
		}
		if _, err := w.Commit(context.Background(), CommitOptions{}); err != nil {
			t.Fatal(err)
		}
		paths = append(paths, path)
	}
	return paths, last
}

func TestChain(t *testing.T) {
	for name, p := range map[string]Packing{"plain": {}, "compressed": {Level: 1}, "without repetitions": {Dedup: true}} {
		t.Run(name, func(t *testing.T) {
			paths, last := chain(t, p)
			for n, path := range paths {
				i, err := Open(path)
				if err != nil {
					t.Fatal(err)
				}
				if err := i.Verify(context.Background()); err != nil {
					t.Error(err)
				}
				want := ""
				if n > 0 {
					want = paths[n-1]
					if i.Stored() > i.Size()/10 {
						t.Errorf("%d bytes of %d are stored", i.Stored(), i.Size())
					}
				}
				if i.Parent() != want {
					t.Errorf("parent %q, want %q", i.Parent(), want)
				}
				if n == 2 {
					last.check(t, i, "mm")
				}
				i.Close()
			}
			// All of them can be moved together.
			moved := filepath.Join(filepath.Dir(filepath.Dir(paths[0])), "moved")
			if err := os.Rename(filepath.Dir(paths[0]), moved); err != nil {
				t.Fatal(err)
			}
			i, err := Open(filepath.Join(moved, "c.firn"))
			if err != nil {
				t.Fatal(err)
			}
			i.Close()
			// Another image in place of the first, and none.
			if err := os.Rename(filepath.Join(moved, "b.firn"), filepath.Join(moved, "a.firn")); err != nil {
				t.Fatal(err)
			}
			for _, missing := range []string{"b.firn", "a.firn"} {
				if _, err := Open(filepath.Join(moved, "c.firn")); !errors.Is(err, ErrParent) {
					t.Errorf("without %s: %v", missing, err)
				}
			}
		})
	}
}

func TestOwnParent(t *testing.T) {
	paths, _ := chain(t, Packing{})
	i, err := Open(paths[0])
	if err != nil {
		t.Fatal(err)
	}
	defer i.Close()
	if _, err := NewBase(i, paths[0]); err == nil {
		t.Error("an image is its own parent")
	}
}
