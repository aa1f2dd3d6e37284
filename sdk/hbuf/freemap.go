package hbuf

// freeMap knows which segments of an arena are free to reserve. Runs are taken
// from the lowest place that fits, so that memory which was used before is
// used again.
type freeMap struct {
	free  []bool
	count int
	low   int // no segment below is free
}

// newFreeMap returns a map of n segments of which none is free.
func newFreeMap(n int) freeMap { return freeMap{free: make([]bool, n), low: n} }

// put frees a run. It reports false if a segment does not exist or is free
// already.
func (m *freeMap) put(first, n int) bool {
	if first < 0 || n <= 0 || first > len(m.free)-n {
		return false
	}
	for i := first; i < first+n; i++ {
		if m.free[i] {
			return false
		}
	}
	for i := first; i < first+n; i++ {
		m.free[i] = true
	}
	m.count += n
	m.low = min(m.low, first)
	return true
}

// take reserves a run of n segments, at or behind from if there is one.
func (m *freeMap) take(n, from int) (first int, ok bool) {
	if n > m.count {
		return 0, false
	}
	first, ok = m.find(n, max(from, m.low))
	if !ok && from > m.low {
		first, ok = m.find(n, m.low)
	}
	if !ok {
		return 0, false
	}
	for i := first; i < first+n; i++ {
		m.free[i] = false
	}
	m.count -= n
	for m.low < len(m.free) && !m.free[m.low] {
		m.low++
	}
	return first, true
}

// find returns the lowest free run of n segments at or behind from.
func (m *freeMap) find(n, from int) (first int, ok bool) {
	length := 0
	for i := from; i < len(m.free); i++ {
		if !m.free[i] {
			length = 0
			continue
		}
		if length++; length == n {
			return i - n + 1, true
		}
	}
	return 0, false
}

// takeUpTo reserves the lowest free run, at most so many segments long.
func (m *freeMap) takeUpTo(most int) (first, n int, ok bool) {
	if most <= 0 || m.count == 0 {
		return 0, 0, false
	}
	first = m.low
	for n < most && first+n < len(m.free) && m.free[first+n] {
		m.free[first+n] = false
		n++
	}
	m.count -= n
	for m.low < len(m.free) && !m.free[m.low] {
		m.low++
	}
	return first, n, true
}
