package dispatch

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/host/failure"
	"github.com/firn-cr/firn/sdk"
)

// Assignment says which plugin has which resource.
type Assignment struct {
	// ByPlugin has the resources that each plugin owns, in the order given.
	ByPlugin map[string][]sdk.Resource
	// Attended has the resources of others that each plugin attends.
	Attended map[string][]sdk.Resource
	// Unclaimed are those that no plugin claims.
	Unclaimed []sdk.Resource
}

// Has tells whether a plugin owns or attends anything.
func (a *Assignment) Has(plugin string) bool {
	return len(a.ByPlugin[plugin]) > 0 || len(a.Attended[plugin]) > 0
}

// Add adds another assignment, of other resources.
func (a *Assignment) Add(more Assignment) {
	for name, rs := range more.ByPlugin {
		a.ByPlugin[name] = append(a.ByPlugin[name], rs...)
	}
	for name, rs := range more.Attended {
		a.Attended[name] = append(a.Attended[name], rs...)
	}
	a.Unclaimed = append(a.Unclaimed, more.Unclaimed...)
}

// TieError tells that two plugins claim a resource and neither claim is more
// specific. It is failure.ErrPlugin.
type TieError struct {
	Plugins  [2]string
	Resource sdk.Resource
}

// Error implements error.
func (e *TieError) Error() string {
	return fmt.Sprintf("plugins %s and %s both claim %s: remove one of them, or make its claim more specific",
		e.Plugins[0], e.Plugins[1], Label(e.Resource))
}

// Is makes errors.Is(e, failure.ErrPlugin) true.
func (e *TieError) Is(target error) bool { return target == failure.ErrPlugin }

// Match gives every resource to the plugin that a rule names, or else to the one
// with the most specific claim. What
// is specific is in docs/plugin-protocol.md and in rank. A tie between two
// plugins is a *[TieError]; the first one found is returned.
func Match(descs []sdk.Description, resources []sdk.Resource, rules ...Rule) (Assignment, error) {
	owners, attenders := compile(descs, false), compile(descs, true)
	a := Assignment{ByPlugin: map[string][]sdk.Resource{}, Attended: map[string][]sdk.Resource{}}
	for _, r := range resources {
		s := newSubject(&r)
		owner := ""
		if rule := ruleFor(rules, s); rule != nil {
			owner = rule.Plugin
		} else if c, err := best(owners[r.Kind], s); err != nil {
			return a, err
		} else if c != nil {
			owner = c.plugin
		}
		if owner == "" {
			a.Unclaimed = append(a.Unclaimed, r)
		} else {
			a.ByPlugin[owner] = append(a.ByPlugin[owner], r)
		}
		attend(attenders[r.Kind], s, owner, a.Attended)
	}
	return a, nil
}

// attend adds a resource to those of the plugins that attend it and do not own it.
func attend(claims []claim, s *subject, owner string, to map[string][]sdk.Resource) {
	last := ""
	for i := range claims {
		c := &claims[i]
		// The claims of a plugin follow each other.
		if c.plugin != owner && c.plugin != last && c.matches(s) {
			to[c.plugin] = append(to[c.plugin], *s.Resource)
			last = c.plugin
		}
	}
}

// Owned are resources whose plugin is known.
type Owned struct {
	Plugin   string
	Resource sdk.Resource
}

// Attended returns the resources that plugins attend and that belong to others,
// by plugin.
func (s *Set) Attended(resources []Owned) map[string][]sdk.Resource {
	attenders := compile(s.Descriptions(), true)
	out := map[string][]sdk.Resource{}
	for i := range resources {
		r := &resources[i]
		attend(attenders[r.Resource.Kind], newSubject(&r.Resource), r.Plugin, out)
	}
	return out
}

// claim is a claim of a plugin, ready to be matched.
type claim struct {
	sdk.Claim
	plugin string
	glob   glob
	rank   rank
}

// compile sorts the claims, or the attended ones, by kind.
func compile(descs []sdk.Description, attends bool) map[sdk.Kind][]claim {
	out := map[sdk.Kind][]claim{}
	for _, d := range descs {
		claims := d.Claims
		if attends {
			claims = d.Attends
		}
		for _, c := range claims {
			g := newGlob(c.Path)
			out[c.Kind] = append(out[c.Kind], claim{Claim: c, plugin: d.Name, glob: g, rank: rankOf(&c, g)})
		}
	}
	return out
}

// subject is a resource with its path taken apart.
type subject struct {
	*sdk.Resource
	path []string // components; nil if there is no path
}

func newSubject(r *sdk.Resource) *subject {
	s := &subject{Resource: r}
	var path string
	switch {
	case r.File != nil:
		path = r.File.Link
	case r.VMA != nil:
		path = r.VMA.Path
	}
	if strings.HasPrefix(path, "/") {
		s.path = strings.Split(strings.TrimSuffix(path[1:], " (deleted)"), "/")
	}
	return s
}

// best returns the most specific claim that matches a resource; nil if there is
// none.
func best(claims []claim, s *subject) (*claim, error) {
	var top, rival *claim
	for i := range claims {
		c := &claims[i]
		if !c.matches(s) {
			continue
		}
		switch {
		case top == nil || top.rank.less(c.rank):
			top, rival = c, nil
		case c.plugin != top.plugin && !c.rank.less(top.rank):
			rival = c
		}
	}
	if rival != nil {
		return nil, &TieError{Plugins: [2]string{top.plugin, rival.plugin}, Resource: *s.Resource}
	}
	return top, nil
}

// rank orders claims by how specific they are: bits first, then letters.
type rank struct {
	// bits has one bit per field that is set; more specific fields are higher.
	bits uint16
	// letters is how many bytes of a path pattern are no wildcard.
	letters int
}

// The bits of a rank.
const (
	rankType uint16 = 1 << iota
	rankFS
	rankNamespace
	rankAnon
	rankSocketFamily
	rankSocketPart // type or protocol
	rankSocketFull // both
	rankMajor
	rankMinor
	rankGlob
	rankPath
)

func rankOf(c *sdk.Claim, g glob) rank {
	r := rank{letters: g.letters}
	set := func(is bool, bit uint16) {
		if is {
			r.bits |= bit
		}
	}
	set(c.Type != "", rankType)
	set(c.FS != "", rankFS)
	set(c.Namespace != "", rankNamespace)
	set(c.Anon != "", rankAnon)
	if s := c.Socket; s != nil {
		typed, protocol := s.Type != sdk.Any, s.Protocol != sdk.Any
		set(true, rankSocketFamily)
		set(typed != protocol, rankSocketPart)
		set(typed && protocol, rankSocketFull)
	}
	if d := c.Device; d != nil {
		set(true, rankMajor)
		set(d.Minor != sdk.Any, rankMinor)
	}
	set(c.Path != "" && !g.exact, rankGlob)
	set(c.Path != "" && g.exact, rankPath)
	return r
}

func (r rank) less(o rank) bool {
	if r.bits != o.bits {
		return r.bits < o.bits
	}
	return r.letters < o.letters
}

// matches tells whether every field that the claim sets agrees with r.
func (c *claim) matches(r *subject) bool {
	switch c.Kind {
	case sdk.KindTask:
		return true
	case sdk.KindFile:
		return r.File != nil && c.matchesFile(r.File) && c.matchesPath(r)
	case sdk.KindVMA:
		return r.VMA != nil && (c.Anon == "" || r.VMA.Path == "anon_inode:"+c.Anon) && c.matchesDevice(r.VMA.Rdev, r.VMA.Rdev != 0) && c.matchesPath(r)
	case sdk.KindNamespace:
		return r.Namespace != nil && (c.Namespace == "" || c.Namespace == r.Namespace.Name)
	}
	return false
}

func (c *claim) matchesFile(f *sdk.File) bool {
	device := f.Type == sdk.TypeChar || f.Type == sdk.TypeBlock
	return (c.Type == "" || c.Type == f.Type) &&
		(c.FS == "" || c.FS == f.FS) &&
		(c.Anon == "" || f.Link == "anon_inode:"+c.Anon) &&
		(c.Socket == nil || matchesSocket(c.Socket, f.Socket)) &&
		c.matchesDevice(f.Rdev, device)
}

func (c *claim) matchesDevice(rdev uint64, device bool) bool {
	if c.Device == nil {
		return true
	}
	return device && int(unix.Major(rdev)) == c.Device.Major &&
		(c.Device.Minor == sdk.Any || int(unix.Minor(rdev)) == c.Device.Minor)
}

func (c *claim) matchesPath(r *subject) bool {
	return c.Path == "" || r.path != nil && c.glob.match(r.path)
}

func matchesSocket(want, have *sdk.Socket) bool {
	return have != nil && want.Family == have.Family &&
		(want.Type == sdk.Any || want.Type == have.Type) &&
		(want.Protocol == sdk.Any || want.Protocol == have.Protocol)
}

// Label names a resource in errors: "fd 9 of task 4712 (anon_inode:[io_uring])".
func Label(r sdk.Resource) string {
	switch {
	case r.Kind == sdk.KindFile && r.File != nil:
		task := r.Task
		if len(r.File.Refs) > 0 {
			task = r.File.Refs[0].Task
		}
		return fmt.Sprintf("%s of task %d (%s)", r.File.Subject(), task, r.File.Link)
	case r.Kind == sdk.KindVMA && r.VMA != nil:
		return strings.TrimSpace(fmt.Sprintf("mapping %x-%x of task %d %s", r.VMA.Start, r.VMA.End, r.Task, r.VMA.Path))
	case r.Kind == sdk.KindNamespace && r.Namespace != nil:
		return fmt.Sprintf("%s namespace %d of task %d", r.Namespace.Name, r.Namespace.Ino, r.Task)
	}
	return fmt.Sprintf("%s %d", r.Kind, r.Task)
}
