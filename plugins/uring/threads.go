package uring

import (
	"context"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/tape"
)

// registeredMax is IO_RINGFD_REG_MAX.
const registeredMax = 16

// registeredRings reports threads that reach rings without descriptors
// (IORING_REGISTER_RING_FDS).
func (s *survey) registeredRings(ctx context.Context) error {
	tids, about, err := s.askThreads(ctx)
	for i, tid := range tids {
		s.report.Block(about[i], fmt.Sprintf("io_uring: thread %d has registered it (IORING_REGISTER_RING_FDS)", tid), "")
	}
	return err
}

// askThreads asks the threads of all processes that have a ring for each number that
// a registered one can have. It returns those that have one, with a ring of theirs.
func (s *survey) askThreads(ctx context.Context) (tids []int, about []*sdk.Resource, err error) {
	rings := map[sdk.TaskID]*sdk.Resource{}
	for _, r := range s.files {
		for _, ref := range r.File.Refs {
			rings[ref.Task] = r
		}
	}
	t := &tape.Tape{}
	var calls []tape.Result
	for n := range registeredMax {
		calls = append(calls, t.Try(unix.SYS_IO_URING_ENTER, tape.Imm(n), tape.Imm(0), tape.Imm(0),
			tape.Imm(enterRegisteredRing), tape.Imm(0), tape.Imm(0)))
	}
	var runs []tape.Run
	var of []*sdk.Resource
	for id, r := range rings {
		if p := s.sess.Tree.Process(id); p != nil {
			for _, tid := range p.TIDs() {
				runs, of = append(runs, tape.Run{TID: tid, Tape: t}), append(of, r)
			}
		}
	}
	if len(runs) == 0 {
		return nil, nil, nil
	}
	outcomes, err := s.sess.Host.RunTapes(ctx, runs)
	if err != nil {
		return nil, nil, fmt.Errorf("ask tasks about their rings: %w", err)
	}
	for i := range outcomes {
		if err := outcomes[i].Err; err != nil {
			return nil, nil, fmt.Errorf("ask task %d about its rings: %w", runs[i].TID, err)
		}
		for _, c := range calls {
			if _, err := outcomes[i].Value(c); err == nil {
				tids, about = append(tids, runs[i].TID), append(about, of[i])
				break
			}
		}
	}
	return tids, about, nil
}
