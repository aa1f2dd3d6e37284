package mm

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/mm/mmpb"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/kern"
	"github.com/firn-cr/firn/sdk/tape"
)

// Large private memory is not read by the task itself but put into it by the
// plugin, through a userfaultfd that the task makes: UFFDIO_COPY makes a page
// and fills it in one go, so that it need not be cleared first, and several
// lanes can do that at the same time although the task has one thread.

const (
	// lanesMin is from how much memory on a process gets lanes.
	lanesMin = 16 << 20
	// laneMin is what a mapping must have to take part.
	laneMin = 1 << 20
	// laneBuffer is how much a lane reads at once: it stays in the cache until
	// it is copied.
	laneBuffer = 512 << 10
)

// haveLanes tells whether userfaultfd can be used.
var haveLanes = sync.OnceValue(kern.HaveUserfaultCopy)

// lanes is what one process has filled by the plugin.
type lanes struct {
	ranges []run
	loads  []load
	// made is the call that makes the userfaultfd, and in which tape.
	made   tape.Result
	inTape int
	// number is the descriptor in the task, fd the one in the plugin.
	number uint64
	fd     int
}

// chooseLanes takes the loads out of the task's work that lanes can do better.
// The kernel makes huge pages only for a task that touches its memory itself,
// so mappings that want them are left to the task.
func (b *builder) chooseLanes(filled []uint64) {
	if !haveLanes() {
		return
	}
	var ranges []run
	var total uint64
	for i, m := range b.sp.mappings {
		if m.Kind == mmpb.Kind_KIND_ANONYMOUS && filled[i] >= laneMin && !wantsHuge(m, b.sp.record) {
			ranges = append(ranges, run{m.Start, m.End})
			total += filled[i]
		}
	}
	if total < lanesMin {
		return
	}
	b.lanes = &lanes{ranges: ranges, fd: -1}
	var own []load
	for _, l := range b.loads {
		in, out := l.split(ranges)
		b.lanes.loads = append(b.lanes.loads, in...)
		own = append(own, out...)
	}
	b.loads = own
}

// makeLanes emits the call that makes the userfaultfd.
func (b *builder) makeLanes() {
	b.room(1, 0)
	b.lanes.inTape = len(b.tapes) - 1
	b.lanes.made = b.tape.Call(unix.SYS_USERFAULTFD, tape.Imm(unix.O_CLOEXEC|kern.UserfaultUserModeOnly))
}

// closeLanes emits the call that closes it.
func (b *builder) closeLanes() {
	b.room(1, 0)
	b.tape.Call(unix.SYS_CLOSE, tape.Imm(b.lanes.number))
}

// attach fetches the userfaultfd from the task and registers the memory. From
// now on the task must not touch it until detach.
func (l *lanes) attach(pid int, outcome *tape.Outcome) error {
	var err error
	if l.number, err = outcome.Value(l.made); err != nil {
		return fmt.Errorf("userfaultfd: %w", err)
	}
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return fmt.Errorf("pidfd: %w", err)
	}
	defer unix.Close(pidfd)
	if l.fd, err = unix.PidfdGetfd(pidfd, int(l.number), 0); err != nil {
		l.fd = -1
		return fmt.Errorf("fetch userfaultfd: %w", err)
	}
	if err := kern.UserfaultAPI(l.fd); err != nil {
		return fmt.Errorf("userfaultfd: %w", err)
	}
	for _, r := range l.ranges {
		if err := kern.UserfaultRegister(l.fd, r.start, r.len(), kern.UserfaultMissing); err != nil {
			return fmt.Errorf("register memory %x-%x with userfaultfd: %w", r.start, r.end, err)
		}
	}
	return nil
}

// detach makes the memory ordinary again.
func (l *lanes) detach() error {
	if l.fd < 0 {
		return nil
	}
	var errs []error
	for _, r := range l.ranges {
		if err := kern.UserfaultUnregister(l.fd, r.start, r.len()); err != nil {
			errs = append(errs, fmt.Errorf("unregister memory %x-%x from userfaultfd: %w", r.start, r.end, err))
		}
	}
	errs = append(errs, unix.Close(l.fd))
	l.fd = -1
	return errors.Join(errs...)
}

// laneJob is one load of one process.
type laneJob struct {
	b *builder
	load
}

// runLanes fills the memory of all processes that have lanes.
func runLanes(ctx context.Context, records sdk.Records, work []*builder) error {
	var jobs []laneJob
	for _, b := range work {
		for _, l := range b.lanes.loads {
			jobs = append(jobs, laneJob{b, l})
		}
	}
	buffers := make([][]byte, workers)
	return forEach(ctx, len(jobs), func(w, i int) error {
		if buffers[w] == nil {
			buffers[w] = make([]byte, laneBuffer)
		}
		if err := jobs[i].run(ctx, records, buffers[w]); err != nil {
			return fmt.Errorf("memory of task %d: %w", jobs[i].b.sp.task, err)
		}
		return nil
	})
}

// run reads the load and puts it into the process.
func (j *laneJob) run(ctx context.Context, records sdk.Records, buf []byte) error {
	off := j.off
	for _, group := range cutRuns(j.runs, laneBuffer) {
		src := buf[:runBytes(group)]
		if err := records.ReadBulk(j.bulk, src, off); err != nil {
			return err
		}
		off += int64(len(src))
		for _, r := range group {
			if err := j.copy(ctx, r.start, src[:r.len()]); err != nil {
				return fmt.Errorf("fill %x-%x: %w", r.start, r.end, err)
			}
			src = src[r.len():]
		}
	}
	return nil
}

func (j *laneJob) copy(ctx context.Context, dst uint64, src []byte) error {
	for len(src) > 0 {
		n, err := kern.UserfaultCopy(j.b.lanes.fd, dst, src)
		dst, src = dst+uint64(n), src[n:]
		if errors.Is(err, unix.EAGAIN) {
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
	}
	return nil
}
