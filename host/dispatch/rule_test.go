package dispatch

import (
	"errors"
	"testing"

	"github.com/firn-cr/firn/host/failure"
	"github.com/firn-cr/firn/sdk"
)

func TestRules(t *testing.T) {
	descs := []sdk.Description{
		{Name: "files", Claims: []sdk.Claim{{Kind: sdk.KindFile}}},
		{Name: "exact", Claims: []sdk.Claim{{Kind: sdk.KindFile, Path: "/data/x"}}},
		{Name: "mine"},
	}
	ring := sdk.Resource{Kind: sdk.KindFile, File: &sdk.File{Link: "anon_inode:[io_uring]"}}
	for _, c := range []struct {
		rule string
		r    sdk.Resource
		want string
	}{
		{"file:/data/*=mine", file("/data/x", sdk.TypeRegular), "mine"},
		{"file:/data/*=mine", file("/data/x/y", sdk.TypeRegular), "files"},
		{"file:/data/**=mine", file("/data/x/y", sdk.TypeRegular), "mine"},
		{"file:/other=mine", file("/data/x", sdk.TypeRegular), "exact"},
		{"mapping:/data/*=mine", file("/data/x", sdk.TypeRegular), "exact"},
		{"file:anon_inode:[io_uring]=mine", ring, "mine"},
		{"file:anon_inode:*=mine", ring, "mine"},
		{"file:anon_inode:[eventfd]=mine", ring, "files"},
		{"file:/a=b=mine", file("/a=b", sdk.TypeRegular), "mine"},
	} {
		r, err := ParseRule(c.rule)
		if err != nil {
			t.Fatal(err)
		}
		a, err := Match(descs, []sdk.Resource{c.r}, r)
		if err != nil || len(a.ByPlugin[c.want]) != 1 {
			t.Errorf("%s: %v, want %s: %v", c.rule, a.ByPlugin, c.want, err)
		}
	}
	for _, text := range []string{"", "file", "file:=x", "file:/x", "file:/x=", "file:/x=Bad", "socket:/x=mine", "file:[=mine"} {
		if _, err := ParseRule(text); !errors.Is(err, failure.ErrUsage) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestSelect(t *testing.T) {
	bins := []Binary{{Name: "a"}, {Name: "b"}}
	s := Selection{Disabled: []string{"a"}}
	if got, err := s.Select(bins); err != nil || len(got) != 1 || got[0].Name != "b" {
		t.Errorf("%v, %v", got, err)
	}
	for _, s := range []Selection{
		{Disabled: []string{"c"}}, {Rules: []Rule{{Plugin: "c"}}}, {Disabled: []string{"a"}, Rules: []Rule{{Plugin: "a"}}},
	} {
		if _, err := s.Select(bins); !errors.Is(err, failure.ErrUsage) {
			t.Errorf("%+v: %v", s, err)
		}
	}
}
