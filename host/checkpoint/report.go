package checkpoint

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/firn-cr/firn/host/dispatch"
	"github.com/firn-cr/firn/host/failure"
	"github.com/firn-cr/firn/host/task"
	"github.com/firn-cr/firn/sdk"
)

// Report says what a checkpoint of a tree would do.
type Report struct {
	RootPID   int    `json:"root_pid"`
	Tasks     int    `json:"tasks"`
	Threads   int    `json:"threads"`
	Exact     bool   `json:"exact"` // the tree was frozen for it
	Verdict   string `json:"verdict"`
	Blockers  int    `json:"blockers"`
	NeedFlags int    `json:"need_flags"`
	Resources []Row  `json:"resources"`
}

// Row is one resource, or several alike, of a report.
type Row struct {
	Resource string `json:"resource"`
	Where    string `json:"where"`
	Plugin   string `json:"plugin"`
	Result   string `json:"result"`
	Level    string `json:"level"`
	// Why is the rule or claim by which the plugin has it; empty for several
	// resources in one row.
	Why   string `json:"why,omitempty"`
	level sdk.Level
}

var levelNames = map[sdk.Level]string{
	sdk.LevelOK: "ok", sdk.LevelNote: "note", sdk.LevelFlag: "flag", sdk.LevelBlock: "block",
}

// Check reports on a tree without changing it. With freeze the tree is stopped
// for a moment, and the answer is exact.
func Check(ctx context.Context, cfg Config, freeze bool) (_ *Report, err error) {
	f := &flow{cfg: cfg}
	if f.tracer, err = task.NewTracer(cfg.Log.Named("task")); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.tracer.Close()) }()
	if err := f.findRoot(); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.closePlugins(ctx, nil)) }()
	if err := f.startPlugins(ctx); err != nil {
		return nil, err
	}
	kind := checkRunning
	if !freeze {
		if err := f.survey(ctx); err != nil {
			return nil, err
		}
	} else {
		kind = checkFrozen
		if err := f.freeze(ctx); err != nil {
			return nil, fmt.Errorf("freeze: %w", err)
		}
		defer func() { err = errors.Join(err, f.release(ctx, nil)) }()
		if err := f.take(ctx, f.frozen.Processes, false); err != nil {
			return nil, err
		}
	}
	lines, err := f.plan.check(ctx, kind)
	if err != nil {
		return nil, err
	}
	lines = append(lines, f.plan.rightFindings()...)
	if !freeze {
		_, more, err := frozenGroups(f.plan.procs)
		if err != nil {
			return nil, err
		}
		lines = append(lines, more...)
	}
	return f.plan.report(lines, freeze), nil
}

func (p *plan) report(lines []failure.Line, exact bool) *Report {
	r := &Report{RootPID: int(p.procs[0].PID), Tasks: len(p.tree.Processes), Exact: exact, Verdict: "yes"}
	for i := range p.tree.Processes {
		r.Threads += len(p.tree.Processes[i].Threads)
	}
	findings := map[uint64][]failure.Line{}
	var rest []failure.Line
	for _, l := range lines {
		switch l.Level {
		case sdk.LevelFlag:
			r.NeedFlags++
		case sdk.LevelBlock:
			r.Blockers++
		}
		if l.Object >= firstObject {
			findings[l.Object] = append(findings[l.Object], l)
		} else {
			rest = append(rest, l)
		}
	}
	if r.NeedFlags+r.Blockers > 0 {
		r.Verdict = "no"
	}
	r.Resources = append(p.memoryRows(findings), p.fileRows(findings)...)
	for _, fs := range findings { // of objects that have no row of their own
		rest = append(rest, fs...)
	}
	for _, l := range rest {
		r.Resources = append(r.Resources, p.lineRow(l))
	}
	return r
}

// firstObject is above the numbers of tasks, which are objects too.
const firstObject = uint64(1) << 32

// memoryRows has one row per process and plugin for all mappings that are ok.
func (p *plan) memoryRows(findings map[uint64][]failure.Line) []Row {
	type key struct {
		task   sdk.TaskID
		plugin string
	}
	type sum struct{ bytes, count uint64 }
	sums := map[key]sum{}
	for name, resources := range p.assigned.ByPlugin {
		for _, r := range resources {
			if r.Kind == sdk.KindVMA && findings[r.Object] == nil {
				k := key{r.Task, name}
				sums[k] = sum{sums[k].bytes + r.VMA.Len(), sums[k].count + 1}
			}
		}
	}
	var rows []Row
	for i := range p.tree.Processes {
		proc := &p.tree.Processes[i]
		for name := range p.assigned.ByPlugin {
			if s, ok := sums[key{proc.ID, name}]; ok {
				rows = append(rows, Row{
					Resource: fmt.Sprintf("%d MiB in %d mappings", s.bytes>>20, s.count),
					Where:    p.where(proc.ID), Plugin: name, Result: "ok", Level: "ok",
				})
			}
		}
	}
	return rows
}

// fileRows has one row per open file and namespace, with what was found about
// it.
func (p *plan) fileRows(findings map[uint64][]failure.Line) []Row {
	owner := map[uint64]string{}
	for name, resources := range p.assigned.ByPlugin {
		for _, r := range resources {
			owner[r.Object] = name
		}
	}
	reasons := dispatch.NewReasons(p.claims, p.rules...)
	var rows []Row
	for _, r := range p.set.Resources {
		row := Row{Where: p.where(r.Task), Plugin: owner[r.Object], Result: "ok", Level: "ok"}
		switch r.Kind {
		case sdk.KindFile:
			row.Resource = r.File.Subject() + " " + r.File.Link
			if n := len(r.File.Refs); n > 1 {
				row.Resource += fmt.Sprintf(" (and %d more)", n-1)
			}
		case sdk.KindNamespace:
			row.Resource = fmt.Sprintf("%s namespace %d", r.Namespace.Name, r.Namespace.Ino)
		default:
			continue
		}
		row.Why = reasons.Of(&r)
		for _, l := range findings[r.Object] {
			row.add(l)
		}
		delete(findings, r.Object)
		rows = append(rows, row)
	}
	return rows
}

func (r *Row) add(l failure.Line) {
	text := l.Text
	if l.Help != "" {
		text += ": " + l.Help
	}
	switch l.Level {
	case sdk.LevelFlag:
		text = "FLAG " + text
	case sdk.LevelBlock:
		text = "BLOCK " + text
	}
	if r.level == sdk.LevelOK && (r.Result == "" || r.Result == "ok") {
		r.Result = text
	} else {
		r.Result += "; " + text
	}
	r.level = max(r.level, l.Level)
	r.Level = levelNames[r.level]
}

func (p *plan) lineRow(l failure.Line) Row {
	row := Row{Resource: l.Subject, Where: p.where(l.Task), Plugin: l.Plugin}
	row.add(l)
	return row
}

// where names a task: its number, its name if it is a process, and its number
// here if that is another one.
func (p *plan) where(id sdk.TaskID) string {
	if id == 0 {
		return ""
	}
	where := fmt.Sprint(id)
	if proc := p.tree.Process(id); proc != nil && proc.Comm != "" {
		where = fmt.Sprintf("%d %q", id, proc.Comm)
	}
	if pid := p.here(id); pid != 0 {
		where += fmt.Sprintf(" (%d here)", pid)
	}
	return where
}

// Summary is the headline of a report.
func (r *Report) Summary() string {
	if r.Verdict == "yes" {
		return "YES"
	}
	var parts []string
	if r.Blockers > 0 {
		parts = append(parts, plural(r.Blockers, "blocker"))
	}
	if r.NeedFlags > 0 {
		parts = append(parts, fmt.Sprintf("%d needs a flag", r.NeedFlags))
	}
	return "NO (" + strings.Join(parts, ", ") + ")"
}

func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
