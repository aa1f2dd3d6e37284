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

// Why tells why a plugin has a resource: by which rule or claim, and which plugins
// claim it as well, less specifically. It is empty for what nobody has.
func Why(descs []sdk.Description, r *sdk.Resource, rules ...Rule) string {
	s := newSubject(r)
	var top *claim
	var others []string
	claims := compile(descs, false)[r.Kind]
	for i := range claims {
		c := &claims[i]
		if !c.matches(s) {
			continue
		}
		if !slices.Contains(others, c.plugin) {
			others = append(others, c.plugin)
		}
		if top == nil || top.rank.less(c.rank) {
			top = c
		}
	}
	var why, owner string
	for i := range rules {
		if rules[i].matches(s) {
			why, owner = "--plugin-for "+rules[i].text, rules[i].Plugin
			break
		}
	}
	if why == "" && top != nil {
		why, owner = "claims "+ClaimText(top.Claim), top.plugin
	}
	others = slices.DeleteFunc(others, func(name string) bool { return name == owner })
	if why != "" && len(others) > 0 {
		why = fmt.Sprintf("%s, before %s", why, strings.Join(others, ", "))
	}
	return why
}
