package task

import (
	"context"
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/task/taskpb"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/procfs"
	"github.com/firn-cr/firn/sdk/tape"
)

// seccompObject is the object of the records of filters: threads of several
// processes share them.
const seccompObject = 0

// Limits of the kernel, which a damaged image must not exceed: MAX_INSNS_PER_PATH
// counts four instructions for every filter of a chain.
const (
	maxChainInsns   = (1 << 18) / sockFilterSize
	chainInsnsExtra = 4
)

// filterKey tells filters apart: the same program after other ancestors is
// another filter.
type filterKey struct {
	ancestor uint32
	flags    uint64
	program  string
}

// filterForest collects the filters of a tree. Nothing tells whether two
// threads have the same filter or just equal ones, so equal ones after the
// same ancestors are taken for the same: that is what inheritance and TSYNC
// make.
type filterForest struct {
	ids     map[filterKey]uint32
	filters []*taskpb.SeccompFilter
}

// add adds a chain, the oldest filter first, and returns the id of the youngest.
func (f *filterForest) add(chain []sdk.SeccompFilter) (id uint32) {
	if f.ids == nil {
		f.ids = map[filterKey]uint32{}
	}
	for _, c := range chain {
		key := filterKey{id, c.Flags, string(c.Program)}
		known := f.ids[key]
		if known == 0 {
			known = uint32(len(f.filters) + 1)
			f.ids[key] = known
			f.filters = append(f.filters, &taskpb.SeccompFilter{Id: known, Ancestor: id, Flags: c.Flags, Program: c.Program})
		}
		id = known
	}
	return id
}

// seccompRecord is the state of a thread as /proc and the tracer see it.
func (f *filterForest) seccompRecord(status *procfs.TaskStatus, chain []sdk.SeccompFilter) (*taskpb.Seccomp, error) {
	switch status.Seccomp {
	case unix.SECCOMP_MODE_DISABLED:
		return nil, nil
	case unix.SECCOMP_MODE_STRICT:
		return &taskpb.Seccomp{Mode: unix.SECCOMP_MODE_STRICT}, nil
	case unix.SECCOMP_MODE_FILTER:
	default:
		return nil, fmt.Errorf("seccomp mode %d: %w", status.Seccomp, sdk.ErrUnsupported)
	}
	// A kernel before 5.9 does not count them.
	if len(chain) == 0 || status.SeccompFilters > 0 && len(chain) != status.SeccompFilters {
		return nil, fmt.Errorf("%d seccomp filters, the tracer sees %d: %w", status.SeccompFilters, len(chain), sdk.ErrCorrupt)
	}
	return &taskpb.Seccomp{Mode: unix.SECCOMP_MODE_FILTER, Filter: f.add(chain)}, nil
}

// emit writes the records of all filters.
func (f *filterForest) emit(ctx context.Context, records sdk.Emitter) error {
	for _, filter := range f.filters {
		if err := records.Emit(ctx, kindSeccompFilter, seccompObject, filter); err != nil {
			return err
		}
	}
	return nil
}

// loadFilters reads the records of all filters, in the order of their ids.
func loadFilters(records sdk.Records) ([]*taskpb.SeccompFilter, error) {
	var filters []*taskpb.SeccompFilter
	for r, err := range records.Object(seccompObject) {
		if err != nil {
			return nil, err
		}
		if r.Kind != kindSeccompFilter {
			continue
		}
		f := &taskpb.SeccompFilter{}
		if err := r.Decode(f); err != nil {
			return nil, err
		}
		// An ancestor comes first, so a chain cannot be a circle.
		if int(f.GetId()) != len(filters)+1 || f.GetAncestor() >= f.GetId() {
			return nil, fmt.Errorf("seccomp filter %d after %d, ancestor %d: %w", f.GetId(), len(filters), f.GetAncestor(), sdk.ErrCorrupt)
		}
		// Others ask for more than a filter: for a listener, for example.
		if f.GetFlags()&^unix.SECCOMP_FILTER_FLAG_LOG != 0 {
			return nil, fmt.Errorf("seccomp filter %d: flags %#x: %w", f.GetId(), f.GetFlags(), sdk.ErrUnsupported)
		}
		n := len(f.GetProgram())
		if n == 0 || n%sockFilterSize != 0 || n/sockFilterSize > unix.BPF_MAXINSNS {
			return nil, fmt.Errorf("seccomp filter %d: program of %d bytes: %w", f.GetId(), n, sdk.ErrCorrupt)
		}
		filters = append(filters, f)
	}
	return filters, nil
}

// chainOf is the chain of a thread, the oldest filter first.
func chainOf(filters []*taskpb.SeccompFilter, s *taskpb.Seccomp) ([]*taskpb.SeccompFilter, error) {
	switch mode, id := s.GetMode(), s.GetFilter(); {
	case mode == unix.SECCOMP_MODE_FILTER && id > 0 && int(id) <= len(filters):
	case mode == unix.SECCOMP_MODE_STRICT && id == 0, s == nil:
		return nil, nil
	default:
		return nil, fmt.Errorf("seccomp mode %d with filter %d of %d: %w", mode, id, len(filters), sdk.ErrCorrupt)
	}
	var chain []*taskpb.SeccompFilter
	insns := 0
	for id := s.GetFilter(); id != 0; id = filters[id-1].GetAncestor() {
		f := filters[id-1]
		if insns += len(f.GetProgram())/sockFilterSize + chainInsnsExtra; insns > maxChainInsns+chainInsnsExtra {
			return nil, fmt.Errorf("seccomp filters of more than %d instructions: %w", maxChainInsns, sdk.ErrCorrupt)
		}
		chain = append(chain, f)
	}
	for i, j := 0, len(chain)-1; i < j; i, j = i+1, j-1 {
		chain[i], chain[j] = chain[j], chain[i]
	}
	return chain, nil
}

// installFilter adds a seccomp filter to the thread. The calls that follow are
// not filtered: the host has seccomp suspended until it lets the thread go.
//
// The kernel wants a structure that points to the program:
//
//	struct sock_fprog:   0 number of instructions (2)   8 address
//
// and only the task knows where the tape's data is: it makes the program its
// robust list (nobody looks at that but a thread that ends) and has the kernel
// store the address of that in the structure.
//
// SECCOMP_FILTER_FLAG_SPEC_ALLOW (since Linux 4.17) is always set: what a
// filter without it has switched off is carried as the thread's speculation
// controls, and cannot be told from the filter.
func installFilter(s *script, f *taskpb.SeccompFilter, flags uint64, robustList uint64) tape.Result {
	program, prog, size := s.Bytes(f.GetProgram()), s.Buffer(sockFprogSize), s.Buffer(8)
	binary.LittleEndian.PutUint16(s.Data[prog.Off:], uint16(len(f.GetProgram())/sockFilterSize))
	pointer := tape.Ref{Off: prog.Off + 8, Len: 8}
	s.do("address of a seccomp filter", unix.SYS_SET_ROBUST_LIST, program.Arg(), tape.Imm(robustListSize))
	s.do("address of a seccomp filter", unix.SYS_GET_ROBUST_LIST, tape.Imm(0), pointer.Arg(), size.Arg())
	s.do("robust list", unix.SYS_SET_ROBUST_LIST, tape.Imm(robustList), tape.Imm(robustListSize))
	flags |= f.GetFlags() | unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW
	return s.do("seccomp filter", unix.SYS_SECCOMP, tape.Imm(unix.SECCOMP_SET_MODE_FILTER), tape.Imm(flags), prog.Arg())
}

// sockFilterSize is sizeof(struct sock_filter), sockFprogSize that of struct
// sock_fprog.
const (
	sockFilterSize = 8
	sockFprogSize  = 16
)

// sealSeccomp puts the threads under seccomp, the oldest filters first, in as
// many steps as the longest chain has filters.
//
// It comes before the rights are given up: without no_new_privs a filter needs
// CAP_SYS_ADMIN, which the thread may have had when it installed it. No filter
// is in the way of what follows, for seccomp is suspended.
//
// What all threads of a process have in common the main thread installs for
// all of them (SECCOMP_FILTER_FLAG_TSYNC): for the kernel these are the same
// filters then, as a later TSYNC of the program demands. What only some
// threads have each installs for itself.
func sealSeccomp(ctx context.Context, host sdk.Host, saved []*savedProcess) error {
	depth := 0
	for _, p := range saved {
		for i := range p.threads {
			depth = max(depth, len(p.threads[i].filters))
		}
	}
	for n := range depth {
		err := eachThread(ctx, host, saved, func(s *script, p *savedProcess, t *savedThread) error {
			sealFilter(s, p, t, n)
			return nil
		})
		if err != nil {
			return err
		}
	}
	return eachThread(ctx, host, saved, func(s *script, _ *savedProcess, t *savedThread) error {
		if t.rec.GetSeccomp().GetMode() == unix.SECCOMP_MODE_STRICT {
			s.do("seccomp strict mode", unix.SYS_SECCOMP, tape.Imm(unix.SECCOMP_SET_MODE_STRICT), tape.Imm(0), tape.Imm(0))
		}
		return nil
	})
}

// sealFilter installs the n-th filter of a thread.
func sealFilter(s *script, p *savedProcess, t *savedThread, n int) {
	if n >= len(t.filters) {
		return
	}
	flags := uint64(0)
	if len(p.threads) > 1 && p.shareFilter(n) {
		if !p.leads(t) {
			return
		}
		flags = unix.SECCOMP_FILTER_FLAG_TSYNC
	}
	r := installFilter(s, t.filters[n], flags, t.rec.GetRobustList())
	s.check(func(o *tape.Outcome) error {
		// The id of a thread that has other filters is no errno.
		if v, err := o.Value(r); err != nil || v != 0 {
			return fmt.Errorf("seccomp filter: thread %d cannot be given it, %w: %w", v, err, sdk.ErrKernel)
		}
		return nil
	})
}

// shareFilter tells whether all threads have the same n-th filter. The filters
// before it are the same then, too.
func (p *savedProcess) shareFilter(n int) bool {
	for i := range p.threads {
		f := p.threads[i].filters
		if n >= len(f) || f[n] != p.threads[0].filters[n] {
			return false
		}
	}
	return true
}

// verifySeccomp compares what a thread has got with what it should have: to be
// filtered less would give rights away.
func verifySeccomp(status *procfs.TaskStatus, t *savedThread) error {
	if mode := int(t.rec.GetSeccomp().GetMode()); status.Seccomp != mode {
		return fmt.Errorf("seccomp mode is %d, not %d: %w", status.Seccomp, mode, sdk.ErrKernel)
	}
	if n := status.SeccompFilters; n > 0 && n != len(t.filters) { // not counted before 5.9
		return fmt.Errorf("%d seccomp filters, not %d: %w", n, len(t.filters), sdk.ErrKernel)
	}
	return nil
}
