package mm

import (
	"fmt"
	"os"

	"github.com/firn-cr/firn/plugins/mm/mmpb"
	"github.com/firn-cr/firn/sdk"
)

// pageSize is the size of a page on this machine.
var pageSize = uint64(os.Getpagesize())

// run is a range of whole pages: of an address space by address, of a shared
// object by offset.
type run struct{ start, end uint64 }

func (r run) len() uint64 { return r.end - r.start }

// runBytes is the length of all runs together.
func runBytes(runs []run) uint64 {
	var n uint64
	for _, r := range runs {
		n += r.len()
	}
	return n
}

// appendRun adds a range behind all others and joins it with the last one if
// they touch.
func appendRun(runs []run, r run) []run {
	if n := len(runs); n > 0 && runs[n-1].end == r.start {
		runs[n-1].end = r.end
		return runs
	}
	return append(runs, r)
}

// cutRuns splits runs into groups of at most size bytes, in order.
func cutRuns(runs []run, size uint64) [][]run {
	var groups [][]run
	var group []run
	left := size
	for _, r := range runs {
		for r.start < r.end {
			part := run{r.start, min(r.end, r.start+left)}
			group = append(group, part)
			r.start = part.end
			if left -= part.len(); left == 0 {
				groups, group, left = append(groups, group), nil, size
			}
		}
	}
	if len(group) > 0 {
		groups = append(groups, group)
	}
	return groups
}

// encodeRuns makes the record of runs that are in order.
func encodeRuns(runs []run) *mmpb.Runs {
	pages := make([]uint64, 0, 2*len(runs))
	var last uint64
	for _, r := range runs {
		pages = append(pages, (r.start-last)/pageSize, r.len()/pageSize)
		last = r.end
	}
	return &mmpb.Runs{Pages: pages}
}

// maxOffset bounds addresses and offsets in an image: no kernel has larger
// ones, and sums of two cannot overflow.
const maxOffset = 1 << 62

// decodeRuns is the inverse of encodeRuns. The runs are in order, not empty,
// and below maxOffset.
func decodeRuns(m *mmpb.Runs) ([]run, error) {
	pages := m.GetPages()
	if len(pages)%2 != 0 {
		return nil, fmt.Errorf("runs of %d numbers: %w", len(pages), sdk.ErrCorrupt)
	}
	runs := make([]run, 0, len(pages)/2)
	var last uint64
	limit := uint64(maxOffset) / pageSize
	for ; len(pages) > 0; pages = pages[2:] {
		skip, n := pages[0], pages[1]
		if n == 0 || skip > limit || n > limit || last/pageSize+skip+n > limit {
			return nil, fmt.Errorf("run of %d pages after %d: %w", n, skip, sdk.ErrCorrupt)
		}
		r := run{start: last + skip*pageSize}
		r.end = r.start + n*pageSize
		runs = append(runs, r)
		last = r.end
	}
	return runs, nil
}
