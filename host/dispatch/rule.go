package dispatch

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/firn-cr/firn/host/failure"
	"github.com/firn-cr/firn/sdk"
)

// Rule gives resources to a plugin whatever the claims say. It is read from
// KIND:PATTERN=PLUGIN, such as "file:/data/*=mine".
type Rule struct {
	Kind sdk.Kind
	// Pattern is for the path of a file or mapping, as in claims; for what has
	// none, for all of what /proc/PID/fd shows ("anon_inode:*"), or for the name
	// of a namespace.
	Pattern string
	Plugin  string

	text string
	glob glob
}

// ruleKinds are the words for what a rule can be about.
var ruleKinds = map[string]sdk.Kind{"file": sdk.KindFile, "mapping": sdk.KindVMA, "namespace": sdk.KindNamespace}

// ParseRule reads a rule. The error is failure.ErrUsage.
func ParseRule(text string) (Rule, error) {
	at := strings.LastIndex(text, "=")
	kind, pattern, ok := strings.Cut(text[:max(at, 0)], ":")
	r := Rule{Kind: ruleKinds[kind], Pattern: pattern, text: text}
	if at >= 0 {
		r.Plugin = text[at+1:]
	}
	if _, err := path.Match(pattern, ""); !ok || err != nil || ruleKinds[kind] == 0 || pattern == "" || !namePattern.MatchString(r.Plugin) {
		return r, fmt.Errorf("%q: want file:PATTERN=PLUGIN, mapping:PATTERN=PLUGIN or namespace:NAME=PLUGIN: %w", text, failure.ErrUsage)
	}
	r.glob = newGlob(pattern)
	return r, nil
}

// matches tells whether the rule is about a resource.
func (r *Rule) matches(s *subject) bool {
	if r.Kind != s.Kind {
		return false
	}
	if strings.HasPrefix(r.Pattern, "/") {
		return s.path != nil && r.glob.match(s.path)
	}
	name := ""
	switch {
	case s.File != nil:
		name = s.File.Link
	case s.VMA != nil:
		name = s.VMA.Path
	case s.Namespace != nil:
		name = s.Namespace.Name
	}
	ok, err := path.Match(r.Pattern, name)
	// The brackets of anon_inode:[eventfd] are meant as they are, too.
	return err == nil && ok || r.Pattern == name
}

// Selection says which plugins may take part, and which take what.
type Selection struct {
	// Disabled are names of plugins that are not used.
	Disabled []string
	// Rules come before claims; the first one that matches counts.
	Rules []Rule
	// Trusted are names of plugins of third parties that get all rights of the host.
	Trusted []string
	// Debugged are names of plugins that wait for a debugger.
	Debugged []string
}

// Select takes the disabled plugins out of those that were found. Names that
// nobody has are an error.
func (s *Selection) Select(bins []Binary) ([]Binary, error) {
	has := func(name string) bool {
		return slices.ContainsFunc(bins, func(b Binary) bool { return b.Name == name })
	}
	for _, name := range s.Disabled {
		if !has(name) {
			return nil, fmt.Errorf("there is no plugin %q to disable: %w", name, failure.ErrUsage)
		}
	}
	bins = slices.DeleteFunc(slices.Clone(bins), func(b Binary) bool { return slices.Contains(s.Disabled, b.Name) })
	for _, r := range s.Rules {
		if !has(r.Plugin) {
			return nil, fmt.Errorf("%s: there is no plugin %q: %w", r.text, r.Plugin, failure.ErrUsage)
		}
	}
	if err := Debug(bins, s.Debugged); err != nil {
		return nil, err
	}
	return bins, Trust(bins, s.Trusted)
}

// ruleFor returns the rule that gives a resource to a plugin; nil if none does.
func ruleFor(rules []Rule, s *subject) *Rule {
	for i := range rules {
		if rules[i].matches(s) {
			return &rules[i]
		}
	}
	return nil
}
