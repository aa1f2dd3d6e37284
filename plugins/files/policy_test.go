package files

import (
	"strings"
	"testing"

	"github.com/firn-cr/firn/plugins/files/filespb"
	"github.com/firn-cr/firn/sdk"
)

func TestPolicies(t *testing.T) {
	was := &filespb.Identity{Dev: 1, Ino: 2, Size: 10, Mtime: 5, Btime: 1}
	with := func(ino uint64, size, mtime int64) *filespb.Identity {
		return &filespb.Identity{Dev: 1, Ino: ino, Size: size, Mtime: mtime, Btime: 1}
	}
	all := []policy{refuseChanged, acceptAppended, acceptSame, acceptAny}
	for _, tt := range []struct {
		name  string
		is    *filespb.Identity
		least policy
	}{
		{"grown", with(2, 11, 6), acceptAppended},
		{"written", with(2, 10, 6), acceptSame},
		{"shorter", with(2, 9, 6), acceptAny},
		{"another", with(3, 10, 6), acceptAny},
		{"another, longer", with(3, 20, 6), acceptAny},
	} {
		for _, p := range all {
			level, text, help := p.compare("/f", was, tt.is)
			switch {
			case p.accepts(tt.least) && level != sdk.LevelNote:
				t.Errorf("%s with %s: level %d, %s", tt.name, p, level, text)
			case !p.accepts(tt.least) && (level != sdk.LevelBlock || !strings.Contains(help, "--changed-files /f="+string(tt.least))):
				t.Errorf("%s with %s: level %d, %s: %s", tt.name, p, level, text, help)
			}
		}
	}
	for _, p := range all {
		if level, text, _ := p.compare("/f", was, with(7, 10, 5)); level != sdk.LevelOK {
			t.Errorf("a copy with %s: %s", p, text)
		}
	}
}

func TestReadPolicies(t *testing.T) {
	sess := &sdk.Session{Options: map[string]string{changedOption: "append\n/var/log/=accept\n/a=b=refuse\n/etc/*.conf=refuse"}}
	p, err := readPolicies(sess)
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]policy{
		"/x": acceptAppended, "/var/log/a/b": acceptAny, "/var/log": acceptAppended, "/a=b": refuseChanged,
		"/etc/x.conf": refuseChanged, "/etc/a/x.conf": acceptAppended,
	} {
		if got := p.of(path); got != want {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
	}
	if got := policies(nil).of("/x"); got != acceptSame {
		t.Errorf("without a rule: %s", got)
	}
	for _, bad := range []string{"", "x", "/a=", "[=accept"} {
		if p, err := readPolicies(&sdk.Session{Options: map[string]string{changedOption: bad}}); err == nil {
			t.Errorf("%q: %v", bad, p)
		}
	}
}
