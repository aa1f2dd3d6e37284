package dispatch

import (
	"fmt"
	"sort"
	"strings"

	"github.com/firn-cr/firn/host/failure"
	"github.com/firn-cr/firn/sdk"
)

// Order sorts plugins into levels by what they say they run after: those of a
// level may run at the same time, once those of all levels before have ended.
// Names of plugins that are not there are ignored. A cycle is an error that
// shows it.
func Order(descs []sdk.Description) ([][]string, error) {
	waits := make(map[string][]string, len(descs))
	for _, d := range descs {
		waits[d.Name] = nil
	}
	for _, d := range descs {
		for _, a := range d.After {
			if _, ok := waits[a]; ok {
				waits[d.Name] = append(waits[d.Name], a)
			}
		}
	}
	level := make(map[string]int, len(descs))
	var path []string
	var visit func(name string) error
	visit = func(name string) error {
		if l, ok := level[name]; ok && l >= 0 {
			return nil
		} else if ok {
			return cycleError(path, name)
		}
		level[name] = -1
		path = append(path, name)
		top := 0
		for _, w := range waits[name] {
			if err := visit(w); err != nil {
				return err
			}
			top = max(top, level[w]+1)
		}
		path = path[:len(path)-1]
		level[name] = top
		return nil
	}
	var out [][]string
	for _, d := range descs {
		if err := visit(d.Name); err != nil {
			return nil, err
		}
	}
	for name, l := range level {
		for len(out) <= l {
			out = append(out, nil)
		}
		out[l] = append(out[l], name)
	}
	for _, names := range out {
		sort.Strings(names)
	}
	return out, nil
}

// cycleError shows the part of path that begins and ends with name.
func cycleError(path []string, name string) error {
	for i, p := range path {
		if p == name {
			path = path[i:]
			break
		}
	}
	return fmt.Errorf("plugins wait for each other: %s after %s: %w",
		strings.Join(path, " after "), name, failure.ErrPlugin)
}
