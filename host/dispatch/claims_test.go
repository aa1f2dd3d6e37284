package dispatch

import (
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/wire"
)

// TestClaimsAreRemembered: what is remembered is what the plugin says, until
// its file changes.
func TestClaimsAreRemembered(t *testing.T) {
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
		Name: "one", After: []string{"two"},
		Claims:  []sdk.Claim{{Kind: sdk.KindFile, Type: sdk.TypeSocket, Socket: &sdk.Socket{Family: 1, Type: sdk.Any, Protocol: 0}}},
		Attends: []sdk.Claim{{Kind: sdk.KindFile, Device: &sdk.Device{Major: 195, Minor: sdk.Any}}},
	}
	p := &Plugin{binary: b, info: &wire.Info{Description: want}}
	if err := p.rememberClaims(dir, id); err != nil {
		t.Fatal(err)
	}
	got, err := readClaims(filepath.Join(dir, "one"), b)
	if err != nil || !reflect.DeepEqual(got.Claims, want.Claims) || !reflect.DeepEqual(got.Attends, want.Attends) || !reflect.DeepEqual(got.After, want.After) {
		t.Fatalf("%+v, %v", got, err)
	}
	if err := os.WriteFile(path, []byte("another"), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := readClaims(filepath.Join(dir, "one"), b); err == nil {
		t.Error("claims of a file that has changed are taken")
	}
	if err := p.rememberClaims(dir, id); err == nil {
		t.Error("claims are remembered for a file that changed meanwhile")
	}
}
