package dispatch

import (
	"path"
	"strings"
)

// glob is a compiled path pattern: path.Match for every component, and "**"
// for any number of components.
type glob struct {
	parts   []part
	exact   bool // no wildcard at all
	letters int  // bytes that are no wildcard
}

type part struct {
	pattern string
	literal bool
	any     bool // "**"
}

const wildcards = `*?[\`

func newGlob(pattern string) glob {
	g := glob{exact: true}
	if pattern == "" {
		return g
	}
	for _, c := range strings.Split(strings.TrimPrefix(pattern, "/"), "/") {
		p := part{pattern: c, literal: !strings.ContainsAny(c, wildcards), any: c == "**"}
		g.exact = g.exact && p.literal
		if p.any && len(g.parts) > 0 && g.parts[len(g.parts)-1].any {
			continue // "**/**" is "**", and this bounds the search
		}
		for _, r := range c {
			if !strings.ContainsRune(wildcards+"]", r) {
				g.letters++
			}
		}
		g.parts = append(g.parts, p)
	}
	return g
}

// match tells whether the pattern matches the components of a path.
func (g *glob) match(names []string) bool { return matchParts(g.parts, names) }

// matchParts matches components one by one. At a "**" it tries to go on from
// every later component; only the last "**" is ever tried again, so the time is
// at most the product of the lengths.
func matchParts(parts []part, names []string) bool {
	var retryParts []part
	var retryNames []string
	for {
		switch {
		case len(parts) > 0 && parts[0].any:
			parts = parts[1:]
			retryParts, retryNames = parts, names
			continue
		case len(parts) > 0 && len(names) > 0 && parts[0].match(names[0]):
			parts, names = parts[1:], names[1:]
			continue
		case len(parts) == 0 && len(names) == 0:
			return true
		}
		if len(retryNames) == 0 {
			return false
		}
		retryNames = retryNames[1:]
		parts, names = retryParts, retryNames
	}
}

func (p *part) match(name string) bool {
	if p.literal {
		return p.pattern == name
	}
	ok, err := path.Match(p.pattern, name)
	return ok && err == nil
}
