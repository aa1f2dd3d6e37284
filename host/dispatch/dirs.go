package dispatch

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sort"
	"strings"

	"github.com/firn-cr/firn/host/failure"
)

// PathVariable names the environment variable with the directories, separated
// by colons, that are searched for plugins first.
const PathVariable = "FIRN_PLUGIN_PATH"

// Prefix is what the file names of plugins begin with.
const Prefix = "firn-plugin-"

// systemDirs are searched last.
var systemDirs = []string{"/usr/local/lib/firn/plugins", "/usr/lib/firn/plugins"}

// PluginDirs returns the directories that are searched for plugins, in order:
// those of FIRN_PLUGIN_PATH, the one of the running program, those of the
// system, and, unless the user is root, ~/.local/lib/firn/plugins. The current
// directory is never searched: entries that are not absolute are dropped.
func PluginDirs() []string {
	dirs := append(filepath.SplitList(os.Getenv(PathVariable)), shippedDirs()...)
	if home := os.Getenv("HOME"); os.Geteuid() != 0 && home != "" {
		dirs = append(dirs, filepath.Join(home, ".local/lib/firn/plugins"))
	}
	out := dirs[:0]
	for _, d := range dirs {
		if filepath.IsAbs(d) {
			out = append(out, filepath.Clean(d))
		}
	}
	return out
}

// shippedDirs are those in which the plugins are that came with firn: that of the
// running program, and those of the system.
func shippedDirs() []string {
	var dirs []string
	if exe, err := os.Executable(); err == nil {
		if target, err := filepath.EvalSymlinks(exe); err == nil {
			exe = target
		}
		dirs = append(dirs, filepath.Dir(exe))
	}
	return append(dirs, systemDirs...)
}

// Binary is a plugin's executable file.
type Binary struct {
	// Name is the plugin's name: the file's name without the prefix.
	Name string
	// Version is set for a version that is kept beside the current one: see [Kept].
	Version string
	// Path is the file.
	Path string
	// SHA256 is what the file must hash to, in hexadecimal; empty if nothing
	// is recorded for it. See [SumsFile].
	SHA256 string
	// ThirdParty tells that the plugin did not come with firn: it was added, or is in
	// a directory of the user's. It gets the rights that it declares, and no others.
	ThirdParty bool
	// Debug tells that it waits for a debugger: see [Debug].
	Debug bool
}

// namePattern is what the names of plugins look like.
var namePattern = regexp.MustCompile(`^[a-z][a-z0-9-]*$`)

// filePattern is what the names of files are without the prefix: the plugin's name,
// and that of a version that is kept.
var filePattern = regexp.MustCompile(`^([a-z][a-z0-9-]*)(?:@([0-9A-Za-z.+-]+))?$`)

// KeptName is the name under which a version of a plugin is kept beside the current
// one, in its file's name and in the lock file.
func KeptName(name, version string) string { return name + "@" + version }

// Kept finds the versions of plugins that are kept beside the current ones, for the
// images that they have written: firn-plugin-NAME@VERSION. What is refused is left
// out; [Discover] tells of it.
func Kept(dirs []string) []Binary {
	var out []Binary
	for _, dir := range dirs {
		bins, _ := discoverIn(dir)
		for _, b := range bins {
			same := func(o Binary) bool { return o.Name == b.Name && o.Version == b.Version }
			if b.Version != "" && !slices.ContainsFunc(out, same) {
				out = append(out, b)
			}
		}
	}
	return out
}

// Discover finds the plugins in dirs, sorted by name. Of several with the same
// name the one in the first directory counts. Directories that do not exist
// are skipped. The error names everything that was refused, each with a
// *[RefusedError]; the plugins that can be used are returned even then.
func Discover(dirs []string) ([]Binary, error) {
	found := map[string]Binary{}
	var errs []error
	for _, dir := range dirs {
		bins, err := discoverIn(dir)
		if err != nil {
			errs = append(errs, err)
		}
		for _, b := range bins {
			if _, ok := found[b.Name]; !ok && b.Version == "" {
				found[b.Name] = b
			}
		}
	}
	out := make([]Binary, 0, len(found))
	for _, b := range found {
		out = append(out, b)
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Name < out[j].Name })
	return out, errors.Join(errs...)
}

// pinned are the digests that are recorded in a directory, by file name, and what
// was added to it, by name.
func pinned(dir string) (map[string]string, map[string]*Locked, error) {
	sums, err := readSums(dir)
	if err != nil {
		return nil, nil, err
	}
	locked, err := ReadLock(dir)
	if err != nil {
		return nil, nil, err
	}
	for name, l := range locked {
		sums[Prefix+name] = l.SHA256
	}
	return sums, locked, nil
}

// discoverIn finds the plugins in one directory.
func discoverIn(dir string) ([]Binary, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("search plugins: %w: %w", err, failure.ErrPlugin)
	}
	var out []Binary
	var errs []error
	var sums map[string]string
	var added map[string]*Locked
	ours := slices.Contains(shippedDirs(), dir)
	for _, e := range entries {
		name, ok := strings.CutPrefix(e.Name(), Prefix)
		parts := filePattern.FindStringSubmatch(name)
		if !ok || parts == nil || e.IsDir() {
			continue
		}
		if sums == nil {
			if sums, added, err = pinned(dir); err != nil {
				return nil, err
			}
		}
		path := filepath.Join(dir, e.Name())
		f, err := openTrusted(path)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		f.Close()
		out = append(out, Binary{
			Name: parts[1], Version: parts[2], Path: path, SHA256: sums[e.Name()], ThirdParty: !ours || added[name] != nil,
		})
	}
	return out, errors.Join(errs...)
}
