package hbuf

// ownerTable knows who owns each segment of an arena. It lives in the host's
// private memory: the plugin cannot change it.
type ownerTable struct {
	refs   []int32 // per segment: pluginOwns, 0 if free, or the host's references
	free   freeMap
	plugin int // segments that the plugin owns
	held   int // segments that the host holds references to
}

const (
	pluginOwns   = -1
	controlOwned = 1 << 30 // the control area belongs to nobody
)

// newOwnerTable returns a table in which all segments from first on are free.
func newOwnerTable(first, total int) ownerTable {
	t := ownerTable{refs: make([]int32, total), free: newFreeMap(total)}
	for i := range first {
		t.refs[i] = controlOwned
	}
	t.free.put(first, total-first)
	return t
}

// give makes the plugin the owner of the lowest free segments, at most so many,
// and returns the run.
func (t *ownerTable) give(most int) (first, n int, ok bool) {
	if first, n, ok = t.free.takeUpTo(most); ok {
		t.given(first, n)
	}
	return first, n, ok
}

// giveRun makes the plugin the owner of a free run of exactly n segments.
func (t *ownerTable) giveRun(n int) (first int, ok bool) {
	if first, ok = t.free.take(n, 0); ok {
		t.given(first, n)
	}
	return first, ok
}

func (t *ownerTable) given(first, n int) {
	for i := first; i < first+n; i++ {
		t.refs[i] = pluginOwns
	}
	t.plugin += n
}

// hold takes the first reference to a run that the plugin submitted. It
// reports false, and changes nothing, unless the plugin owns all of it: an
// index out of range and a second submission end here.
func (t *ownerTable) hold(first, n uint64) bool {
	total := uint64(len(t.refs))
	if n == 0 || n > total || first > total-n {
		return false
	}
	run := t.refs[first : first+n]
	for _, r := range run {
		if r != pluginOwns {
			return false
		}
	}
	for i := range run {
		run[i] = 1
	}
	t.plugin -= int(n)
	t.held += int(n)
	return true
}

// drop gives up one reference to a run; without any it is free.
func (t *ownerTable) drop(first, n int) {
	for i := first; i < first+n; i++ {
		if t.refs[i]--; t.refs[i] == 0 {
			t.held--
			t.free.put(i, 1)
		}
	}
}
