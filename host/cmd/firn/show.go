package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/firn-cr/firn/host/image"
	"github.com/firn-cr/firn/host/image/imagepb"
	"github.com/firn-cr/firn/host/internal/ui"
	"github.com/firn-cr/firn/sdk"
)

func newShow(g *global) *cobra.Command {
	var records string
	cmd := &cobra.Command{
		Use:   "show IMAGE",
		Short: "Show what an image holds",
		Long: `Show prints a summary, the process tree, the open files and sockets, and how many
records each plugin wrote. --records prints the records themselves, of all
plugins or of one, also of a plugin that is not installed: the image describes
them.`,
		Example: "  firn show app.firn\n  firn show app.firn --records=mm     # the memory map, among others\n  firn show app.firn --json",
		Args:    oneArg("IMAGE"),
		RunE: func(_ *cobra.Command, args []string) error {
			if err := show(os.Stdout, g, args[0], records); err != nil {
				return &commandError{"show", err}
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&records, "records", "", "print the records of this plugin (without a name: of all)")
	cmd.Flags().Lookup("records").NoOptDefVal = "all"
	return cmd
}

// shown is the JSON form.
type shown struct {
	Image    string            `json:"image"`
	Created  time.Time         `json:"created"`
	Firn     string            `json:"firn_version"`
	Arch     string            `json:"arch"`
	Kernel   string            `json:"kernel"`
	Mode     string            `json:"mode"`
	RootPID  int               `json:"root_pid"`
	Bytes    int64             `json:"bytes_image"`
	Stored   int64             `json:"bytes_stored,omitempty"`
	Parent   string            `json:"parent,omitempty"`
	Plugins  []shownPlugin     `json:"plugins"`
	Tree     []shownProcess    `json:"tree"`
	Files    []shownFile       `json:"files"`
	NS       []shownNamespace  `json:"namespaces"`
	PIDNS    []shownPIDs       `json:"pid_namespaces,omitempty"`
	Contents []json.RawMessage `json:"records,omitempty"`
}

type shownPlugin struct {
	Name    string         `json:"name"`
	Version string         `json:"version"`
	Records int            `json:"records"`
	Bulk    int64          `json:"bytes_bulk"`
	Types   map[string]int `json:"record_types"`
}

type shownProcess struct {
	PID     int    `json:"pid"`
	Parent  int    `json:"parent"`
	PGID    int    `json:"pgid"`
	SID     int    `json:"sid"`
	Comm    string `json:"comm"`
	State   string `json:"state"`
	Threads []int  `json:"threads"`
	// In is the index of its PID namespace, Inner its numbers in the namespaces
	// below the first one.
	In    int   `json:"pid_namespace"`
	Inner []int `json:"inner_pids,omitempty"`
}

type shownFile struct {
	Object uint64     `json:"object"`
	Plugin string     `json:"plugin"`
	Type   string     `json:"type"`
	Link   string     `json:"link"`
	Offset int64      `json:"offset"`
	Flags  string     `json:"flags"`
	FDs    []shownRef `json:"fds"`
	// Held are other places where the file is: mappings, queues of sockets.
	Held []shownHolder `json:"held,omitempty"`
}

type shownHolder struct {
	PID     int    `json:"pid"` // a process that has the holder
	Plugin  string `json:"plugin"`
	Subject string `json:"subject"`
}

type shownRef struct {
	PID     int  `json:"pid"`
	FD      int  `json:"fd"`
	Cloexec bool `json:"cloexec"`
}

type shownNamespace struct {
	Name   string `json:"name"`
	Plugin string `json:"plugin"`
	PIDs   []int  `json:"pids"`
}

func show(w io.Writer, g *global, path, records string) (err error) {
	img, err := image.Glance(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, img.Close()) }()
	host, err := img.HostRecords()
	if err != nil {
		return err
	}
	s := summary(img, host)
	if err := countRecords(img, &s, records); err != nil {
		return err
	}
	if g.json {
		return ui.JSON(w, s)
	}
	return s.print(w)
}

func summary(img *image.Image, host *image.HostRecords) shown {
	m := img.Manifest()
	s := shown{
		Image: img.Path(), Created: time.Unix(0, m.CreatedUnixNano), Firn: m.FirnVersion, Arch: m.Arch,
		Kernel: m.KernelRelease, Mode: m.Mode, RootPID: int(m.RootPid), Bytes: img.Size(), Stored: img.Stored(), Parent: img.Parent(),
	}
	for _, p := range host.Tree.Processes {
		s.Tree = append(s.Tree, shownProcess{
			PID: int(p.Id), Parent: int(p.Parent), PGID: int(p.Pgid), SID: int(p.Sid), Comm: string(p.Comm),
			State: stateName(p), Threads: ints(p.Threads),
			In: host.PIDs.Of(sdk.TaskID(p.Id)), Inner: innerPIDs(host.PIDs, sdk.TaskID(p.Id)),
		})
	}
	s.PIDNS = shownPIDNamespaces(host.PIDs)
	for _, o := range host.Objects {
		switch r := o.Resource; r.Kind {
		case sdk.KindFile:
			f := shownFile{Object: r.Object, Plugin: o.Plugin, Type: string(r.File.Type), Link: r.File.Link,
				Offset: r.File.Offset, Flags: fmt.Sprintf("%#o", r.File.Flags)}
			for _, ref := range r.File.Refs {
				f.FDs = append(f.FDs, shownRef{int(ref.Task), ref.FD, ref.Cloexec})
			}
			for _, h := range r.File.Holders {
				f.Held = append(f.Held, shownHolder{int(r.Task), h.Plugin, h.Subject})
			}
			s.Files = append(s.Files, f)
		case sdk.KindNamespace:
			s.NS = append(s.NS, shownNamespace{r.Namespace.Name, o.Plugin, ints(r.Namespace.Tasks)})
		}
	}
	return s
}

func ints[T ~uint32](ids []T) []int {
	out := make([]int, len(ids))
	for i, id := range ids {
		out[i] = int(id)
	}
	return out
}

func stateName(p *imagepb.HostProcess) string {
	switch p.State {
	case imagepb.State_STATE_STOPPED:
		return fmt.Sprintf("stopped by signal %d", p.StopSignal)
	case imagepb.State_STATE_ZOMBIE:
		return "zombie"
	}
	return "running"
}

// countRecords counts every plugin's records by type, and collects the
// contents of those that were asked for.
func countRecords(img *image.Image, s *shown, which string) error {
	versions := map[string]string{image.HostStream: img.Manifest().FirnVersion}
	for _, p := range img.Manifest().Plugins {
		versions[p.Name] = p.Version
	}
	if which != "" && which != "all" && !slices.Contains(img.Streams(), which) {
		return fmt.Errorf("plugin %s wrote nothing; the image has records of %s", which, strings.Join(img.Streams(), ", "))
	}
	totals := img.Totals()
	for _, name := range img.Streams() {
		d, err := img.Descriptions(name)
		if err != nil {
			return err
		}
		p := shownPlugin{Name: name, Version: versions[name], Bulk: int64(totals.Streams[name].BulkBytes), Types: map[string]int{}}
		for r, err := range img.Records(name) {
			if err != nil {
				return err
			}
			p.Records++
			if err := p.add(d, r, s, which == "all" || which == name); err != nil {
				return err
			}
		}
		s.Plugins = append(s.Plugins, p)
	}
	return nil
}

func (p *shownPlugin) add(d *image.Descriptions, r sdk.Record, s *shown, keep bool) error {
	if !keep {
		p.Types[d.Name(r.Kind)]++
		return nil
	}
	name, text, err := d.Describe(r)
	if err != nil {
		return err
	}
	p.Types[name]++
	line, err := json.Marshal(struct {
		Plugin string          `json:"plugin"`
		Type   string          `json:"type"`
		Object uint64          `json:"object"`
		Data   json.RawMessage `json:"data"`
	}{p.Name, name, r.Object, text})
	if err != nil {
		return err
	}
	s.Contents = append(s.Contents, line)
	return nil
}

func (s *shown) print(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	size := ui.Size(s.Bytes)
	if s.Stored != 0 {
		size += " (stored: " + ui.Size(s.Stored) + ")"
	}
	fmt.Fprintf(t, "Image\t%s, %s, %s\n", s.Image, size, s.Created.Format(time.RFC3339))
	if s.Parent != "" {
		fmt.Fprintf(t, "Parent\t%s\n", s.Parent)
	}
	fmt.Fprintf(t, "Taken by\tfirn %s on Linux %s %s, mode %s\n", s.Firn, s.Kernel, s.Arch, s.Mode)
	fmt.Fprintf(t, "Root\t%d\n\n", s.RootPID)
	fmt.Fprintln(t, "PID\tPARENT\tGROUP\tSESSION\tTHREADS\tSTATE\tNAME")
	for _, p := range s.Tree {
		fmt.Fprintf(t, "%s\t%d\t%d\t%d\t%d\t%s\t%s\n", p.numbers(), p.Parent, p.PGID, p.SID, len(p.Threads), p.State, p.Comm)
	}
	for i := range s.PIDNS {
		fmt.Fprintf(t, "\nPID namespace %d\t%s\n", i, s.PIDNS[i].String())
	}
	if len(s.Files) > 0 {
		fmt.Fprintln(t, "\nFILE\tTYPE\tPLUGIN\tOFFSET\tHELD AS")
	}
	for _, f := range s.Files {
		fmt.Fprintf(t, "%s\t%s\t%s\t%d\t%s\n", f.Link, f.Type, f.Plugin, f.Offset, heldAs(f.FDs, f.Held))
	}
	for _, n := range s.NS {
		fmt.Fprintf(t, "\nNamespace %s\tplugin %s\tof %v\n", n.Name, n.Plugin, n.PIDs)
	}
	fmt.Fprintln(t, "\nPLUGIN\tVERSION\tRECORDS\tBULK DATA\tTYPES")
	for _, p := range s.Plugins {
		fmt.Fprintf(t, "%s\t%s\t%d\t%s\t%s\n", p.Name, p.Version, p.Records, ui.Size(p.Bulk), typeCounts(p.Types))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, line := range s.Contents {
		if _, err := fmt.Fprintf(w, "%s\n", line); err != nil {
			return err
		}
	}
	return nil
}

func heldAs(refs []shownRef, holders []shownHolder) string {
	out := make([]string, len(refs))
	for i, r := range refs {
		out[i] = fmt.Sprintf("%d:%d", r.PID, r.FD)
	}
	for _, h := range holders {
		out = append(out, fmt.Sprintf("%d:(%s)", h.PID, h.Subject))
	}
	return strings.Join(out, " ")
}

func typeCounts(types map[string]int) string {
	var out []string
	for _, name := range slices.Sorted(maps.Keys(types)) {
		out = append(out, fmt.Sprintf("%s %d", name, types[name]))
	}
	return strings.Join(out, ", ")
}
