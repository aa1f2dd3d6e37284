package dispatch

import (
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/wire"
)

// TestPluginIsRemembered: what is remembered is what the plugin says, until
// its file changes.
func TestPluginIsRemembered(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(t.TempDir(), Prefix+"one")
	if err := os.WriteFile(path, []byte("program"), 0o755); err != nil {
		t.Fatal(err)
	}
	id, err := identify(path)
	if err != nil {
		t.Fatal(err)
	}
	b := Binary{Name: "one", Path: path}
	want := sdk.Description{
		Name: "one", Records: []sdk.RecordType{{Kind: 1, Version: 2}}, After: []string{"two"},
		Claims:  []sdk.Claim{{Kind: sdk.KindFile, Type: sdk.TypeSocket, Socket: &sdk.Socket{Family: 1, Type: sdk.Any, Protocol: 0}}},
		Attends: []sdk.Claim{{Kind: sdk.KindFile, Device: &sdk.Device{Major: 195, Minor: sdk.Any}}},
	}
	info := &wire.Info{
		Description: want, APIVersion: sdk.APIVersion, Phases: []wire.Phase{wire.PhaseCheck, wire.PhaseDump},
		Messages: map[uint32]string{1: "one.Record"}, Descriptors: []byte{1, 2, 3},
	}
	p := &Plugin{binary: b, file: id, info: info}
	if err := p.remember(dir); err != nil {
		t.Fatal(err)
	}
	got, err := recall(filepath.Join(dir, "one"), b)
	if err != nil || !reflect.DeepEqual(got.Info, info) {
		t.Fatalf("%+v, %v", got, err)
	}
	if err := os.WriteFile(path, []byte("another"), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := recall(filepath.Join(dir, "one"), b); err == nil {
		t.Error("what is known of a file that has changed is taken")
	}
	if err := p.remember(dir); err == nil {
		t.Error("a plugin is remembered whose file changed meanwhile")
	}
}
