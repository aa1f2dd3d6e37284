package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestMedian(t *testing.T) {
	for _, c := range []struct {
		in   series
		want float64
	}{{nil, 0}, {series{3}, 3}, {series{5, 1, 3}, 3}, {series{4, 1, 2, 10}, 3}} {
		if got := c.in.median(); got != c.want {
			t.Errorf("median of %v is %v, want %v", []float64(c.in), got, c.want)
		}
	}
}

func TestReplace(t *testing.T) {
	path := filepath.Join(t.TempDir(), "performance.md")
	if err := os.WriteFile(path, []byte("above\n"+begin+"old\n"+end+"\nbelow\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 { // a second time changes nothing
		if err := replace(path, "new"); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(path)
		if want := "above\n" + begin + "\nnew\n" + end + "\nbelow\n"; err != nil || string(got) != want {
			t.Fatalf("file is %q, want %q: %v", got, want, err)
		}
	}
	if err := os.WriteFile(path, []byte("no marks"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := replace(path, "new"); err == nil {
		t.Error("a file without marks was accepted")
	}
}

// TestLimits measures a little, and the report shows it.
func TestLimits(t *testing.T) {
	s := samples{name: "some"}
	if err := s.limits.measure(t.TempDir(), 4<<20); err != nil {
		t.Fatal(err)
	}
	s.noSync.add(12)
	text := (&report{runs: 1, whole: []samples{s}}).markdown()
	for _, want := range []string{"| some | 12.0 (12.0-12.0) |", "limits, in the same run"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in the report:\n%s", want, text)
		}
	}
}
