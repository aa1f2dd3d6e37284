package task

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/task/taskpb"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/kern"
	"github.com/firn-cr/firn/sdk/tape"
)

// stackSize is the size of stack_t:
//
//	0 ss_sp   8 ss_flags (4 bytes)   16 ss_size
const stackSize = 24

// Flags of sigaltstack(2).
const (
	ssOnStack = 1
	ssDisable = 2
)

// robustListSize is sizeof(struct robust_list_head), the only size that
// set_robust_list(2) takes.
const robustListSize = 24

// askAddresses asks for the addresses that the kernel keeps of a thread. The
// alternate stack does not look used: the tape runs on a stack of its own.
func askAddresses(q *inquiry) {
	ref := q.Buffer(stackSize)
	q.Call(unix.SYS_SIGALTSTACK, tape.Imm(0), ref.Arg())
	q.then(func(of *asked, o *tape.Outcome) error {
		b, err := returned(o, ref)
		if err == nil {
			of.thread.SignalStack = decodeStack(b)
		}
		return err
	})
	q.prctlAt(unix.PR_GET_TID_ADDRESS, 8, func(of *asked, v uint64) { of.thread.ClearChildTid = v })
}

func decodeStack(b []byte) *taskpb.SignalStack {
	le := binary.LittleEndian
	flags := le.Uint32(b[8:]) &^ ssOnStack
	if flags&ssDisable != 0 {
		return nil
	}
	return &taskpb.SignalStack{Addr: le.Uint64(b), Flags: flags, Size: le.Uint64(b[16:])}
}

func encodeStack(s *taskpb.SignalStack) []byte {
	b := binary.LittleEndian.AppendUint64(make([]byte, 0, stackSize), s.GetAddr())
	b = binary.LittleEndian.AppendUint64(b, uint64(s.GetFlags()&^ssOnStack))
	return binary.LittleEndian.AppendUint64(b, s.GetSize())
}

// readRobustList reads the head of the list of robust futexes from outside.
func readRobustList(tid int, t *taskpb.Thread) error {
	head, _, err := kern.GetRobustList(tid)
	if err != nil {
		return fmt.Errorf("read robust list: %w", err)
	}
	t.RobustList = head
	return nil
}

// rseqRecord is the registration as the tracer sees it.
func rseqRecord(r *sdk.Rseq) *taskpb.Rseq {
	if r == nil {
		return nil
	}
	return &taskpb.Rseq{Addr: r.Addr, Size: r.Size, Signature: r.Signature, Flags: r.Flags}
}

// setAddresses gives the kernel the addresses again. A new thread has none of
// them, but for the address that clone(2) may have got. The kernel writes to
// the area of rseq(2), so memory must be there.
func setAddresses(s *script, t *taskpb.Thread) {
	if st := t.GetSignalStack(); st != nil {
		s.do("alternate signal stack", unix.SYS_SIGALTSTACK, s.Bytes(encodeStack(st)).Arg(), tape.Imm(0))
	}
	s.do("clear_child_tid address", unix.SYS_SET_TID_ADDRESS, tape.Imm(t.GetClearChildTid()))
	if head := t.GetRobustList(); head != 0 {
		s.do("robust list", unix.SYS_SET_ROBUST_LIST, tape.Imm(head), tape.Imm(robustListSize))
	}
	if r := t.GetRseq(); r != nil {
		s.do("rseq registration", unix.SYS_RSEQ, tape.Imm(r.GetAddr()), tape.Imm(r.GetSize()),
			tape.Imm(r.GetFlags()), tape.Imm(r.GetSignature()))
	}
}
