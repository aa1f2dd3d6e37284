package procfs

import (
	"bytes"
	"fmt"
	"strconv"
)

// TaskStat is /proc/PID/stat, in the order of the file (proc_pid_stat(5)).
// Fields that the kernel keeps for compatibility only and always prints as 0
// are left out. Addresses are 0 for a reader without ptrace rights.
type TaskStat struct {
	PID  int
	Comm string
	// State is one of R S D Z T t X I.
	State               byte
	PPID, PGRP, Session int
	// TTY is the device number of the controlling terminal, 0 for none; see
	// [TaskStat.Terminal].
	TTY uint32
	// TPGID is the foreground process group of the terminal, -1 for none.
	TPGID int
	// Flags are the kernel's PF_ flags.
	Flags                              uint64
	MinFlt, CMinFlt, MajFlt, CMajFlt   uint64
	UTime, STime, CUTime, CSTime       uint64 // clock ticks
	Priority, Nice                     int
	NumThreads                         int
	StartTime                          uint64 // clock ticks after boot
	VSize                              uint64 // bytes
	RSS                                int64  // pages
	RSSLimit                           uint64 // bytes
	StartCode, EndCode, StartStack     uint64
	ESP, EIP                           uint64
	ExitSignal                         int
	Processor                          int
	RTPriority                         uint32
	Policy                             uint32
	BlkIODelay, GuestTime              uint64
	CGuestTime                         int64
	StartData, EndData, StartBrk       uint64
	ArgStart, ArgEnd, EnvStart, EnvEnd uint64
	// ExitCode is in the form of wait(2), 0 without ptrace rights.
	ExitCode int
}

// Stat reads /proc/PID/stat. PID may be the id of any thread; times and faults
// are those of its whole process in any case, which takes time in proportion
// to the number of threads. See [ThreadStat].
func Stat(pid int) (TaskStat, error) {
	return readAndParse(pid, "stat", ParseStat)
}

// ThreadStat reads /proc/PID/task/TID/stat.
func ThreadStat(pid, tid int) (TaskStat, error) {
	return readAndParse(pid, "task/"+strconv.Itoa(tid)+"/stat", ParseStat)
}

// ParseStat parses the content of /proc/PID/stat. The name of the command may
// contain anything, parentheses and newlines included.
func ParseStat(b []byte) (TaskStat, error) {
	open, end := bytes.IndexByte(b, '('), bytes.LastIndexByte(b, ')')
	if open < 2 || end < open || len(b) < end+4 {
		return TaskStat{}, malformed("stat: no command")
	}
	head := words{rest: b[:open]}
	s := TaskStat{PID: int(head.signed()), Comm: string(b[open+1 : end]), State: b[end+2]}
	w := words{rest: bytes.TrimSuffix(b[end+3:], []byte{'\n'}), bad: head.bad}
	s.ids(&w)
	s.times(&w)
	s.memory(&w)
	s.scheduling(&w)
	if w.bad {
		return TaskStat{}, malformed("stat %q", b)
	}
	return s, nil
}

func (s *TaskStat) ids(w *words) {
	s.PPID, s.PGRP, s.Session = int(w.signed()), int(w.signed()), int(w.signed())
	s.TTY, s.TPGID = uint32(w.signed()), int(w.signed())
	s.Flags = w.unsigned()
	s.MinFlt, s.CMinFlt = w.unsigned(), w.unsigned()
	s.MajFlt, s.CMajFlt = w.unsigned(), w.unsigned()
}

func (s *TaskStat) times(w *words) {
	s.UTime, s.STime = w.unsigned(), w.unsigned()
	s.CUTime, s.CSTime = uint64(w.signed()), uint64(w.signed())
	s.Priority, s.Nice = int(w.signed()), int(w.signed())
	s.NumThreads = int(w.signed())
	w.skip(1) // itrealvalue
	s.StartTime = w.unsigned()
}

func (s *TaskStat) memory(w *words) {
	s.VSize, s.RSS, s.RSSLimit = w.unsigned(), w.signed(), w.unsigned()
	s.StartCode, s.EndCode, s.StartStack = w.unsigned(), w.unsigned(), w.unsigned()
	s.ESP, s.EIP = w.unsigned(), w.unsigned()
	w.skip(7) // signal sets (status has all of them), wchan, nswap, cnswap
}

func (s *TaskStat) scheduling(w *words) {
	s.ExitSignal, s.Processor = int(w.signed()), int(w.signed())
	s.RTPriority, s.Policy = uint32(w.unsigned()), uint32(w.unsigned())
	s.BlkIODelay, s.GuestTime, s.CGuestTime = w.unsigned(), w.unsigned(), w.signed()
	s.StartData, s.EndData, s.StartBrk = w.unsigned(), w.unsigned(), w.unsigned()
	s.ArgStart, s.ArgEnd = w.unsigned(), w.unsigned()
	s.EnvStart, s.EnvEnd = w.unsigned(), w.unsigned()
	s.ExitCode = int(w.signed())
}

// Terminal names the controlling terminal as ps(1) does ("pts/3", "ttyS0", or
// "4:65" for what it does not know), and is empty without one.
func (s *TaskStat) Terminal() string {
	if s.TTY == 0 {
		return ""
	}
	// new_encode_dev: minor bits 0-7 and 20-31, major bits 8-19.
	major, minor := s.TTY>>8&0xfff, s.TTY&0xff|s.TTY>>12&0xfff00
	switch {
	case major >= 136 && major <= 143:
		return fmt.Sprintf("pts/%d", (major-136)<<8+minor)
	case major == 4 && minor < 64:
		return fmt.Sprintf("tty%d", minor)
	case major == 4:
		return fmt.Sprintf("ttyS%d", minor-64)
	}
	return fmt.Sprintf("%d:%d", major, minor)
}

// words takes a list of numbers apart that are separated by blanks. After the
// first one that is missing or no number bad is set and every answer is 0.
type words struct {
	rest []byte
	bad  bool
}

func (w *words) next() []byte {
	b := bytes.TrimLeft(w.rest, " \t")
	end := bytes.IndexAny(b, " \t")
	if end < 0 {
		end = len(b)
	}
	w.bad = w.bad || end == 0
	w.rest = b[end:]
	return b[:end]
}

func (w *words) more() bool { return len(bytes.TrimLeft(w.rest, " \t")) > 0 }

func (w *words) skip(n int) {
	for range n {
		w.next()
	}
}

func (w *words) unsigned() uint64 { return w.number(w.next(), 10) }

func (w *words) hex() uint64 { return w.number(w.next(), 16) }

func (w *words) signed() int64 {
	tok := w.next()
	if len(tok) > 0 && tok[0] == '-' {
		return -int64(w.number(tok[1:], 10))
	}
	return int64(w.number(tok, 10))
}

func (w *words) number(tok []byte, base uint64) uint64 {
	v, ok := parseUint(tok, base)
	if !ok || w.bad {
		w.bad = true
		return 0
	}
	return v
}
