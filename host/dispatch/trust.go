package dispatch

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/host/failure"
)

// SumsFile is the file in a directory of plugins that records their digests,
// in the format of sha256sum(1). A plugin that is listed there is executed
// only if it hashes to its digest; the others are trusted by who owns them.
const SumsFile = "firn-plugins.sha256"

// RefusedError tells why a file is not trusted. It is failure.ErrPlugin.
type RefusedError struct {
	// Path is the plugin.
	Path string
	// Culprit is the file or directory that is at fault: Path or one above it.
	Culprit string
	// Reason is what is wrong with it.
	Reason string
}

// Error implements error.
func (e *RefusedError) Error() string {
	if e.Culprit == e.Path {
		return fmt.Sprintf("plugin %s refused: it %s", e.Path, e.Reason)
	}
	return fmt.Sprintf("plugin %s refused: %s %s", e.Path, e.Culprit, e.Reason)
}

// Is makes errors.Is(e, failure.ErrPlugin) true.
func (e *RefusedError) Is(target error) bool { return target == failure.ErrPlugin }

// openTrusted opens an executable that nobody but root and the calling user
// can change: the file and every directory above it belong to one of them and
// are not writable by others. Directories with the sticky bit, in which others
// cannot rename the entries, are trusted if they are not the plugin's own. The
// caller executes the descriptor, not the path.
func openTrusted(path string) (*os.File, error) {
	target, err := filepath.EvalSymlinks(path)
	if err != nil {
		return nil, fmt.Errorf("plugin %s: %w: %w", path, err, failure.ErrPlugin)
	}
	if target, err = filepath.Abs(target); err != nil {
		return nil, fmt.Errorf("plugin %s: %w: %w", path, err, failure.ErrPlugin)
	}
	for _, p := range []string{path, target} {
		if err := checkDirs(path, filepath.Dir(p)); err != nil {
			return nil, err
		}
	}
	f, err := os.OpenFile(target, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("plugin %s: %w: %w", path, err, failure.ErrPlugin)
	}
	if err := checkFile(path, f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func checkFile(path string, f *os.File) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return fmt.Errorf("plugin %s: stat: %w", path, err)
	}
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return &RefusedError{Path: path, Culprit: path, Reason: "is not a regular file"}
	case st.Mode&0o111 == 0:
		return &RefusedError{Path: path, Culprit: path, Reason: "is not executable (chmod a+x)"}
	}
	if reason := untrusted(&st); reason != "" {
		return &RefusedError{Path: path, Culprit: path, Reason: reason}
	}
	return nil
}

// checkDirs checks dir and everything above it.
func checkDirs(path, dir string) error {
	for own := true; ; own = false {
		var st unix.Stat_t
		if err := unix.Stat(dir, &st); err != nil {
			return fmt.Errorf("plugin %s: stat %s: %w", path, dir, err)
		}
		if st.Mode&unix.S_ISVTX != 0 && !own {
			st.Mode &^= 0o022
		}
		if reason := untrusted(&st); reason != "" {
			return &RefusedError{Path: path, Culprit: dir, Reason: reason}
		}
		if dir == "/" || dir == "." {
			return nil
		}
		dir = filepath.Dir(dir)
	}
}

// untrusted tells why others could change what st describes; empty if they
// cannot.
func untrusted(st *unix.Stat_t) string {
	if st.Uid != 0 && int(st.Uid) != os.Geteuid() {
		return fmt.Sprintf("belongs to user %d (want root or user %d)", st.Uid, os.Geteuid())
	}
	if st.Mode&0o022 != 0 {
		return fmt.Sprintf("is writable by others, mode %04o (chmod go-w)", st.Mode&0o7777)
	}
	return ""
}

// checkSum compares the digest of an open file with the recorded one.
func checkSum(b Binary, f *os.File) error {
	if b.SHA256 == "" {
		return nil
	}
	sum, err := digest(f)
	if err != nil {
		return fmt.Errorf("plugin %s: hash: %w", b.Path, err)
	}
	if !strings.EqualFold(sum, b.SHA256) {
		return &RefusedError{Path: b.Path, Culprit: b.Path, Reason: fmt.Sprintf("has the SHA-256 %s, recorded is %s", sum, b.SHA256)}
	}
	return nil
}

// Digest returns the SHA-256 of a file in hexadecimal.
func Digest(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	return digest(f)
}

func digest(f *os.File) (string, error) {
	h := sha256.New()
	if _, err := io.Copy(h, io.NewSectionReader(f, 0, 1<<62)); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// readSums reads the digests that are recorded in a directory, by file name.
func readSums(dir string) (map[string]string, error) {
	sums := map[string]string{}
	path := filepath.Join(dir, SumsFile)
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return sums, nil
	}
	if err != nil {
		return nil, fmt.Errorf("digests of plugins: %w: %w", err, failure.ErrPlugin)
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return nil, fmt.Errorf("digests of plugins: stat %s: %w", path, err)
	}
	if reason := untrusted(&st); reason != "" {
		return nil, &RefusedError{Path: path, Culprit: path, Reason: reason}
	}
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		sum, name, ok := strings.Cut(line, " ")
		if b, err := hex.DecodeString(sum); !ok || err != nil || len(b) != sha256.Size {
			return nil, fmt.Errorf("digests of plugins: %s: line %q: want a SHA-256 and a name: %w", path, line, failure.ErrPlugin)
		}
		sums[strings.TrimPrefix(strings.TrimSpace(name), "*")] = sum
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("digests of plugins: read %s: %w", path, err)
	}
	return sums, nil
}

// OpenTrusted opens an executable that could be a plugin: nobody but root and the
// calling user can change it. The caller closes it.
func OpenTrusted(path string) (*os.File, error) { return openTrusted(path) }

// DigestOf returns the SHA-256 of an open file in hexadecimal.
func DigestOf(f *os.File) (string, error) { return digest(f) }

// copyFile copies the whole content of an open file.
func copyFile(to, from *os.File) error {
	_, err := io.Copy(to, io.NewSectionReader(from, 0, 1<<62))
	return err
}
