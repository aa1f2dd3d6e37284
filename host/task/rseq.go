package task

import (
	"encoding/binary"
	"fmt"
	"os"

	"github.com/firn-cr/firn/sdk"
)

// Offsets in struct rseq and struct rseq_cs (linux/rseq.h).
const (
	rseqCSOffset   = 8
	csStart        = 8
	csPostCommit   = 16
	csAbort        = 24
	rseqCSLen      = 32
	longestSection = 1 << 30
)

// abortRseq moves a thread that was stopped inside a restartable sequence to
// the sequence's abort handler, as every preemption does (rseq(2)). The kernel
// would do it itself on the way back to user space; injected work is such a
// way, from an address outside the sequence, and makes the kernel forget that
// the thread was inside.
func abortRseq(th *Thread) error {
	if th.Regs.InSyscall() {
		return nil // system calls are not allowed in a sequence
	}
	conf, err := rseqOf(th.TID)
	if conf == nil || err != nil {
		return err
	}
	f, err := os.Open(fmt.Sprintf("/proc/%d/mem", th.TID))
	if err != nil {
		return err
	}
	defer f.Close()
	word := make([]byte, 8)
	if _, err := f.ReadAt(word, int64(conf.Addr)+rseqCSOffset); err != nil {
		return fmt.Errorf("read restartable sequence: %w", err)
	}
	addr := binary.LittleEndian.Uint64(word)
	if addr == 0 {
		return nil
	}
	cs := make([]byte, rseqCSLen)
	if _, err := f.ReadAt(cs, int64(addr)); err != nil {
		return fmt.Errorf("read restartable sequence at %#x: %w", addr, sdk.ErrUnsupported)
	}
	start := binary.LittleEndian.Uint64(cs[csStart:])
	length := binary.LittleEndian.Uint64(cs[csPostCommit:])
	if pc := th.Regs.PC(); length < longestSection && pc >= start && pc-start < length {
		th.Regs.SetPC(binary.LittleEndian.Uint64(cs[csAbort:]))
	}
	return nil
}
