package integration

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/firn-cr/firn/host/integration/harness"
)

// names of the files in the subject's directory.
func (s *subject) entries() []string {
	s.t.Helper()
	list, err := os.ReadDir(s.Dir)
	if err != nil {
		s.t.Fatal(err)
	}
	names := make([]string, len(list))
	for i := range list {
		names[i] = list[i].Name()
	}
	return names
}

// TestCarry: a file whose content is in the image is what it was, whatever
// became of it. Restores that fail leave the other file.
func TestCarry(t *testing.T) {
	for name, change := range map[string]func(path string) error{
		"unchanged": func(string) error { return nil },
		"written":   func(path string) error { return os.WriteFile(path, []byte("the CONTENT of data"), 0o600) },
		"shorter":   func(path string) error { return os.Truncate(path, 3) },
		"removed":   os.Remove,
		"replaced": func(path string) error {
			if err := os.WriteFile(path+".new", []byte("another one, which is longer"), 0o644); err != nil {
				return err
			}
			return os.Rename(path+".new", path)
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := startC(t, "carried")
			path := s.Path("data")
			c := s.checkpoint("--carry", filepath.Join(s.Dir, "d*"), "--carry", "/nothing/")
			if len(c.Notes) != 1 || !strings.Contains(c.Notes[0], "--carry /nothing/: no such file is open") {
				t.Errorf("notes %q", c.Notes)
			}
			if err := change(path); err != nil {
				t.Fatal(err)
			}
			names := s.entries()
			content, _ := os.ReadFile(path)
			done := false
			for ms := 5; !done; ms += 5 {
				res := run(t, firn(t), "restore", "-d", "--timeout", strconv.Itoa(ms)+"ms", s.image)
				if done = res.Status == harness.StatusDone; done {
					break
				}
				if res.Status != harness.StatusTimeout {
					t.Fatalf("want a timeout or a restore: %s", res)
				}
				if now := s.entries(); !slices.Equal(now, names) {
					t.Fatalf("a restore that failed left %v, there was %v: %s", now, names, res)
				}
				if now, _ := os.ReadFile(path); string(now) != string(content) {
					t.Fatalf("a restore that failed left %q, there was %q", now, content)
				}
			}
			s.unharmed()
			if now := s.entries(); slices.ContainsFunc(now, func(n string) bool { return strings.HasPrefix(n, ".firn") }) {
				t.Errorf("left behind: %v", now)
			}
			finishQueues(s)
		})
	}
}

// TestChangedFiles: what a restore accepts of files that have changed.
func TestChangedFiles(t *testing.T) {
	s := startC(t, "carried")
	data, growing := s.Path("data"), s.Path("growing")
	s.checkpoint()
	if err := os.WriteFile(growing, []byte("appended"), 0o644); err != nil {
		t.Fatal(err)
	}
	refused := func(words string, flags ...string) {
		t.Helper()
		res := run(t, firn(t), append([]string{"restore", "-d", s.image}, flags...)...)
		if res.Status != harness.StatusFailed || !strings.Contains(res.Stderr, words) {
			t.Errorf("want status 1 and %q: %s", words, res)
		}
	}
	refused(growing+": has grown from 0 to 8 bytes", "--changed-files", "refuse")
	refused(growing+": has grown", "--changed-files", "append", "--changed-files", s.Dir+"/=refuse")
	if err := os.Truncate(data, 10); err != nil {
		t.Fatal(err)
	}
	refused(data+": has 10 bytes, had 19: put back the file of the checkpoint, or pass --changed-files "+data+"=accept", "--changed-files", "append")
	res := run(t, firn(t), "restore", "-d", "--changed-files", "nonsense", s.image)
	if res.Status == harness.StatusDone || !strings.Contains(res.Stderr, "want refuse, append, same or accept") {
		t.Errorf("%s", res)
	}
	r := s.restore("--changed-files", "append", "--changed-files", data+"=accept")
	if notes := strings.Join(r.Notes, "\n"); !strings.Contains(notes, "has 10 bytes, had 19") || !strings.Contains(notes, "has grown") {
		t.Errorf("the changes are not noted: %q", notes)
	}
	s.unharmed()
}

// TestFileDigest: a file that is known by its content may be another one with the
// same, and may not be the same one with another.
func TestFileDigest(t *testing.T) {
	s := startC(t, "carried")
	data := s.Path("data")
	c := s.checkpoint("--file-digest", s.Dir+"/", "--file-digest", "/nothing/")
	if len(c.Notes) != 1 || !strings.Contains(c.Notes[0], "--file-digest /nothing/: no such file is open") {
		t.Errorf("notes %q", c.Notes)
	}
	content, err := os.ReadFile(data)
	if err != nil {
		t.Fatal(err)
	}
	st, err := os.Stat(data)
	if err != nil {
		t.Fatal(err)
	}
	// Another content under the old inode, size and time.
	if err := os.WriteFile(data, []byte(strings.ToUpper(string(content))), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(data, st.ModTime(), st.ModTime()); err != nil {
		t.Fatal(err)
	}
	res := run(t, firn(t), "restore", "-d", s.image, "--changed-files", "append")
	if res.Status != harness.StatusFailed || !strings.Contains(res.Stderr, data+": has another content than at the checkpoint") {
		t.Fatalf("want status 1: %s", res)
	}
	// The old content in another file, of another time.
	if err := os.Remove(data); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(data, content, 0o600); err != nil {
		t.Fatal(err)
	}
	if r := s.restore("--changed-files", "refuse"); len(r.Notes) > 0 {
		t.Errorf("notes %q", r.Notes)
	}
	s.unharmed()
}
