package task

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/task/internal/clocks"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/procfs"
)

// examination is what is known of one process while it is looked at.
type examination struct {
	proc   *sdk.Process
	tree   *sdk.Tree
	frozen bool
	// preview tells that a frozen tree is going to be examined as well.
	preview bool
	label   string // the plugin's own security label
	ttys    *terminals
	// namespaces are those of the main thread, by threadNamespaces.
	namespaces []string
	// cgroups is what /proc/PID/cgroup says of the main thread.
	cgroups []byte
	// status is what was read of each thread.
	status []*procfs.TaskStatus
	// found has the findings about each thread. Those about the process are
	// with its main thread.
	found [][]sdk.Finding
}

// Check implements [sdk.Checker].
func (p *plugin) Check(ctx context.Context, req *sdk.CheckRequest) ([]sdk.Finding, error) {
	p.remember(nil)
	exams, err := examine(ctx, req)
	if err != nil {
		return nil, err
	}
	if req.Frozen {
		if err := checkTraced(ctx, req.Host, exams); err != nil {
			return nil, err
		}
		p.remember(statusOf(exams))
	}
	findings := clocks.Check(req.Session)
	for _, x := range exams {
		findings = append(findings, x.findings()...)
	}
	return findings, nil
}

// examine looks at all processes, then at all threads.
func examine(ctx context.Context, req *sdk.CheckRequest) ([]*examination, error) {
	var exams []*examination
	own := securityLabel(selfPID)
	ttys := findTerminals(req.Session)
	for _, p := range ownProcesses(req.Session) {
		exams = append(exams, &examination{proc: p, tree: req.Tree, frozen: req.Frozen, preview: req.Preview, label: own, ttys: ttys,
			status: make([]*procfs.TaskStatus, len(p.Threads)), found: make([][]sdk.Finding, len(p.Threads))})
	}
	err := inParallel(ctx, len(exams), func(i int) error { return exams[i].ended(exams[i].process(ctx)) })
	if err != nil {
		return nil, err
	}
	if err := adjustments(ctx, req.Host, exams); err != nil {
		return nil, err
	}
	threads := threadsOf(exams, func(x *examination) int { return len(x.proc.Threads) })
	err = inParallel(ctx, len(threads), func(i int) error {
		x := threads[i].process
		return x.ended(x.thread(threads[i].index))
	})
	for _, x := range exams {
		x.insideUserNamespace()
	}
	return exams, err
}

// statusOf is what was read of all threads.
func statusOf(exams []*examination) map[int]*procfs.TaskStatus {
	status := map[int]*procfs.TaskStatus{}
	for _, x := range exams {
		for i, t := range x.proc.Threads {
			status[t.TID] = x.status[i]
		}
	}
	return status
}

// ended passes an error on, but for that of a task that ended while the tree
// runs: it has nothing to report.
func (x *examination) ended(err error) error {
	if gone := errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH); gone && !x.frozen {
		return nil
	}
	if err != nil {
		return fmt.Errorf("check task %d: %w", x.proc.ID, err)
	}
	return nil
}

// block reports what cannot be carried of thread i.
func (x *examination) block(i int, subject, text, help string) {
	x.add(i, sdk.LevelBlock, subject, text, help)
}

// add reports a finding about thread i.
func (x *examination) add(i int, level sdk.Level, subject, text, help string) {
	x.found[i] = append(x.found[i], sdk.Finding{Level: level, Task: x.proc.Threads[i].ID,
		Subject: subject, Text: text, Help: help})
}

// note reports what is different or dangerous about thread i.
func (x *examination) note(i int, subject, text string) {
	x.found[i] = append(x.found[i], sdk.Finding{Level: sdk.LevelNote, Task: x.proc.Threads[i].ID, Subject: subject, Text: text})
}

// findings are those of all threads; what several threads have is told once.
func (x *examination) findings() []sdk.Finding {
	var findings []sdk.Finding
	seen := map[[2]string]bool{}
	for _, list := range x.found {
		for _, f := range list {
			if key := [2]string{f.Subject, f.Text}; !seen[key] {
				seen[key] = true
				findings = append(findings, f)
			}
		}
	}
	return findings
}

// process examines what belongs to the whole process.
func (x *examination) process(ctx context.Context) error {
	if len(x.proc.Threads) == 0 {
		return nil
	}
	pid := x.proc.PID
	stat, err := procfs.ThreadStat(pid, pid)
	if err != nil {
		return err
	}
	x.terminal(&stat)
	if elfClass(pid) == elfClass32 {
		x.block(0, "32-bit program", "compatibility mode cannot be carried", "")
	}
	if label := securityLabel(pid); label != x.label {
		x.block(0, "security label "+label, "is not the plugin's own "+x.label, "run firn under the same label")
	}
	if err := x.timers(); err != nil {
		return err
	}
	if err := x.ownNamespaces(); err != nil {
		return err
	}
	if x.cgroups, err = procfs.Read(pid, "cgroup"); err != nil {
		return err
	}
	return x.sharing(ctx)
}

// thread examines what belongs to one thread.
func (x *examination) thread(i int) error {
	tid := x.proc.Threads[i].TID
	status, err := procfs.Status(tid)
	if err != nil {
		return err
	}
	x.status[i] = &status
	x.seccompMode(i, status.Seccomp)
	if status.TracerPid != 0 && !x.frozen {
		x.block(i, "tracer", fmt.Sprintf("task %d traces it", status.TracerPid), "detach the debugger")
	}
	for _, feature := range status.X86Features {
		x.block(i, "shadow stack", feature+" cannot be carried", "")
	}
	if status.UntagMask != ^uint64(0) {
		x.block(i, "linear address masking", fmt.Sprintf("untag mask %#x cannot be carried", status.UntagMask), "")
	}
	if err := x.threadCgroups(i); err != nil {
		return err
	}
	if x.preview && i > 0 {
		return nil // what a thread seldom has for itself takes long to find out
	}
	if coreCookie(tid) != 0 {
		x.block(i, "core scheduling", "its cookie cannot be carried", "")
	}
	if err := x.threadNamespaces(i); err != nil {
		return err
	}
	return x.directories(i)
}

// directories examines root and current directory, once for all threads that
// share them with the main thread.
func (x *examination) directories(i int) error {
	tid := x.proc.Threads[i].TID
	if i > 0 {
		if shared, err := sharesFS(x.proc.PID, tid); err != nil || shared {
			return err
		}
	}
	if text := directoryFinding(tid, "cwd"); text != "" {
		x.block(i, "current directory", text, "")
	}
	if text := directoryFinding(tid, "root"); text != "" {
		x.block(i, "root directory", text, "")
	}
	return nil
}
