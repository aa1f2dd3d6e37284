package files

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/files/filespb"
	"github.com/firn-cr/firn/sdk"
)

func TestCompareContent(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	write := func(text string) *filespb.Identity {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		var st unix.Statx_t
		if err := unix.Statx(unix.AT_FDCWD, path, 0, statxMask, &st); err != nil {
			t.Fatal(err)
		}
		return identity(&st)
	}
	was := write("content")
	sum, err := digest(context.Background(), path, was.Size)
	if err != nil {
		t.Fatal(err)
	}
	was.Digest = sum
	elsewhere := func(id *filespb.Identity) *filespb.Identity {
		id.Ino, id.Dev, id.Btime = id.Ino+1, 0, 0
		return id
	}
	for _, tt := range []struct {
		name, text string
		another    bool
		least      policy // "" if there is nothing to say
	}{
		{"same", "content", false, ""},
		{"a copy", "content", true, ""},
		{"grown", "content and more", false, acceptAppended},
		{"a copy that has grown", "content and more", true, acceptAppended},
		{"written", "CONTENT", false, acceptSame},
		{"written and grown", "CONTENT and more", false, acceptSame},
		{"another", "CONTENT", true, acceptAny},
		{"shorter", "cont", false, acceptAny},
	} {
		is := write(tt.text)
		if tt.another {
			is = elsewhere(is)
		}
		for _, p := range []policy{refuseChanged, acceptAppended, acceptSame, acceptAny} {
			level, text, help := p.compare(path, was, is)
			want := sdk.LevelNote
			switch {
			case tt.least == "":
				want = sdk.LevelOK
			case !p.accepts(tt.least):
				want = sdk.LevelBlock
			}
			if level != want || want == sdk.LevelBlock && !strings.Contains(help, "--changed-files "+path+"="+string(tt.least)) {
				t.Errorf("%s with %s: level %d, %s: %s", tt.name, p, level, text, help)
			}
		}
	}
}

func TestDigestOfWhatIsTooShort(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(path, []byte("abc"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := digest(context.Background(), path, 4); err == nil {
		t.Error("a file that is too short has a digest")
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	cancel(sdk.ErrAborted)
	if _, err := digest(ctx, path, 3); !errors.Is(err, sdk.ErrAborted) {
		t.Errorf("canceled: %v", err)
	}
}
