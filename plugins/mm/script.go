package mm

import (
	"fmt"
	"strings"

	"github.com/firn-cr/firn/plugins/mm/mmpb"
	"github.com/firn-cr/firn/sdk/tape"
)

// Limits of one tape. They are below those of package tape, so that a sequence
// of calls that belong together always fits.
const (
	scriptCalls = tape.MaxEntries - 4096
	scriptData  = tape.MaxData / 2
)

// script is the work of one task: as many tapes as it takes, run in order.
type script struct {
	tapes []*tape.Tape
	tape  *tape.Tape // the last one
	// reads are the calls whose result must be a number of bytes.
	reads []read
	marks []mark
}

// mark is where the calls about a mapping start.
type mark struct {
	tape, call int
	m          *mmpb.Mapping
	path       string
}

// read is a call that reads from the image.
type read struct {
	tape int
	call tape.Result
	want uint64
}

func newScript() *script {
	s := &script{}
	s.split()
	return s
}

// split starts another tape.
func (s *script) split() {
	s.tape = &tape.Tape{}
	s.tapes = append(s.tapes, s.tape)
}

// room makes sure that a sequence of calls whose arguments refer to each other
// fits into one tape.
func (s *script) room(calls, data int) {
	if s.full(calls, data) {
		s.split()
	}
}

// full tells whether the last tape has no room for a sequence of calls.
func (s *script) full(calls, data int) bool {
	return len(s.tape.Calls)+calls > scriptCalls || len(s.tape.Data)+data > scriptData
}

// mark notes that the calls that follow are about a mapping of a file, or of
// none.
func (s *script) mark(m *mmpb.Mapping, path string) {
	s.marks = append(s.marks, mark{len(s.tapes) - 1, len(s.tape.Calls), m, path})
}

// about names the mapping that a call is about, if there is one.
func (s *script) about(tape, call int) string {
	name := ""
	for _, k := range s.marks {
		if k.tape > tape || k.tape == tape && k.call > call {
			break
		}
		name = ""
		if k.m != nil {
			name = strings.TrimSpace(fmt.Sprintf("mapping %x-%x %s", k.m.Start, k.m.End, k.path))
		}
	}
	return name
}
