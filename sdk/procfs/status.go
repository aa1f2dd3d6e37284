package procfs

import (
	"bytes"
	"strings"
)

// Indexes into [TaskStatus.UID] and [TaskStatus.GID].
const (
	IDReal = iota
	IDEffective
	IDSaved
	IDFileSystem
)

// TaskStatus is /proc/PID/status. A line that this kernel does not print
// leaves its field at zero, except where the field says otherwise.
type TaskStatus struct {
	// Name is the command's name with newlines and backslashes escaped; comm
	// has the true one.
	Name string
	// Umask is -1 if the task has no file system context any more (a zombie).
	Umask                            int
	State                            byte
	Tgid, Ngid, Pid, PPid, TracerPid int
	// UID and GID are the real, effective, saved and file system ids.
	UID, GID [4]uint32
	FDSize   int
	Groups   []uint32
	// NStgid, NSpid, NSpgid and NSsid are the ids in each PID namespace, from
	// the reader's to the innermost one.
	NStgid, NSpid, NSpgid, NSsid []int
	Kthread                      bool
	// VmLck to RssShmem are in bytes; HasMemory tells whether the
	// task has an address space at all.
	HasMemory                   bool
	VmSize, VmLck, VmPin        uint64
	VmRSS, VmSwap, HugetlbPages uint64
	RssAnon, RssShmem           uint64 // parts of VmRSS
	CoreDumping                 bool
	THPEnabled                  bool
	UntagMask                   uint64 // all ones where the line is missing
	Threads                     int
	SigQueued, SigQueueLimit    uint64
	SigPnd, ShdPnd              uint64 // bit n-1 for signal n, as the others
	SigBlk, SigIgn, SigCgt      uint64
	CapInh, CapPrm, CapEff      uint64
	CapBnd, CapAmb              uint64
	NoNewPrivs                  bool
	Seccomp                     int // SECCOMP_MODE_
	SeccompFilters              int
	SpeculationStoreBypass      string
	SpeculationIndirectBranch   string
	X86Features                 []string // "shstk", "wrss"
	X86FeaturesLocked           []string
	CpusAllowed                 string
	VoluntarySwitches           uint64
	InvoluntarySwitches         uint64
}

// Status reads /proc/PID/status. PID may be the id of any thread.
func Status(pid int) (TaskStatus, error) {
	return readAndParse(pid, "status", ParseStatus)
}

// OwnPid is the number by which the task knows itself: the one in its own PID
// namespace (NSpid, since Linux 4.1).
func (s *TaskStatus) OwnPid() int { return innermost(s.NSpid, s.Pid) }

// OwnTgid is the number by which the task knows its process.
func (s *TaskStatus) OwnTgid() int { return innermost(s.NStgid, s.Tgid) }

func innermost(ids []int, otherwise int) int {
	if len(ids) == 0 {
		return otherwise
	}
	return ids[len(ids)-1]
}

// ParseStatus parses the content of /proc/PID/status.
func ParseStatus(b []byte) (TaskStatus, error) {
	s := TaskStatus{Umask: -1, UntagMask: ^uint64(0)}
	seen := 0
	for len(b) > 0 {
		var line []byte
		line, b = cutLine(b)
		key, value, ok := bytes.Cut(line, []byte(":"))
		if !ok {
			return TaskStatus{}, malformed("status: line %q", line)
		}
		w := words{rest: value}
		s.line(string(key), &w)
		if w.bad {
			return TaskStatus{}, malformed("status: line %q", line)
		}
		if string(key) == "State" || string(key) == "Pid" || string(key) == "Uid" {
			seen++
		}
	}
	if seen != 3 {
		return TaskStatus{}, malformed("status: no state, id or owner")
	}
	return s, nil
}

func (s *TaskStatus) line(key string, w *words) {
	switch {
	case strings.HasPrefix(key, "Vm") || strings.HasPrefix(key, "Rss") || key == "HugetlbPages":
		s.memory(key, w)
	case strings.HasPrefix(key, "Cap"):
		s.capability(key, w)
	case strings.HasPrefix(key, "Sig") || key == "ShdPnd":
		s.signals(key, w)
	case strings.HasPrefix(key, "NS"):
		s.namespaces(key, w)
	default:
		s.identity(key, w)
		s.mode(key, w)
	}
}

func (s *TaskStatus) identity(key string, w *words) {
	switch key {
	case "Name":
		s.Name = string(bytes.TrimPrefix(w.rest, []byte{'\t'}))
	case "Umask":
		v, ok := parseUint(w.next(), 8)
		s.Umask, w.bad = int(v), w.bad || !ok
	case "State":
		if tok := w.next(); len(tok) == 1 {
			s.State = tok[0]
		} else {
			w.bad = true
		}
	case "Tgid":
		s.Tgid = int(w.unsigned())
	case "Ngid":
		s.Ngid = int(w.unsigned())
	case "Pid":
		s.Pid = int(w.unsigned())
	case "PPid":
		s.PPid = int(w.unsigned())
	case "TracerPid":
		s.TracerPid = int(w.unsigned())
	case "Uid":
		s.UID = w.ids()
	case "Gid":
		s.GID = w.ids()
	case "FDSize":
		s.FDSize = int(w.unsigned())
	case "Groups":
		for w.more() && !w.bad {
			s.Groups = append(s.Groups, uint32(w.unsigned()))
		}
	case "Threads":
		s.Threads = int(w.unsigned())
	}
}

func (s *TaskStatus) mode(key string, w *words) {
	switch key {
	case "Kthread":
		s.Kthread = w.unsigned() != 0
	case "CoreDumping":
		s.CoreDumping = w.unsigned() != 0
	case "THP_enabled":
		s.THPEnabled = w.unsigned() != 0
	case "untag_mask":
		tok, ok := bytes.CutPrefix(w.next(), []byte("0x"))
		s.UntagMask, w.bad = w.number(tok, 16), w.bad || !ok
	case "NoNewPrivs":
		s.NoNewPrivs = w.unsigned() != 0
	case "Seccomp":
		s.Seccomp = int(w.unsigned())
	case "Seccomp_filters":
		s.SeccompFilters = int(w.unsigned())
	case "Speculation_Store_Bypass":
		s.SpeculationStoreBypass = w.text()
	case "SpeculationIndirectBranch":
		s.SpeculationIndirectBranch = w.text()
	case "x86_Thread_features":
		s.X86Features = strings.Fields(w.text())
	case "x86_Thread_features_locked":
		s.X86FeaturesLocked = strings.Fields(w.text())
	case "Cpus_allowed":
		s.CpusAllowed = w.text()
	case "voluntary_ctxt_switches":
		s.VoluntarySwitches = w.unsigned()
	case "nonvoluntary_ctxt_switches":
		s.InvoluntarySwitches = w.unsigned()
	}
}

func (s *TaskStatus) memory(key string, w *words) {
	var field *uint64
	switch key {
	case "VmSize":
		field, s.HasMemory = &s.VmSize, true
	case "VmLck":
		field = &s.VmLck
	case "VmPin":
		field = &s.VmPin
	case "VmRSS":
		field = &s.VmRSS
	case "RssAnon":
		field = &s.RssAnon
	case "RssShmem":
		field = &s.RssShmem
	case "VmSwap":
		field = &s.VmSwap
	case "HugetlbPages":
		field = &s.HugetlbPages
	default:
		return
	}
	kib := w.unsigned()
	w.bad = w.bad || kib > 1<<54-1
	*field = kib << 10
}

func (s *TaskStatus) capability(key string, w *words) {
	set := map[string]*uint64{"CapInh": &s.CapInh, "CapPrm": &s.CapPrm,
		"CapEff": &s.CapEff, "CapBnd": &s.CapBnd, "CapAmb": &s.CapAmb}[key]
	if set != nil {
		*set = w.hex()
	}
}

func (s *TaskStatus) signals(key string, w *words) {
	if key == "SigQ" {
		used, limit, ok := bytes.Cut(w.next(), []byte("/"))
		s.SigQueued, s.SigQueueLimit = w.number(used, 10), w.number(limit, 10)
		w.bad = w.bad || !ok
		return
	}
	set := map[string]*uint64{"SigPnd": &s.SigPnd, "ShdPnd": &s.ShdPnd,
		"SigBlk": &s.SigBlk, "SigIgn": &s.SigIgn, "SigCgt": &s.SigCgt}[key]
	if set != nil {
		*set = w.hex()
	}
}

func (s *TaskStatus) namespaces(key string, w *words) {
	list := map[string]*[]int{"NStgid": &s.NStgid, "NSpid": &s.NSpid,
		"NSpgid": &s.NSpgid, "NSsid": &s.NSsid}[key]
	for list != nil && w.more() && !w.bad {
		*list = append(*list, int(w.unsigned()))
	}
}

// ids reads the four numbers of a Uid or Gid line.
func (w *words) ids() (ids [4]uint32) {
	for i := range ids {
		v := w.unsigned()
		w.bad = w.bad || v > 1<<32-1
		ids[i] = uint32(v)
	}
	return ids
}

// text is the rest of the line without the blanks around it.
func (w *words) text() string { return string(bytes.TrimSpace(w.rest)) }
