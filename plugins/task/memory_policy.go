package task

import (
	"bytes"
	"encoding/binary"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/task/taskpb"
	"github.com/firn-cr/firn/sdk/tape"
)

// maxNodes is the largest number of NUMA nodes that Linux can be built for.
const maxNodes = 1024

// askMemoryPolicy asks for the NUMA policy of a thread's future pages.
func askMemoryPolicy(q *inquiry) {
	mode, nodes := q.Buffer(4), q.Buffer(maxNodes/8)
	r := q.Try(unix.SYS_GET_MEMPOLICY, mode.Arg(), nodes.Arg(), tape.Imm(maxNodes))
	q.then(func(of *asked, o *tape.Outcome) error {
		if _, err := o.Value(r); err != nil {
			return nil // no NUMA
		}
		m, err := returned(o, mode)
		if err != nil {
			return err
		}
		mask, err := returned(o, nodes)
		if err != nil {
			return err
		}
		if v := binary.LittleEndian.Uint32(m); v != 0 {
			of.thread.MemoryPolicy = &taskpb.MemoryPolicy{Mode: v, Nodes: bytes.Clone(bytes.TrimRight(mask, "\x00"))}
		}
		return nil
	})
}

// setMemoryPolicy sets the policy, or the default one.
func setMemoryPolicy(s *script, t *taskpb.Thread) {
	p := t.GetMemoryPolicy()
	if p == nil {
		return
	}
	mask := make([]byte, maxNodes/8+8)
	copy(mask[:maxNodes/8], p.GetNodes())
	s.do("memory policy", unix.SYS_SET_MEMPOLICY, tape.Imm(p.GetMode()), s.Bytes(mask).Arg(), tape.Imm(maxNodes+1))
}
