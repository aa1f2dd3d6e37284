package hbuf

import (
	"errors"
	"math/rand/v2"
	"slices"
	"testing"
)

// naiveTake is what freeMap.take should do.
func naiveTake(free []bool, n, from int) (int, bool) {
	for _, start := range []int{from, 0} {
		for i := start; i+n <= len(free); i++ {
			if !slices.Contains(free[i:i+n], false) {
				return i, true
			}
		}
	}
	return 0, false
}

func TestFreeMap(t *testing.T) {
	const segments = 40
	rng := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		m, model := newFreeMap(segments), make([]bool, segments)
		for range 100 {
			n, at := 1+rng.IntN(6), rng.IntN(segments)
			switch rng.IntN(3) {
			case 0:
				want := at+n <= segments && !slices.Contains(model[at:at+n], true)
				if got := m.put(at, n); got != want {
					t.Fatalf("put of %d at %d: %v", n, at, got)
				}
				for i := at; want && i < at+n; i++ {
					model[i] = true
				}
			case 1:
				want, ok := naiveTake(model, n, at)
				if got, gotOK := m.take(n, at); got != want || gotOK != ok {
					t.Fatalf("take of %d from %d: %d %v, want %d %v", n, at, got, gotOK, want, ok)
				}
				for i := want; ok && i < want+n; i++ {
					model[i] = false
				}
			case 2:
				first, got, ok := m.takeUpTo(n)
				if want := slices.Index(model, true); ok != (want >= 0) || ok && (first != want || got < 1 || got > n) {
					t.Fatalf("take up to %d: %d at %d %v", n, got, first, ok)
				}
				for i := first; i < first+got; i++ {
					if !model[i] {
						t.Fatalf("segment %d was not free", i)
					}
					model[i] = false
				}
			}
			free := 0
			for _, f := range model {
				if f {
					free++
				}
			}
			if m.count != free || !slices.Equal(m.free, model) {
				t.Fatalf("%d free, want %d", m.count, free)
			}
		}
	}
}

func TestFreeMapBounds(t *testing.T) {
	m := newFreeMap(4)
	for _, run := range [][2]int{{-1, 1}, {0, 0}, {0, -1}, {4, 1}, {3, 2}, {0, 5}, {1 << 31, 1 << 31}} {
		if m.put(run[0], run[1]) {
			t.Errorf("put of %d at %d", run[1], run[0])
		}
	}
}

func TestOwnerTable(t *testing.T) {
	table := newOwnerTable(2, 10)
	if first, n, ok := table.give(4); first != 2 || n != 4 || !ok {
		t.Fatal(first, n, ok)
	}
	for _, run := range [][2]uint64{{0, 1}, {1, 2}, {5, 2}, {2, 0}, {2, 5}, {9, 1}, {10, 1}, {1 << 63, 1 << 63}, {2, 1 << 40}} {
		if table.hold(run[0], run[1]) {
			t.Errorf("hold of %d at %d", run[1], run[0])
		}
	}
	if !table.hold(3, 2) || table.hold(3, 2) || table.hold(2, 2) {
		t.Error("a run is held once")
	}
	if table.plugin != 2 || table.held != 2 || table.free.count != 4 {
		t.Errorf("%+v", table)
	}
	table.drop(3, 2)
	if table.plugin != 2 || table.held != 0 || table.free.count != 6 {
		t.Errorf("%+v", table)
	}
	if first, ok := table.giveRun(3); first != 6 || !ok {
		t.Error(first, ok)
	}
	if _, ok := table.giveRun(3); ok {
		t.Error("there is no such run")
	}
}

func TestLayout(t *testing.T) {
	for _, bad := range []struct {
		size    uint64
		segment uint32
	}{
		{0, 4096}, {1 << 20, 0}, {1 << 20, 4097}, {1 << 20, 8 << 20}, {1<<20 + 1, 4096}, {1 << 41, 4096},
		{1 << 63, 4096}, {3 * 4096, 4096}, {2 * DefaultSegment, DefaultSegment},
	} {
		if l, err := newLayout(bad.size, bad.segment); !errors.Is(err, ErrProtocol) {
			t.Errorf("%d bytes in segments of %d: %+v, %v", bad.size, bad.segment, l, err)
		}
	}
	for _, good := range []struct {
		size    uint64
		segment uint32
	}{{3 * DefaultSegment, DefaultSegment}, {16 << 20, DefaultSegment}, {10 << 30, DefaultSegment}, {1 << 20, 4096}, {16 << 20, MaxBulk}} {
		l, err := newLayout(good.size, good.segment)
		if err != nil {
			t.Error(err)
			continue
		}
		if l.entries < uint64(l.total) || l.entries&(l.entries-1) != 0 ||
			uint64(l.first)*l.segment < ringsOffset+16*l.entries {
			t.Errorf("%+v", l)
		}
	}
}
