package mm

import (
	"encoding/binary"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/mm/mmpb"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/tape"
)

const (
	// stepSize is how much memory is prepared before it is read into: few calls,
	// and little memory in use beyond what is filled.
	stepSize = 32 << 20
	// populateMin is the length from which on it pays to have the pages made
	// before they are read into, rather than by faults on the way.
	populateMin = 16 << 10
	// iovMax is the largest number of ranges of one preadv(2).
	iovMax = 1024
)

// load is a part of a bulk record with the addresses that its pages belong to,
// one after the other from off on.
type load struct {
	runs []run
	bulk sdk.Record
	off  int64
}

// loadsOf collects what has to be put into a space: its own pages, and those of
// shared memory that only it maps.
func (img *image) loadsOf(sp *spaceImage) []load {
	var loads []load
	for _, c := range sp.chunks {
		loads = append(loads, load{runs: c.runs, bulk: c.bulk})
	}
	for _, m := range sp.mappings {
		if m.Kind != mmpb.Kind_KIND_SHARED || img.shared[m.Source].whole != m {
			continue
		}
		for _, c := range img.shared[m.Source].chunks {
			l := load{bulk: c.bulk}
			for _, r := range c.runs {
				l.runs = append(l.runs, run{m.Start + r.start, m.Start + r.end})
			}
			loads = append(loads, l)
		}
	}
	slices.SortFunc(loads, func(a, b load) int { return compare(a.runs[0].start, b.runs[0].start) })
	return loads
}

// split divides a load into what lies in some sorted ranges and what does not.
func (l load) split(ranges []run) (in, out []load) {
	off := l.off
	for _, r := range l.runs {
		for r.start < r.end {
			part, inside := cutAt(r, ranges)
			to := &out
			if inside {
				to = &in
			}
			if n := len(*to); n > 0 && (*to)[n-1].end() == off {
				(*to)[n-1].runs = append((*to)[n-1].runs, part)
			} else {
				*to = append(*to, load{runs: []run{part}, bulk: l.bulk, off: off})
			}
			off += int64(part.len())
			r.start = part.end
		}
	}
	return in, out
}

// end is where in the bulk record the load ends.
func (l load) end() int64 { return l.off + int64(runBytes(l.runs)) }

// cutAt returns the part at the start of r that lies in one of the ranges, or
// in none of them.
func cutAt(r run, ranges []run) (part run, inside bool) {
	i, _ := slices.BinarySearchFunc(ranges, r.start+1, func(x run, at uint64) int { return compare(x.end, at) })
	switch {
	case i == len(ranges) || ranges[i].start >= r.end:
		return r, false
	case ranges[i].start > r.start:
		return run{r.start, ranges[i].start}, false
	default:
		return run{r.start, min(r.end, ranges[i].end)}, true
	}
}

// allRuns are the addresses of all loads, sorted and joined.
func allRuns(loads []load) []run {
	var all []run
	for _, l := range loads {
		all = append(all, l.runs...)
	}
	slices.SortFunc(all, func(a, b run) int { return compare(a.start, b.start) })
	var joined []run
	for _, r := range all {
		joined = appendRun(joined, r)
	}
	return joined
}

// filledBytes tells for each mapping how much of it the sorted runs fill.
func filledBytes(mappings []*mmpb.Mapping, runs []run) []uint64 {
	filled := make([]uint64, len(mappings))
	for i, m := range mappings {
		for len(runs) > 0 && runs[0].end <= m.Start {
			runs = runs[1:]
		}
		for _, r := range runs {
			if r.start >= m.End {
				break
			}
			filled[i] += min(r.end, m.End) - max(r.start, m.Start)
		}
	}
	return filled
}

// steps cuts the memory that the task fills itself.
func steps(runs []run) []run {
	var out []run
	for _, r := range runs {
		for r.start < r.end {
			end := min(r.end, (r.start+stepSize)&^(stepSize-1))
			out = append(out, run{r.start, end})
			r.start = end
		}
	}
	return out
}

// fill emits the calls by which the task reads its pages from the image. Each
// step gets its pages first, all at once; where that fails they are made while
// they are read into.
func (b *builder) fill() {
	todo := steps(allRuns(b.loads))
	for _, l := range b.loads {
		end := l.runs[len(l.runs)-1].end
		for ; len(todo) > 0 && todo[0].start < end; todo = todo[1:] {
			if s := todo[0]; s.len() >= populateMin {
				b.room(1, 0)
				b.tape.Try(unix.SYS_MADVISE, tape.Imm(s.start), tape.Imm(s.len()), tape.Imm(unix.MADV_POPULATE_WRITE))
			}
		}
		b.read(l)
	}
}

// read emits the calls that read one load.
func (b *builder) read(l load) {
	for runs, off := l.runs, l.bulk.BulkOffset+l.off; len(runs) > 0; {
		part := runs[:min(len(runs), iovMax)]
		runs = runs[len(part):]
		size := runBytes(part)
		b.room(1, 16*len(part)+8)
		var call tape.Result
		if len(part) == 1 {
			call = b.tape.Call(unix.SYS_PREAD64, tape.Imm(b.imageFD), tape.Imm(part[0].start), tape.Imm(size), tape.Imm(off))
		} else {
			iov := b.tape.Bytes(iovecs(part))
			call = b.tape.Call(unix.SYS_PREADV, tape.Imm(b.imageFD), iov.Arg(), tape.Imm(len(part)), tape.Imm(off), tape.Imm(0))
		}
		b.reads = append(b.reads, read{len(b.tapes) - 1, call, size})
		off += int64(size)
	}
}

// iovecs encodes ranges as an array of struct iovec.
func iovecs(runs []run) []byte {
	b := make([]byte, 0, 16*len(runs))
	for _, r := range runs {
		b = binary.NativeEndian.AppendUint64(b, r.start)
		b = binary.NativeEndian.AppendUint64(b, r.len())
	}
	return b
}
