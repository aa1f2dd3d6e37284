package restore

import (
	"errors"
	"testing"

	"github.com/firn-cr/firn/sdk"
)

func TestPlanKeepers(t *testing.T) {
	tree := &sdk.Tree{Root: 9, Processes: []sdk.Process{
		{ID: 9, PGID: 99, SID: 97, Threads: []sdk.Thread{{ID: 9}, {ID: 96}}},
		{ID: 10, PGID: 99, SID: 97, Threads: []sdk.Thread{{ID: 10}}, UserNamespace: 2},
	}}
	used := func(id sdk.TaskID) bool { return id == 95 }
	if k := planKeepers(tree, used, 100); k != nil {
		t.Errorf("%d keepers without a user namespace", len(k))
	}
	tree.UserNamespaces = make([]sdk.UserNamespace, 2)
	check := func(want ...keeper) {
		t.Helper()
		got := planKeepers(tree, used, 100)
		if len(got) != len(want) {
			t.Fatalf("%d keepers, want %d", len(got), len(want))
		}
		for i := range want {
			if got[i].ns != want[i].ns || got[i].ID != want[i].ID {
				t.Errorf("keeper %d is %d in %d, want %d in %d", i, got[i].ID, got[i].ns, want[i].ID, want[i].ns)
			}
		}
	}
	first, second := keeper{ns: 1, Process: sdk.Process{ID: 98}}, keeper{ns: 2, Process: sdk.Process{ID: 94}}
	check(first, second)
	tree.Processes[1].Threads = append(tree.Processes[1].Threads, sdk.Thread{ID: 11})
	check(first, second, keeper{Process: sdk.Process{ID: 93}})
}

func TestMapText(t *testing.T) {
	ids := sdk.IDMap{{Inside: 0, Outside: 1000, Count: 1}, {Inside: 7, Outside: 2000, Count: 10}}
	if got, err := mapText(ids, nil, false); err != nil || string(got) != "0 1000 1\n7 2000 10\n" {
		t.Errorf("%q, %v", got, err)
	}
	outer := sdk.IDMap{{Inside: 50, Outside: 1000, Count: 1}, {Inside: 100, Outside: 1990, Count: 20}}
	if got, err := mapText(ids, outer, true); err != nil || string(got) != "0 50 1\n7 110 10\n" {
		t.Errorf("nested: %q, %v", got, err)
	}
	for _, bad := range []sdk.IDMap{nil, outer[:1], {{Inside: 50, Outside: 1000, Count: 1}, {Inside: 0, Outside: 2000, Count: 5}, {Inside: 90, Outside: 2005, Count: 5}}} {
		if got, err := mapText(ids, bad, true); !errors.Is(err, sdk.ErrCorrupt) {
			t.Errorf("within %v: %q, %v", bad, got, err)
		}
	}
}
