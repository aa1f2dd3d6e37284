package procfs

import (
	"fmt"
	"os"
	"slices"
	"testing"
)

func TestParseIDMap(t *testing.T) {
	got, err := ParseIDMap([]byte("         0       1000          1\n         1     100000      65536\n"))
	if want := []IDRange{{0, 1000, 1}, {1, 100000, 65536}}; err != nil || !slices.Equal(got, want) {
		t.Fatalf("%v, %v, want %v", got, err, want)
	}
	for _, bad := range []string{"0 1000\n", "0 1000 1 2\n", "0 x 1\n", "0 4294967296 1\n", "-1 0 1\n"} {
		if got, err := ParseIDMap([]byte(bad)); err == nil {
			t.Errorf("%q: %v", bad, got)
		}
	}
}

func TestIDMapOfSelf(t *testing.T) {
	for _, name := range []string{"uid_map", "gid_map"} {
		if m, err := IDMap(os.Getpid(), name); err != nil || len(m) == 0 {
			t.Errorf("%s: %v, %v", name, m, err)
		}
	}
	if _, err := SetgroupsDenied(os.Getpid()); err != nil {
		t.Error(err)
	}
}

func FuzzParseIDMap(f *testing.F) {
	f.Add([]byte("0 1000 1\n1 100000 65536\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		ranges, err := ParseIDMap(b)
		if err != nil {
			return
		}
		var out []byte
		for _, r := range ranges {
			out = fmt.Appendf(out, "%10d %10d %10d\n", r.Inside, r.Outside, r.Count)
		}
		if again, err := ParseIDMap(out); err != nil || !slices.Equal(again, ranges) {
			t.Fatalf("%v became %v, %v", ranges, again, err)
		}
	})
}
