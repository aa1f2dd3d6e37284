package procfs

import (
	"bytes"

	"golang.org/x/sys/unix"
)

// NLimits is the number of resource limits that Linux has (RLIM_NLIMITS).
const NLimits = 16

// Limit is a pair of resource limits; unix.RLIM_INFINITY is no limit.
type Limit struct{ Soft, Hard uint64 }

// limitNames are the names that /proc/PID/limits prints, by resource.
var limitNames = [NLimits]string{
	unix.RLIMIT_CPU:        "Max cpu time",
	unix.RLIMIT_FSIZE:      "Max file size",
	unix.RLIMIT_DATA:       "Max data size",
	unix.RLIMIT_STACK:      "Max stack size",
	unix.RLIMIT_CORE:       "Max core file size",
	unix.RLIMIT_RSS:        "Max resident set",
	unix.RLIMIT_NPROC:      "Max processes",
	unix.RLIMIT_NOFILE:     "Max open files",
	unix.RLIMIT_MEMLOCK:    "Max locked memory",
	unix.RLIMIT_AS:         "Max address space",
	unix.RLIMIT_LOCKS:      "Max file locks",
	unix.RLIMIT_SIGPENDING: "Max pending signals",
	unix.RLIMIT_MSGQUEUE:   "Max msgqueue size",
	unix.RLIMIT_NICE:       "Max nice priority",
	unix.RLIMIT_RTPRIO:     "Max realtime priority",
	unix.RLIMIT_RTTIME:     "Max realtime timeout",
}

// Limits reads /proc/PID/limits: the limits by resource (RLIMIT_CPU and so
// on). Unlike prlimit(2) it needs no rights over the task.
func Limits(pid int) ([NLimits]Limit, error) {
	return readAndParse(pid, "limits", ParseLimits)
}

// ParseLimits parses the content of /proc/PID/limits. Every limit must be
// there once; limits that are not known are an error, for they would be lost.
func ParseLimits(b []byte) (limits [NLimits]Limit, err error) {
	_, b = cutLine(b)
	var seen [NLimits]bool
	for len(b) > 0 {
		var line []byte
		line, b = cutLine(b)
		resource, rest := limitName(line)
		if resource < 0 || seen[resource] {
			return limits, malformed("limits: line %q", line)
		}
		w := words{rest: rest}
		limits[resource] = Limit{Soft: w.limit(), Hard: w.limit()}
		seen[resource] = true
		if w.bad {
			return limits, malformed("limits: line %q", line)
		}
	}
	for i := range seen {
		if !seen[i] {
			return limits, malformed("limits: no %q", limitNames[i])
		}
	}
	return limits, nil
}

func limitName(line []byte) (resource int, rest []byte) {
	for i, name := range limitNames {
		if rest, ok := bytes.CutPrefix(line, []byte(name+" ")); ok {
			return i, rest
		}
	}
	return -1, nil
}

func (w *words) limit() uint64 {
	tok := w.next()
	if string(tok) == "unlimited" {
		return unix.RLIM_INFINITY
	}
	return w.number(tok, 10)
}
