package dispatch

import (
	"testing"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/sdk"
)

func TestReasons(t *testing.T) {
	descs := []sdk.Description{
		{Name: "files", Claims: []sdk.Claim{{Kind: sdk.KindFile, Type: sdk.TypeChar, Device: &sdk.Device{Major: 1, Minor: sdk.Any}}}},
		{Name: "mine", Claims: []sdk.Claim{{Kind: sdk.KindFile, Path: "/dev/kmsg"}, {Kind: sdk.KindFile, Type: sdk.TypeChar}}},
	}
	kmsg := &sdk.Resource{Kind: sdk.KindFile, File: &sdk.File{Link: "/dev/kmsg", Type: sdk.TypeChar, Rdev: unix.Mkdev(1, 11)}}
	null := &sdk.Resource{Kind: sdk.KindFile, File: &sdk.File{Link: "/dev/null", Type: sdk.TypeChar, Rdev: unix.Mkdev(1, 3)}}
	rule, err := ParseRule("file:/dev/k*=third")
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		r     *sdk.Resource
		rules []Rule
		want  string
	}{
		{kmsg, nil, "claims file /dev/kmsg, before files"},
		{null, nil, "claims file chr device 1:*, before mine"},
		{kmsg, []Rule{rule}, "--plugin-for file:/dev/k*=third, before files, mine"},
		{null, []Rule{rule}, "claims file chr device 1:*, before mine"},
		{&sdk.Resource{Kind: sdk.KindNamespace, Namespace: &sdk.Namespace{Name: "net"}}, nil, ""},
	} {
		if got := NewReasons(descs, tt.rules...).Of(tt.r); got != tt.want {
			t.Errorf("%+v: %q, want %q", tt.r, got, tt.want)
		}
		if tt.rules != nil {
			continue
		}
		// It is what Match does.
		a, err := Match(descs, []sdk.Resource{*tt.r})
		if err != nil || (len(a.Unclaimed) > 0) != (tt.want == "") {
			t.Errorf("%v, %v", a, err)
		}
	}
}
