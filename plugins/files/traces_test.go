package files

import (
	"errors"
	"os"
	"testing"

	"github.com/firn-cr/firn/sdk"
)

// TestTracesAfterAbort: a phase that is still at work when the abort comes
// leaves nothing behind.
func TestTracesAfterAbort(t *testing.T) {
	dir := t.TempDir()
	p := &plugin{}
	leave := func(name string) error {
		return p.traces.leave(t.Context(), func() error { return os.Mkdir(dir+"/"+name, 0o700) }, func() error { return os.Remove(dir + "/" + name) })
	}
	p.traces.begin()
	if err := leave("before"); err != nil {
		t.Fatal(err)
	}
	if err := p.Abort(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := leave("after"); !errors.Is(err, sdk.ErrAborted) {
		t.Errorf("a name was made after the abort: %v", err)
	}
	if names, err := os.ReadDir(dir); err != nil || len(names) > 0 {
		t.Errorf("left behind: %v %v", names, err)
	}
}
