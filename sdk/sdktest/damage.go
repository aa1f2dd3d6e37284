package sdktest

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/wire"
)

// conformDamage restores images that are not what the plugin wrote. Whoever
// changed them may have computed the checksums anew, so the plugin is the only one
// who can notice. What it must never do is to panic, to hang, to leave something
// behind, or to restore nothing without a word.
func conformDamage(t testing.TB, c *Conformance) {
	cfg := c.Setup(t)
	h := New(t, c.Plugin(), cfg)
	img, err := h.Dump()
	if err != nil {
		t.Fatalf("dump: %v", err)
	}
	records := img.Records(t)
	if len(records) == 0 {
		return
	}
	settled := leaks(t, h)
	all := damages(t, img, records)
	all["no record"] = NewImage(t)
	for name, damaged := range all {
		s, err := c.restore(h, damaged)
		if err != nil && strings.Contains(err.Error(), "panic: ") {
			t.Errorf("%s: %v", name, err)
		}
		if err == nil && h.info.Has(wire.PhaseRestoreObjects) {
			for _, r := range h.Resources {
				if r.Kind == sdk.KindFile && s.FD(r.Object) < 0 {
					t.Errorf("%s: the restore succeeds without object %d: want sdk.ErrCorrupt", name, r.Object)
				}
			}
		}
		s.Close()
	}
	settled()
	c.trip(t, h)
}

// mostRecords bounds how many records are damaged one by one.
const mostRecords = 20

// damages are images in which something is wrong with one record.
func damages(t testing.TB, img *Image, records []sdk.Record) map[string]*Image {
	out := map[string]*Image{}
	add := func(name string, change func(i int, r sdk.Record) (sdk.Record, bool)) {
		damaged := NewImage(t)
		for i, r := range records {
			if r, keep := change(i, r); keep {
				damaged.add(t, img, r)
			}
		}
		out[name] = damaged
	}
	unknown := uint32(0)
	for _, r := range records {
		unknown = max(unknown, r.Kind+1)
	}
	for n, r := range records[:min(len(records), mostRecords)] {
		only := func(f func(*sdk.Record) bool) func(int, sdk.Record) (sdk.Record, bool) {
			return func(i int, r sdk.Record) (sdk.Record, bool) {
				if i != n {
					return r, true
				}
				r.Payload = slices.Clone(r.Payload)
				return r, f(&r)
			}
		}
		name := func(what string) string { return fmt.Sprintf("record %d (kind %d) %s", n, r.Kind, what) }
		add(name("is missing"), only(func(*sdk.Record) bool { return false }))
		add(name("is of an unknown kind"), only(func(r *sdk.Record) bool { r.Kind = unknown; return true }))
		add(name("is of another object"), only(func(r *sdk.Record) bool { r.Object += 1 << 40; return true }))
		if r.Bulk || len(r.Payload) == 0 {
			continue
		}
		add(name("is cut"), only(func(r *sdk.Record) bool { r.Payload = r.Payload[:len(r.Payload)/2]; return true }))
		add(name("is empty"), only(func(r *sdk.Record) bool { r.Payload = nil; return true }))
		for _, at := range []int{0, len(r.Payload) / 2, len(r.Payload) - 1} {
			add(name(fmt.Sprintf("has another byte %d", at)), only(func(r *sdk.Record) bool { r.Payload[at] ^= 0xff; return true }))
		}
	}
	return out
}

// add appends a copy of another image's record.
func (i *Image) add(t testing.TB, from *Image, r sdk.Record) {
	t.Helper()
	if r.Bulk {
		i.AddBulk(t, r.Kind, r.Version, r.Object, from.Bulk(t, r))
		return
	}
	i.AddRaw(t, r.Kind, r.Version, r.Object, r.Payload)
}
