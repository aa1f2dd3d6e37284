package dispatch

import (
	"fmt"
	"slices"
	"strings"

	"github.com/firn-cr/firn/sdk"
)

// ClaimText formats a claim: "file sock family 1 type 5".
func ClaimText(c sdk.Claim) string {
	parts := []string{c.Kind.String()}
	add := func(s string) {
		if s != "" {
			parts = append(parts, s)
		}
	}
	add(string(c.Type))
	add(c.Anon)
	add(c.Path)
	add(c.Namespace)
	if c.FS != "" {
		add("on " + c.FS)
	}
	number := func(n int) string {
		if n == sdk.Any {
			return "*"
		}
		return fmt.Sprint(n)
	}
	if d := c.Device; d != nil {
		add("device " + number(d.Major) + ":" + number(d.Minor))
	}
	if s := c.Socket; s != nil {
		add("family " + number(s.Family) + " type " + number(s.Type) + " protocol " + number(s.Protocol))
	}
	return strings.Join(parts, " ")
}

// Reasons tells why plugins have resources.
type Reasons struct {
	claims map[sdk.Kind][]claim
	rules  []Rule
}

// NewReasons is about the claims and rules that [Match] goes by.
func NewReasons(descs []sdk.Description, rules ...Rule) *Reasons {
	return &Reasons{claims: compile(descs, false), rules: rules}
}

// Of tells by which rule or claim a plugin has a resource, and which plugins claim
// it as well, less specifically. It is empty for what nobody has.
func (x *Reasons) Of(r *sdk.Resource) string {
	s, claims := newSubject(r), x.claims[r.Kind]
	var why, owner string
	if rule := ruleFor(x.rules, s); rule != nil {
		why, owner = "--plugin-for "+rule.text, rule.Plugin
	} else if top, err := best(claims, s); err == nil && top != nil {
		why, owner = "claims "+ClaimText(top.Claim), top.plugin
	} else {
		return ""
	}
	var others []string
	for i := range claims {
		c := &claims[i]
		if c.plugin != owner && c.matches(s) && !slices.Contains(others, c.plugin) {
			others = append(others, c.plugin)
		}
	}
	if len(others) > 0 {
		why += ", before " + strings.Join(others, ", ")
	}
	return why
}
