package time

import (
	"context"
	"errors"
	"strconv"
	"testing"

	"github.com/firn-cr/firn/sdk"
)

func TestOffsetsRoundTrip(t *testing.T) {
	for _, c := range []clocks{{}, {1, -1}, {-1, 1}, {5*second + 3, -5*second - 3}, {-second, second}, {1234567890123456789 % (second << 32), -999999999}} {
		text := formatOffsets(c)
		// The kernel takes numbers and shows names.
		named := "monotonic" + text[1:]
		for i := range named {
			if named[i] == '\n' {
				named = named[:i+1] + "boottime" + named[i+2:]
				break
			}
		}
		got, err := parseOffsets(named)
		if err != nil || got != c {
			t.Errorf("%+v: %q reads as %+v, %v", c, text, got, err)
		}
	}
}

func FuzzParseOffsets(f *testing.F) {
	f.Add("monotonic           0         0\nboottime            0         0\n")
	f.Add("monotonic -1 999999999\n")
	f.Fuzz(func(t *testing.T, text string) {
		if _, err := parseOffsets(text); err != nil && !errors.Is(err, sdk.ErrCorrupt) {
			t.Errorf("%q: %v", text, err)
		}
	})
}

func TestMachineClocks(t *testing.T) {
	a, err := machine()
	if err != nil {
		t.Fatal(err)
	}
	b, err := machine()
	if err != nil {
		t.Fatal(err)
	}
	if d := b.minus(a); d.monotonic < 0 || d.boottime < 0 || a.monotonic <= 0 {
		t.Errorf("clocks %+v, then %+v", a, b)
	}
}

func TestCheckWantsOneNamespace(t *testing.T) {
	ns := func(object uint64, name string, ino uint64, tasks ...sdk.TaskID) sdk.Resource {
		return sdk.Resource{Kind: sdk.KindNamespace, Object: object, Task: tasks[0], Namespace: &sdk.Namespace{Name: name, Ino: ino, Tasks: tasks}}
	}
	tree := &sdk.Tree{Root: 1, Processes: []sdk.Process{{ID: 1}, {ID: 2}, {ID: 3, Zombie: true}}}
	tests := []struct {
		name      string
		resources []sdk.Resource
		blocks    int
	}{
		{"the host's own", nil, 0},
		{"one for all", []sdk.Resource{ns(7, "time", 70, 1, 2), ns(8, "time_for_children", 70, 1, 2)}, 0},
		{"of one process", []sdk.Resource{ns(7, "time", 70, 2), ns(8, "time_for_children", 70, 2)}, 2},
		{"unshared for children", []sdk.Resource{ns(8, "time_for_children", 71, 1, 2)}, 1},
	}
	for i, tt := range tests {
		t.Run(strconv.Itoa(i)+" "+tt.name, func(t *testing.T) {
			got, err := (&plugin{}).Check(context.Background(), &sdk.CheckRequest{Session: &sdk.Session{Tree: tree, Resources: tt.resources}})
			if err != nil || len(got) != tt.blocks {
				t.Errorf("%+v, %v: want %d blocks", got, err, tt.blocks)
			}
		})
	}
}
