package clocks

import (
	"errors"
	"testing"
	"time"

	"github.com/firn-cr/firn/sdk"
)

func TestOffsetsRoundTrip(t *testing.T) {
	for _, r := range []Reading{{}, {1, -1}, {-1, 1}, {5*time.Second + 3, -5*time.Second - 3}, {-time.Second, time.Second},
		{1234567890123456789 % (time.Second << 32), -999999999}} {
		text := formatOffsets(r)
		// The kernel takes numbers and shows names.
		named := "monotonic" + text[1:]
		for i := range named {
			if named[i] == '\n' {
				named = named[:i+1] + "boottime" + named[i+2:]
				break
			}
		}
		got, err := parseOffsets(named)
		if err != nil || got != r {
			t.Errorf("%+v: %q reads as %+v, %v", r, text, got, err)
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
	if d := b.minus(a); d.Monotonic < 0 || d.Boottime < 0 || a.Monotonic <= 0 {
		t.Errorf("clocks %+v, then %+v", a, b)
	}
}

func TestCheckWantsOneNamespace(t *testing.T) {
	ns := func(object uint64, name string, ino uint64, tasks ...sdk.TaskID) sdk.Resource {
		return sdk.Resource{Kind: sdk.KindNamespace, Object: object, Task: tasks[0], Namespace: &sdk.Namespace{Name: name, Ino: ino, Tasks: tasks}}
	}
	tree := &sdk.Tree{Root: 1, Processes: []sdk.Process{{ID: 1}, {ID: 2}, {ID: 3, Zombie: true}}}
	tasks := []sdk.Resource{{Kind: sdk.KindTask, Task: 1}, {Kind: sdk.KindTask, Task: 2}}
	for _, tt := range []struct {
		name       string
		namespaces []sdk.Resource
		blocks     int
	}{
		{"the host's own", nil, 0},
		{"one for all", []sdk.Resource{ns(7, "time", 70, 1, 2), ns(8, "time_for_children", 70, 1, 2)}, 0},
		{"of one process", []sdk.Resource{ns(7, "time", 70, 2), ns(8, "time_for_children", 70, 2)}, 1},
		{"of each process", []sdk.Resource{ns(7, "time", 70, 1), ns(8, "time", 71, 2)}, 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := Check(&sdk.Session{Tree: tree, Resources: append(tt.namespaces, tasks...)})
			if len(got) != tt.blocks {
				t.Errorf("%+v: want %d blocks", got, tt.blocks)
			}
			for _, f := range got {
				if f.Level != sdk.LevelBlock || f.Object == 0 || f.Task == 0 {
					t.Errorf("finding %+v", f)
				}
			}
		})
	}
}
