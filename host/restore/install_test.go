package restore

import (
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/tape"
)

// fdTable executes the calls of an install tape by the kernel's rules.
type fdTable struct {
	t       *testing.T
	entries map[int]string
	cloexec map[int]bool
}

func (f *fdTable) lowest() int {
	for i := 0; ; i++ {
		if _, used := f.entries[i]; !used {
			return i
		}
	}
}

func (f *fdTable) run(tp *tape.Tape) {
	results := make([]int, len(tp.Calls))
	for i, c := range tp.Calls {
		arg := func(n int) int {
			if c.Args[n].Kind == tape.ArgResult {
				return results[c.Args[n].Value]
			}
			return int(c.Args[n].Value)
		}
		switch c.Nr {
		case unix.SYS_PIDFD_GETFD:
			n := f.lowest()
			f.entries[n], f.cloexec[n], results[i] = string(rune('a'+arg(1))), true, n
		case unix.SYS_DUP3:
			if arg(0) == arg(1) {
				f.t.Fatalf("call %d: dup3 of %d onto itself", i, arg(0))
			}
			if _, ok := f.entries[arg(1)]; ok {
				f.t.Fatalf("call %d: dup3 onto the open fd %d", i, arg(1))
			}
			f.entries[arg(1)], f.cloexec[arg(1)] = f.entries[arg(0)], arg(2) != 0
		case unix.SYS_FCNTL:
			f.cloexec[arg(0)] = arg(2) != 0
		case unix.SYS_CLOSE:
			delete(f.entries, arg(0))
		default:
			f.t.Fatalf("unexpected syscall %d", c.Nr)
		}
	}
}

func TestInstallTapeFillsExactlyTheTable(t *testing.T) {
	from := map[uint64]provided{1: {pluginFD: 100, fd: 0}, 2: {pluginFD: 100, fd: 1}, 3: {pluginFD: 101, fd: 2}}
	tests := map[string][]wantFD{
		"dense":         {{1, 0, false}, {2, 1, false}, {3, 2, true}},
		"gaps":          {{1, 3, false}, {2, 7, true}, {3, 8, false}},
		"shared":        {{1, 0, false}, {1, 1, true}, {1, 2, false}, {2, 9, false}, {1, 10, true}},
		"gap, dense":    {{1, 1, true}, {2, 2, false}, {3, 3, false}},
		"first is free": {{1, 1, false}, {1, 2, false}, {2, 5, false}},
	}
	for name, want := range tests {
		t.Run(name, func(t *testing.T) {
			tp, err := installTape(want, from)
			if err != nil {
				t.Fatal(err)
			}
			f := &fdTable{t, map[int]string{}, map[int]bool{}}
			f.run(tp)
			if len(f.entries) != len(want) {
				t.Fatalf("table %v, want %v", f.entries, want)
			}
			for _, w := range want {
				if f.entries[w.fd] != string(rune('a'+from[w.object].fd)) || f.cloexec[w.fd] != w.cloexec {
					t.Errorf("fd %d: %q cloexec %v, want %+v", w.fd, f.entries[w.fd], f.cloexec[w.fd], w)
				}
			}
		})
	}
}

func TestInstallTapeNamesAMissingObject(t *testing.T) {
	if _, err := installTape([]wantFD{{7, 3, false}}, nil); err == nil {
		t.Error("no error for an object that nobody provided")
	}
}

func TestFDTablesAreSorted(t *testing.T) {
	files := []sdk.Resource{
		{Object: 1, File: &sdk.File{Refs: []sdk.FDRef{{Task: 5, FD: 9}, {Task: 6, FD: 0}}}},
		{Object: 2, File: &sdk.File{Refs: []sdk.FDRef{{Task: 5, FD: 1, Cloexec: true}}}},
	}
	tables := fdTables(files)
	want := []wantFD{{2, 1, true}, {1, 9, false}}
	if !slices.Equal(tables[5], want) || len(tables[6]) != 1 {
		t.Errorf("tables %v", tables)
	}
}
