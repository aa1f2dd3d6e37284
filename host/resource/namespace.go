package resource

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"

	"github.com/firn-cr/firn/sdk"
)

// nsLink is one namespace of one process or thread.
type nsLink struct {
	name string
	ino  uint64
}

// nsNames are the links of /proc/PID/ns (namespaces(7)). The two "for_children"
// links matter on their own: they differ from pid and time after unshare(2).
var nsNames = []string{"cgroup", "ipc", "mnt", "net", "pid", "pid_for_children", "time", "time_for_children", "user", "uts"}

// own are the host's namespaces: what a tree shares with the host is left as it
// is and not reported.
var own = sync.OnceValues(func() (map[string]uint64, error) {
	links, err := readNS("/proc/self/ns", nsNames)
	m := map[string]uint64{}
	for _, l := range links {
		m[l.name] = l.ino
	}
	return m, err
})

func readNS(dir string, names []string) ([]nsLink, error) {
	var out []nsLink
	for _, name := range names {
		text, err := os.Readlink(dir + "/" + name)
		if errors.Is(err, os.ErrNotExist) {
			// A kernel without this kind of namespace, or pid_for_children
			// before the first child. A task that is gone shows at "mnt".
			if name == "mnt" {
				return nil, err
			}
			continue
		}
		if err != nil {
			return nil, err
		}
		ino, err := parseNS(text)
		if err != nil {
			return nil, err
		}
		out = append(out, nsLink{name, ino})
	}
	return out, nil
}

// parseNS reads "uts:[4026531838]".
func parseNS(text string) (uint64, error) {
	_, rest, ok := strings.Cut(text, ":[")
	num, found := strings.CutSuffix(rest, "]")
	if !ok || !found {
		return 0, fmt.Errorf("namespace link %q: %w", text, sdk.ErrCorrupt)
	}
	ino, err := strconv.ParseUint(num, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("namespace link %q: %w", text, sdk.ErrCorrupt)
	}
	return ino, nil
}

// readNamespaces reads those of the whole process. A thread that has left one
// is refused by the plugin that saves threads.
func (p *process) readNamespaces(tid int) error {
	links, err := readNS(fmt.Sprintf("/proc/%d/ns", tid), nsNames)
	if err != nil {
		return err
	}
	p.ns = links
	return nil
}

// mountNamespace is the inode of the process's mount namespace.
func (p *process) mountNamespace() uint64 {
	for _, l := range p.ns {
		if l.name == "mnt" {
			return l.ino
		}
	}
	return 0
}

// namespaces makes one resource of every namespace that differs from the
// host's own. What belongs to a user namespace that is not carried is a finding.
func namespaces(procs []*process, host Host, next func() uint64) ([]sdk.Resource, []sdk.Finding, error) {
	same, err := own()
	if err != nil {
		same = nil // then every namespace is reported: nothing is lost
	}
	index := map[nsLink]int{}
	var out []sdk.Resource
	var findings []sdk.Finding
	var errs []error
	for _, p := range procs {
		for _, l := range p.ns {
			if same[l.name] == l.ino || host.Carries(l.name, l.ino) {
				continue
			}
			i, ok := index[l]
			if !ok {
				i = len(out)
				index[l] = i
				owner, known, err := host.Owner(p.PID, l.name)
				if err != nil {
					errs = append(errs, fmt.Errorf("%s namespace of task %d: %w", l.name, p.PID, err))
				} else if !known {
					findings = append(findings, sdk.Finding{
						Level: sdk.LevelBlock, Task: p.ID, Subject: l.name + " namespace",
						Text: "belongs to a user namespace outside of firn's",
					})
				}
				out = append(out, sdk.Resource{
					Kind: sdk.KindNamespace, Object: next(), Task: p.ID,
					Namespace: &sdk.Namespace{Name: l.name, Ino: l.ino, Owner: owner},
				})
			}
			out[i].Namespace.Tasks = append(out[i].Namespace.Tasks, p.ID)
		}
	}
	return out, findings, errors.Join(errs...)
}
