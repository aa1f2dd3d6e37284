package dispatch

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/host/failure"
	"github.com/firn-cr/firn/sdk"
)

func file(link string, typ sdk.FileType) sdk.Resource {
	return sdk.Resource{Kind: sdk.KindFile, File: &sdk.File{Link: link, Type: typ, Refs: []sdk.FDRef{{Task: 41, FD: 7}}}}
}

func device(link string, major, minor uint32) sdk.Resource {
	r := file(link, sdk.TypeChar)
	r.File.Rdev = unix.Mkdev(major, minor)
	return r
}

func socket(family, typ, protocol int) sdk.Resource {
	r := file("socket:[1]", sdk.TypeSocket)
	r.File.Socket = &sdk.Socket{Family: family, Type: typ, Protocol: protocol}
	return r
}

// ladder has claims of files from the most to the least specific; each matches
// the file that ladderFile makes.
var ladder = []sdk.Claim{
	{Kind: sdk.KindFile, Path: "/dev/gpu0"},
	{Kind: sdk.KindFile, Path: "/dev/gpu*"},
	{Kind: sdk.KindFile, Path: "/dev/*"},
	{Kind: sdk.KindFile, Device: &sdk.Device{Major: 195, Minor: 0}, Type: sdk.TypeChar},
	{Kind: sdk.KindFile, Device: &sdk.Device{Major: 195, Minor: 0}},
	{Kind: sdk.KindFile, Device: &sdk.Device{Major: 195, Minor: sdk.Any}},
	{Kind: sdk.KindFile, FS: "devtmpfs", Type: sdk.TypeChar},
	{Kind: sdk.KindFile, FS: "devtmpfs"},
	{Kind: sdk.KindFile, Type: sdk.TypeChar},
	{Kind: sdk.KindFile},
}

var socketLadder = []sdk.Claim{
	{Kind: sdk.KindFile, Socket: &sdk.Socket{Family: 2, Type: 1, Protocol: 6}},
	{Kind: sdk.KindFile, Socket: &sdk.Socket{Family: 2, Type: 1, Protocol: sdk.Any}},
	{Kind: sdk.KindFile, Socket: &sdk.Socket{Family: 2, Type: sdk.Any, Protocol: sdk.Any}},
	{Kind: sdk.KindFile, Type: sdk.TypeSocket},
	{Kind: sdk.KindFile},
}

func TestMoreSpecificWins(t *testing.T) {
	gpu := device("/dev/gpu0", 195, 0)
	gpu.File.FS = "devtmpfs"
	for _, c := range []struct {
		claims []sdk.Claim
		r      sdk.Resource
	}{{ladder, gpu}, {socketLadder, socket(2, 1, 6)}} {
		for i := range c.claims {
			// The order of the plugins must not matter.
			var descs []sdk.Description
			for j := len(c.claims) - 1; j >= i; j-- {
				descs = append(descs, sdk.Description{Name: fmt.Sprint("p", j), Claims: c.claims[j : j+1]})
			}
			a, err := Match(descs, []sdk.Resource{c.r})
			if err != nil {
				t.Fatal(err)
			}
			if want := fmt.Sprint("p", i); len(a.ByPlugin[want]) != 1 {
				t.Errorf("claim %+v lost: %v", c.claims[i], a.ByPlugin)
			}
		}
	}
}

func TestClaimsMatch(t *testing.T) {
	vma := func(path string, rdev uint64) sdk.Resource {
		return sdk.Resource{Kind: sdk.KindVMA, VMA: &sdk.VMA{Path: path, Rdev: rdev}}
	}
	uts := sdk.Resource{Kind: sdk.KindNamespace, Namespace: &sdk.Namespace{Name: "uts"}}
	for i, c := range []struct {
		claim sdk.Claim
		r     sdk.Resource
		want  bool
	}{
		{sdk.Claim{Kind: sdk.KindTask}, sdk.Resource{Kind: sdk.KindTask}, true},
		{sdk.Claim{Kind: sdk.KindTask}, uts, false},
		{sdk.Claim{Kind: sdk.KindFile, Anon: "[eventpoll]"}, file("anon_inode:[eventpoll]", sdk.TypeAnon), true},
		{sdk.Claim{Kind: sdk.KindFile, Anon: "[eventpoll]"}, file("anon_inode:[eventfd]", sdk.TypeAnon), false},
		{sdk.Claim{Kind: sdk.KindFile, Type: sdk.TypeRegular}, file("/x", sdk.TypeFIFO), false},
		{sdk.Claim{Kind: sdk.KindFile, Path: "/var/**"}, file("/var/log/a (deleted)", sdk.TypeRegular), true},
		{sdk.Claim{Kind: sdk.KindFile, Path: "/**"}, file("socket:[5]", sdk.TypeSocket), false},
		{sdk.Claim{Kind: sdk.KindFile, Socket: &sdk.Socket{Family: 1, Type: -1, Protocol: -1}}, file("/x", sdk.TypeRegular), false},
		{sdk.Claim{Kind: sdk.KindFile, Socket: &sdk.Socket{Family: 2, Type: -1, Protocol: 17}}, socket(2, 1, 6), false},
		{sdk.Claim{Kind: sdk.KindFile, Device: &sdk.Device{Major: 8, Minor: sdk.Any}}, device("/dev/sda", 8, 3), true},
		{sdk.Claim{Kind: sdk.KindFile, Device: &sdk.Device{Major: 0, Minor: 0}}, file("/x", sdk.TypeRegular), false},
		{sdk.Claim{Kind: sdk.KindVMA}, vma("[heap]", 0), true},
		{sdk.Claim{Kind: sdk.KindVMA, Path: "/dev/**"}, vma("/dev/gpu0", 0), true},
		{sdk.Claim{Kind: sdk.KindVMA, Device: &sdk.Device{Major: 195, Minor: -1}}, vma("/dev/gpu0", unix.Mkdev(195, 1)), true},
		{sdk.Claim{Kind: sdk.KindVMA, Device: &sdk.Device{Major: 0, Minor: -1}}, vma("[heap]", 0), false},
		{sdk.Claim{Kind: sdk.KindNamespace, Namespace: "uts"}, uts, true},
		{sdk.Claim{Kind: sdk.KindNamespace, Namespace: "net"}, uts, false},
	} {
		a, err := Match([]sdk.Description{{Name: "p", Claims: []sdk.Claim{c.claim}}}, []sdk.Resource{c.r})
		if err != nil {
			t.Fatal(err)
		}
		if got := len(a.ByPlugin["p"]) == 1; got != c.want || got == (len(a.Unclaimed) == 1) {
			t.Errorf("case %d: %+v matches %s: %v", i, c.claim, Label(c.r), got)
		}
	}
}

func TestTie(t *testing.T) {
	claims := []sdk.Claim{{Kind: sdk.KindFile, Type: sdk.TypeRegular}}
	_, err := Match([]sdk.Description{{Name: "one", Claims: claims}, {Name: "two", Claims: claims}}, []sdk.Resource{file("/x", sdk.TypeRegular)})
	var tie *TieError
	if !errors.As(err, &tie) || !errors.Is(err, failure.ErrPlugin) ||
		err.Error() != "plugins one and two both claim fd 7 of task 41 (/x): remove one of them, or make its claim more specific" {
		t.Errorf("got %v", err)
	}
	// A plugin may claim a thing twice, and a tie below the best is none.
	a, err := Match([]sdk.Description{
		{Name: "one", Claims: append(claims, claims...)},
		{Name: "two", Claims: []sdk.Claim{{Kind: sdk.KindFile}}},
		{Name: "three", Claims: []sdk.Claim{{Kind: sdk.KindFile}}},
	}, []sdk.Resource{file("/x", sdk.TypeRegular)})
	if err != nil || len(a.ByPlugin["one"]) != 1 {
		t.Errorf("%v: %v", a, err)
	}
}

func TestAttends(t *testing.T) {
	descs := []sdk.Description{
		{Name: "owner", Claims: []sdk.Claim{{Kind: sdk.KindFile}}, Attends: []sdk.Claim{{Kind: sdk.KindFile}}},
		{Name: "guest", Attends: []sdk.Claim{{Kind: sdk.KindFile, Type: sdk.TypeChar}, {Kind: sdk.KindFile, Path: "/dev/*"}}},
	}
	a, err := Match(descs, []sdk.Resource{device("/dev/gpu0", 195, 0), file("/x", sdk.TypeRegular)})
	if err != nil {
		t.Fatal(err)
	}
	if len(a.ByPlugin["owner"]) != 2 || len(a.Attended["owner"]) != 0 || len(a.Attended["guest"]) != 1 {
		t.Errorf("got %+v", a)
	}
}

func TestGlob(t *testing.T) {
	for _, c := range []struct {
		pattern, path string
		want          bool
	}{
		{"/a/b", "/a/b", true}, {"/a/b", "/a/b/c", false}, {"/a/*", "/a/b", true}, {"/a/*", "/a/b/c", false},
		{"/a/**", "/a", true}, {"/a/**", "/a/b/c", true}, {"/**/c", "/a/b/c", true}, {"/**/c", "/c", true},
		{"/**/b/**/d", "/a/b/c/d", true}, {"/**/b/**/d", "/a/c/d", false}, {"/**", "/", true},
		{"/**/**/x", "/y/x", true}, {"/a/**/b/**/c", "/a/b/b/c/c", true}, {"/a[0-9]", "/a5", true}, {"/a\\*", "/a*", true},
		{"/a/**/b", "/a/x/b/y", false},
	} {
		g := newGlob(c.pattern)
		if got := g.match(components(c.path)); got != c.want {
			t.Errorf("%s matches %s: %v", c.pattern, c.path, got)
		}
	}
	slow := newGlob("/" + strings.Repeat("**/a/", 50) + "b")
	if slow.match(components("/" + strings.Repeat("a/", 2000) + "c")) {
		t.Error("it matched")
	}
}

func components(path string) []string { return strings.Split(strings.TrimPrefix(path, "/"), "/") }

func FuzzGlob(f *testing.F) {
	f.Add("/a/**/[b", "/a/b")
	f.Fuzz(func(t *testing.T, pattern, path string) {
		g := newGlob(pattern)
		if g.exact && pattern != "" && pattern[0] == '/' && !g.match(components(pattern)) {
			t.Errorf("%q does not match itself", pattern)
		}
		g.match(components(path))
	})
}

func TestOrder(t *testing.T) {
	d := func(name string, after ...string) sdk.Description { return sdk.Description{Name: name, After: after} }
	got, err := Order([]sdk.Description{d("c", "b"), d("b", "a", "absent"), d("a"), d("z"), d("y", "a")})
	if want := [][]string{{"a", "z"}, {"b", "y"}, {"c"}}; err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %v: %v", got, err)
	}
	_, err = Order([]sdk.Description{d("x", "a"), d("a", "b"), d("b", "c"), d("c", "a")})
	if err == nil || !strings.Contains(err.Error(), "a after b after c after a") || !errors.Is(err, failure.ErrPlugin) {
		t.Errorf("got %v", err)
	}
	if _, err := Order([]sdk.Description{d("a", "a")}); err == nil {
		t.Error("a plugin after itself was taken")
	}
}

func BenchmarkMatch(b *testing.B) {
	var descs []sdk.Description
	for i := range 8 {
		descs = append(descs, sdk.Description{Name: fmt.Sprint("p", i), Claims: []sdk.Claim{
			{Kind: sdk.KindFile, Path: fmt.Sprintf("/dev/x%d*", i)}, {Kind: sdk.KindFile, Anon: fmt.Sprintf("[x%d]", i)},
		}})
	}
	descs = append(descs, sdk.Description{Name: "rest", Claims: []sdk.Claim{{Kind: sdk.KindFile}}})
	resources := make([]sdk.Resource, 10000)
	for i := range resources {
		resources[i] = file(fmt.Sprintf("/var/lib/data/%d", i), sdk.TypeRegular)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Match(descs, resources); err != nil {
			b.Fatal(err)
		}
	}
}
