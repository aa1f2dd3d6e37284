package task

import (
	"context"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/task/internal/cgroups"
	"github.com/firn-cr/firn/plugins/task/taskpb"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/procfs"
)

// restorer is what the records are compared with: what this machine has and
// what the host may do. The plugin is the host's child and has the same.
type restorer struct {
	machine
	rights   *taskpb.Credentials
	limits   [procfs.NLimits]procfs.Limit
	maxFiles uint64 // fs.nr_open
	oomScore int32
	login    uint32
	seccomp  int
	timerIDs bool
	cgroups  []*taskpb.Cgroup
	mounts   []procfs.Mount
	// groups are those of the image; manage tells that missing ones are made.
	groups map[cgroups.Key]*taskpb.CgroupDirectory
	manage bool
}

// imageCheck collects findings about the records of one process.
type imageCheck struct {
	*restorer
	p        *savedProcess
	findings []sdk.Finding
	seen     map[[2]string]bool
}

// CheckImage implements [sdk.ImageChecker].
func (*plugin) CheckImage(ctx context.Context, req *sdk.RestoreRequest) ([]sdk.Finding, error) {
	saved, err := load(req)
	if err != nil {
		return nil, err
	}
	findings, err := checkClocks(req)
	if err != nil {
		return nil, err
	}
	r, err := readRestorer()
	if err != nil {
		return nil, err
	}
	if err := r.readGroups(req); err != nil {
		return nil, err
	}
	checks := make([]*imageCheck, len(saved))
	err = inParallel(ctx, len(saved), func(i int) error {
		checks[i] = &imageCheck{restorer: r, p: saved[i], seen: map[[2]string]bool{}}
		checks[i].run()
		return nil
	})
	for i := 0; err == nil && i < len(checks); i++ {
		findings = append(findings, checks[i].findings...)
	}
	return findings, err
}

// readGroups reads what the image says of cgroups.
func (r *restorer) readGroups(req *sdk.RestoreRequest) error {
	dirs, err := loadCgroups(req.Records)
	r.groups, r.manage = map[cgroups.Key]*taskpb.CgroupDirectory{}, req.Enabled(manageCgroups)
	for _, d := range dirs {
		r.groups[cgroups.KeyOf(d.GetGroup())] = d
	}
	return err
}

func readRestorer() (*restorer, error) {
	m, err := readMachine()
	if err != nil {
		return nil, err
	}
	r := &restorer{machine: m, timerIDs: restoresTimerIDs()}
	status, err := procfs.Status(selfPID)
	if err != nil {
		return nil, err
	}
	r.rights, r.seccomp = credentialsOf(&status), status.Seccomp
	bits, err := unix.PrctlRetInt(unix.PR_GET_SECUREBITS, 0, 0, 0, 0)
	if err != nil {
		return nil, fmt.Errorf("read own securebits: %w", err)
	}
	r.rights.Securebits = uint32(bits)
	if r.limits, err = procfs.Limits(selfPID); err != nil {
		return nil, err
	}
	if r.cgroups, err = cgroups.Read(selfPID); err != nil {
		return nil, err
	}
	if r.mounts, err = procfs.Mounts(selfPID); err != nil {
		return nil, err
	}
	return r, r.readNumbers()
}

func (r *restorer) readNumbers() error {
	b, err := os.ReadFile("/proc/sys/fs/nr_open")
	if err != nil {
		return fmt.Errorf("read limit of open files: %w", err)
	}
	files, err := parseNumber("nr_open", b, 10)
	if err != nil {
		return err
	}
	oom, err := readNumber(selfPID, "oom_score_adj", 10)
	if err != nil {
		return err
	}
	login, err := readOptional(selfPID, "loginuid", 10, loginUnset)
	if err != nil {
		return err
	}
	r.maxFiles, r.oomScore, r.login = uint64(files), int32(oom), uint32(login)
	return nil
}

// may tells whether the restorer has a capability.
func (r *restorer) may(capability int) bool {
	return r.rights.GetCapEffective()&(1<<capability) != 0
}

// find reports something once per process.
func (c *imageCheck) find(level sdk.Level, task sdk.TaskID, subject, text, help string) {
	key := [2]string{subject, text}
	if !c.seen[key] {
		c.seen[key] = true
		c.findings = append(c.findings, sdk.Finding{Level: level, Task: task, Subject: subject, Text: text, Help: help})
	}
}

// need blocks unless the restorer has the capability.
func (c *imageCheck) need(task sdk.TaskID, capability int, name, subject, text string) {
	if !c.may(capability) {
		c.find(sdk.LevelBlock, task, subject, text+" needs "+name, "run firn with "+name)
	}
}

func (c *imageCheck) run() {
	c.checkLimits()
	c.checkTimers()
	c.checkProcess()
	for i := range c.p.threads {
		t := &c.p.threads[i]
		fs := t.rec.GetFs()
		if i == 0 {
			fs = c.p.rec.GetFs()
		}
		if fs != nil {
			c.checkDirectories(t, fs)
		}
		c.checkCredentials(t)
		c.checkScheduling(t)
		c.checkThread(t)
		c.checkSeccomp(t)
	}
	if c.p.main != nil {
		c.checkCredentials(c.p.main)
	}
}

func (c *imageCheck) checkLimits() {
	task, raise := c.p.proc.ID, c.may(unix.CAP_SYS_RESOURCE)
	for i, l := range c.p.rec.GetLimits() {
		if i >= procfs.NLimits {
			break
		}
		if hard := c.limits[i].Hard; l.GetHard() > hard && !raise {
			c.find(sdk.LevelBlock, task, limitName(i), fmt.Sprintf("hard limit %s is above the restorer's %s",
				limitText(l.GetHard()), limitText(hard)), "raise the hard limit of firn, or run it with CAP_SYS_RESOURCE")
		}
		if i == unix.RLIMIT_NOFILE && l.GetHard() > c.maxFiles {
			c.find(sdk.LevelBlock, task, limitName(i), fmt.Sprintf("hard limit %s is above fs.nr_open, %d",
				limitText(l.GetHard()), c.maxFiles), "raise the sysctl fs.nr_open")
		}
	}
}

func limitText(v uint64) string {
	if v == unix.RLIM_INFINITY {
		return "unlimited"
	}
	return fmt.Sprint(v)
}

func (c *imageCheck) checkTimers() {
	task := c.p.proc.ID
	for _, t := range c.p.rec.GetPosixTimers() {
		subject := fmt.Sprintf("timer %d", t.GetId())
		if !c.timerIDs && t.GetId() > maxTimerID {
			c.find(sdk.LevelBlock, task, subject, "this kernel creates timers in the order of their ids only",
				"use Linux 6.15 or later")
		}
		if t.GetClock() == unix.CLOCK_REALTIME_ALARM || t.GetClock() == unix.CLOCK_BOOTTIME_ALARM {
			c.need(task, unix.CAP_WAKE_ALARM, "CAP_WAKE_ALARM", subject, "a timer that wakes the machine")
		}
	}
}

func (c *imageCheck) checkProcess() {
	task, rec := c.p.proc.ID, c.p.rec
	if adj := rec.GetOomScoreAdj(); adj < c.oomScore && !c.may(unix.CAP_SYS_RESOURCE) && !lowersOOMScore(adj, c.oomScore) {
		c.find(sdk.LevelBlock, task, "OOM score", fmt.Sprintf("adjustment %d is below the restorer's %d", adj, c.oomScore),
			"run firn with CAP_SYS_RESOURCE")
	}
	login := rec.GetLoginuid()
	if login != loginUnset && login != c.login && c.login != loginUnset && !c.may(unix.CAP_AUDIT_CONTROL) {
		c.find(sdk.LevelNote, task, "loginuid", fmt.Sprintf("will be %d, not %d", c.login, login), "run firn with CAP_AUDIT_CONTROL")
	}
	if login == loginUnset && c.login != loginUnset {
		c.find(sdk.LevelNote, task, "loginuid", fmt.Sprintf("will be the restorer's, %d", c.login), "")
	}
	if rec.GetDumpable() > 1 {
		c.find(sdk.LevelNote, task, "dumpable", "will be 0, not 2 (core dumps for root only)", "")
	}
	c.checkCgroups()
}

// lowersOOMScore tries on the plugin itself whether the score can go that low:
// how low it may is not shown.
func lowersOOMScore(to, back int32) bool {
	if writeNumber(selfPID, "oom_score_adj", fmt.Sprint(to)) != nil {
		return false
	}
	return writeNumber(selfPID, "oom_score_adj", fmt.Sprint(back)) == nil
}
