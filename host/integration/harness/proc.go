package harness

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Process is what /proc says of a process.
type Process struct {
	PID, Parent, Group, Session int
	Comm                        string
	// State is the letter of proc(5): R, S, D, T, t, Z.
	State string
	// Threads are the thread ids in ascending order.
	Threads []int
}

// ReadProcess reads one process. The error is os.ErrNotExist if it is gone.
func ReadProcess(pid int) (Process, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return Process{}, err
	}
	p := Process{PID: pid}
	open, end := bytes.IndexByte(stat, '('), bytes.LastIndexByte(stat, ')')
	if open < 0 || end < 0 {
		return p, fmt.Errorf("stat of %d: no name", pid)
	}
	p.Comm = string(stat[open+1 : end])
	fields := strings.Fields(string(stat[end+1:]))
	if len(fields) < 4 {
		return p, fmt.Errorf("stat of %d: %d fields", pid, len(fields))
	}
	p.State = fields[0]
	for i, to := range []*int{&p.Parent, &p.Group, &p.Session} {
		if *to, err = strconv.Atoi(fields[i+1]); err != nil {
			return p, fmt.Errorf("stat of %d: %w", pid, err)
		}
	}
	p.Threads = numbers(fmt.Sprintf("/proc/%d/task", pid))
	return p, nil
}

// numbers returns the entries of a directory that are numbers, sorted.
func numbers(dir string) []int {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	var all []int
	for _, e := range entries {
		if n, err := strconv.Atoi(e.Name()); err == nil {
			all = append(all, n)
		}
	}
	slices.Sort(all)
	return all
}

// Exists tells whether a process with this PID exists, zombies included.
func Exists(pid int) bool {
	_, err := os.Stat(fmt.Sprintf("/proc/%d", pid))
	return err == nil
}

// Marked returns the PIDs of all processes that carry a mark.
func Marked(mark string) []int {
	var found []int
	want := []byte(markVariable + "=" + mark)
	for _, pid := range numbers("/proc") {
		if slices.ContainsFunc(bytes.Split(environment(pid), []byte{0}), func(v []byte) bool { return bytes.Equal(v, want) }) {
			found = append(found, pid)
		}
	}
	return found
}

// environment is that of a process, also if its main thread has ended while
// others run.
func environment(pid int) []byte {
	env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	if err != nil || len(env) > 0 {
		return env
	}
	for _, tid := range numbers(fmt.Sprintf("/proc/%d/task", pid)) {
		if env, err = os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/environ", pid, tid)); err == nil && len(env) > 0 {
			break
		}
	}
	return env
}

// InSession returns the processes of a session.
func InSession(session int) []Process {
	var found []Process
	for _, pid := range numbers("/proc") {
		if p, err := ReadProcess(pid); err == nil && p.Session == session {
			found = append(found, p)
		}
	}
	return found
}

// Executing returns the PIDs of processes whose program lies in a directory.
func Executing(dir string) []int {
	var found []int
	for _, pid := range numbers("/proc") {
		exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
		if err == nil && filepath.Dir(strings.TrimSuffix(exe, " (deleted)")) == dir {
			found = append(found, pid)
		}
	}
	return found
}

// Traced tells whether somebody traces the main thread of a process.
func Traced(pid int) bool {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	return err == nil && !bytes.Contains(status, []byte("TracerPid:\t0\n")) && bytes.Contains(status, []byte("TracerPid:"))
}

// Disturbed describes every thread of a process that is stopped or traced.
func Disturbed(pid int) []string {
	var found []string
	for _, tid := range numbers(fmt.Sprintf("/proc/%d/task", pid)) {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/status", pid, tid))
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(status)) {
			name, value, _ := strings.Cut(line, ":")
			value = strings.TrimSpace(value)
			if name == "State" && (value[0] == 'T' || value[0] == 't') || name == "TracerPid" && value != "0" {
				found = append(found, fmt.Sprintf("task %d: %s %s", tid, name, value))
			}
		}
	}
	return found
}
