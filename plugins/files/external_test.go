package files

import (
	"testing"

	"github.com/firn-cr/firn/sdk"
)

func TestReadInheritance(t *testing.T) {
	options := func(v string) *sdk.Session { return &sdk.Session{Options: map[string]string{inheritOption: v}} }
	h, err := readInheritance(options("fd[7]:pipe:[123]\nfd[9]:/a b/c\nfd[10]:rel"))
	if err != nil {
		t.Fatal(err)
	}
	for link, want := range map[string]int{"pipe:[123]": 7, "/a b/c": 9, "/rel": 10} {
		if fd, ok := h.of(link); !ok || fd != want {
			t.Errorf("%s: %d, %t", link, fd, ok)
		}
	}
	if _, ok := h.of("pipe:[12]"); ok {
		t.Error("a pipe that is not named is inherited")
	}
	for _, bad := range []string{"", "7:pipe:[1]", "fd[x]:a", "fd[-1]:a", "fd[1]", "fd[1]:"} {
		if h, err := readInheritance(options(bad)); err == nil {
			t.Errorf("%q: %v", bad, h)
		}
	}
}

func TestInherited(t *testing.T) {
	file := func(object uint64, link string, refs ...sdk.FDRef) sdk.Resource {
		return sdk.Resource{Kind: sdk.KindFile, Object: object, File: &sdk.File{Link: link, Refs: refs}}
	}
	got, err := inherited(&sdk.Session{
		Tree:    &sdk.Tree{Root: 5},
		Options: map[string]string{inheritOption: "fd[7]:/x", inheritSameOption: "1\n2"},
		Resources: []sdk.Resource{
			file(1, "/x"), file(2, "/y", sdk.FDRef{Task: 6, FD: 1}), file(3, "/z", sdk.FDRef{Task: 6, FD: 9}, sdk.FDRef{Task: 5, FD: 2}),
		},
	})
	if err != nil || len(got) != 2 || got[1] != 7 || got[3] != 2 {
		t.Errorf("%v, %v", got, err)
	}
}
