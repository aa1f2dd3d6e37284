package procfs

import (
	"bytes"
	"strconv"
)

// Children reads /proc/PID/task/TID/children (CONFIG_PROC_CHILDREN, since Linux
// 3.5): the processes that a thread has created, and those that were left to it.
// The list is exact only while these do not run.
func Children(pid, tid int) ([]int, error) {
	return readAndParse(pid, "task/"+strconv.Itoa(tid)+"/children", ParseChildren)
}

// ParseChildren parses the content of a file of children: numbers apart by spaces.
func ParseChildren(b []byte) ([]int, error) {
	var out []int
	for _, word := range bytes.Fields(b) {
		pid, ok := parsePositive(word)
		if !ok {
			return nil, malformed("children: %q", word)
		}
		out = append(out, pid)
	}
	return out, nil
}
