package integration

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/firn-cr/firn/host/integration/harness"
)

// TestIncremental: a program is saved again and again, each time with what has
// changed only; it comes back from the whole chain, and from one image that is
// made of it.
func TestIncremental(t *testing.T) {
	s := startC(t, "memory", "32")
	dir := workDir(t)
	name := func(n string) string { return filepath.Join(dir, n+".firn") }
	save := func(to string, args ...string) int64 {
		t.Helper()
		res := want(t, harness.StatusDone, firn(t), append([]string{"checkpoint", strconv.Itoa(s.PID), "-o", name(to), "--json"}, args...)...)
		var c harness.Checkpoint
		if err := res.Decode(&c); err != nil {
			t.Fatal(err)
		}
		return c.BytesImage
	}
	whole := save("a", "--leave-running")
	s.ticks(5)
	if n := save("b", "--leave-running", "--parent", name("a")); n > whole/2 {
		t.Errorf("%d bytes have changed of %d", n, whole)
	}
	s.ticks(5)
	save("c", "--leave-running", "--parent", name("b"), "--compress", "zstd", "--deferred")
	s.ticks(5)
	save("d", "--parent", name("c"), "--dedup")
	s.Forget()
	res := want(t, harness.StatusDone, firn(t), "show", name("d"))
	contains(t, res, res.Stdout, name("c"))
	want(t, harness.StatusDone, firn(t), "verify", name("d"))
	want(t, harness.StatusDone, firn(t), "flatten", name("d"), "-o", name("one"), "--compress", "zstd:1")
	want(t, harness.StatusDone, firn(t), "restore", "-d", name("d"))
	s.unharmed()

	// A parent that is damaged, missing, or another one.
	b, err := os.ReadFile(name("b"))
	if err != nil {
		t.Fatal(err)
	}
	for what, content := range map[string][]byte{"damaged": append(append([]byte{}, b[:len(b)/2]...), b[len(b)/2+1:]...), "missing": nil} {
		if err := os.Remove(name("b")); err != nil {
			t.Fatal(err)
		}
		if content != nil {
			if err := os.WriteFile(name("b"), content, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		for _, args := range [][]string{
			{"verify", name("d")}, {"restore", "-d", name("d")},
			{"checkpoint", strconv.Itoa(s.PID), "-o", name("e"), "--parent", name("d"), "--leave-running"},
		} {
			res := want(t, harness.StatusFailed, firn(t), args...)
			contains(t, res, res.Stderr, name("b"))
		}
		if err := os.WriteFile(name("b"), b, 0o600); err != nil {
			t.Fatal(err)
		}
		t.Log(what)
		s.unharmed()
	}
	other := startCounter(t)
	res = want(t, harness.StatusFailed, firn(t), "checkpoint", strconv.Itoa(other.PID), "-o", name("e"), "--parent", name("a"))
	contains(t, res, res.Stderr, "of another tree")
	other.unharmed()
	if _, err := os.Stat(name("e")); err == nil {
		t.Error("an image was written")
	}

	// The one image needs no other.
	want(t, harness.StatusDone, firn(t), "checkpoint", strconv.Itoa(s.PID), "-o", name("e"))
	s.Forget()
	for _, n := range []string{"a", "b", "c", "d"} {
		if err := os.Remove(name(n)); err != nil {
			t.Fatal(err)
		}
	}
	want(t, harness.StatusDone, firn(t), "restore", "-d", name("one"))
	s.unharmed()
}
