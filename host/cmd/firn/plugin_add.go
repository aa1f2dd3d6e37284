package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/host/dispatch"
	"github.com/firn-cr/firn/host/failure"
	"github.com/firn-cr/firn/host/internal/ui"
)

// addPluginsTo is the directory to which plugins are added: the first of
// FIRN_PLUGIN_PATH, or that of the machine or of the user.
func addPluginsTo() (string, error) {
	for _, d := range filepath.SplitList(os.Getenv(dispatch.PathVariable)) {
		if filepath.IsAbs(d) {
			return d, nil
		}
	}
	if os.Geteuid() == 0 {
		return "/usr/local/lib/firn/plugins", nil
	}
	if home := os.Getenv("HOME"); filepath.IsAbs(home) {
		return filepath.Join(home, ".local/lib/firn/plugins"), nil
	}
	return "", usagef("no place for plugins: pass --dir")
}

func newPluginAdd(g *global) *cobra.Command {
	var dir string
	var replace bool
	cmd := &cobra.Command{
		Use:   "add PATH",
		Short: "Let firn use a plugin, pinned by its digest",
		Long: `Add copies the executable PATH, firn-plugin-NAME, into the directory of plugins
and records its SHA-256, its version and what it claims in the lock file there,
` + dispatch.LockFile + `. From then on it is executed only as long as it is that file.

With --replace another version that was added there before is kept beside the new one, as
firn-plugin-NAME@VERSION: images that it has written are restored with it. "firn plugin
remove NAME@VERSION" takes it away.

The directory is the first of ` + dispatch.PathVariable + `; without it
/usr/local/lib/firn/plugins, for an ordinary user ~/.local/lib/firn/plugins.`,
		Example: "  firn plugin add bin/firn-plugin-kmsg",
		Args:    oneArg("path of the plugin"),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if dir == "" {
				if dir, err = addPluginsTo(); err != nil {
					return err
				}
			}
			if err := addPlugin(cmd.Context(), g, args[0], dir, replace); err != nil {
				return &commandError{"plugin add " + args[0], err}
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&dir, "dir", "", "the directory of plugins to add it to")
	cmd.Flags().BoolVar(&replace, "replace", false, "replace a plugin of this name, of which another version is kept, or take precedence over one elsewhere")
	return cmd
}

func addPlugin(ctx context.Context, g *global, path, dir string, replace bool) (err error) {
	name, ok := strings.CutPrefix(filepath.Base(path), dispatch.Prefix)
	if !ok {
		return fmt.Errorf("the name of a plugin's file is %sNAME: %w", dispatch.Prefix, failure.ErrUsage)
	}
	if path, err = filepath.Abs(path); err != nil {
		return err
	}
	f, err := dispatch.OpenTrusted(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if others, _ := dispatch.Discover(append([]string{dir}, dispatch.PluginDirs()...)); !replace {
		for _, o := range others {
			if o.Name == name {
				return fmt.Errorf("there is a plugin %s already, %s: pass --replace: %w", name, o.Path, failure.ErrPlugin)
			}
		}
	}
	sum, err := dispatch.DigestOf(f)
	if err != nil {
		return err
	}
	log, err := g.log()
	if err != nil {
		return err
	}
	// It has to start, and to be what is recorded.
	info, err := askPlugin(ctx, dispatch.Binary{Name: name, Path: path, SHA256: sum, ThirdParty: true}, log)
	if err != nil {
		return err
	}
	locked, err := dispatch.ReadLock(dir)
	if err != nil {
		return err
	}
	if err := keepVersion(dir, name, info.Version, locked); err != nil {
		return err
	}
	if err := dispatch.Install(f, dir, name); err != nil {
		return err
	}
	locked[name] = &dispatch.Locked{
		SHA256: sum, Version: info.Version, Owner: uint32(os.Geteuid()), Added: time.Now().UTC().Truncate(time.Second),
		Source: path, Claims: info.Claims, Capabilities: info.Caps,
	}
	if err := dispatch.WriteLock(dir, locked); err != nil {
		return errors.Join(err, os.Remove(filepath.Join(dir, dispatch.Prefix+name)))
	}
	if g.json {
		info.Path = filepath.Join(dir, dispatch.Prefix+name)
		return ui.JSON(os.Stdout, info)
	}
	_, err = fmt.Printf("%s %s: added to %s; it claims %s\n", name, info.Version, dir, strings.Join(info.Claims, ", "))
	return err
}

// keepVersion keeps the plugin that is about to be replaced by another version, for the
// images that it has written.
func keepVersion(dir, name, version string, locked map[string]*dispatch.Locked) error {
	old := locked[name]
	if old == nil || old.Version == version {
		return nil
	}
	kept := dispatch.KeptName(name, old.Version)
	to := filepath.Join(dir, dispatch.Prefix+kept)
	if err := os.Remove(to); err != nil && !errors.Is(err, unix.ENOENT) {
		return err
	}
	// A second name: the first one is replaced in one step.
	if err := os.Link(filepath.Join(dir, dispatch.Prefix+name), to); err != nil {
		return fmt.Errorf("keep version %s: %w", old.Version, err)
	}
	locked[kept] = old
	return nil
}

// askPlugin starts one plugin and asks what it is.
func askPlugin(ctx context.Context, b dispatch.Binary, log hclog.Logger) (info pluginInfo, err error) {
	set, err := dispatch.Start(ctx, []dispatch.Binary{b}, dispatch.Options{Log: log})
	if err != nil {
		return info, err
	}
	defer func() { err = errors.Join(err, set.Close()) }()
	return infoOf(set.Plugins()[0]), nil
}

func newPluginRemove(*global) *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:   "remove NAME",
		Short: "Remove a plugin that was added",
		Args:  oneArg("name of the plugin"),
		RunE: func(_ *cobra.Command, args []string) (err error) {
			if dir == "" {
				if dir, err = addPluginsTo(); err != nil {
					return err
				}
			}
			if err := removePlugin(args[0], dir); err != nil {
				return &commandError{"plugin remove " + args[0], err}
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&dir, "dir", "", "the directory of plugins to remove it from")
	return cmd
}

func removePlugin(name, dir string) error {
	locked, err := dispatch.ReadLock(dir)
	if err != nil {
		return err
	}
	if locked[name] == nil {
		return fmt.Errorf("it was not added to %s by firn plugin add: %w", dir, failure.ErrPlugin)
	}
	delete(locked, name)
	// The file first: one that is not in the lock file would be trusted.
	if err := os.Remove(filepath.Join(dir, dispatch.Prefix+name)); err != nil && !errors.Is(err, unix.ENOENT) {
		return err
	}
	return dispatch.WriteLock(dir, locked)
}

// verifiedPlugin is what verify finds of a plugin.
type verifiedPlugin struct {
	Name    string `json:"name"`
	Version string `json:"version,omitempty"`
	Path    string `json:"path"`
	Pinned  bool   `json:"pinned"`
	Problem string `json:"problem,omitempty"`
}

func newPluginVerify(g *global) *cobra.Command {
	return &cobra.Command{
		Use:   "verify [NAME]",
		Short: "Check that plugins are what was added, and that they start",
		Long: `Verify checks every plugin that firn finds, or one: that nobody else can change
it, that it is the file that was added, that it starts, and that it claims what it
claimed then.

Exit status: 0 all are well; 4 one is not.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := verifyPlugins(cmd.Context(), g, args); err != nil {
				return &commandError{"plugin verify", err}
			}
			return nil
		},
	}
}

func verifyPlugins(ctx context.Context, g *global, names []string) error {
	log, err := g.log()
	if err != nil {
		return err
	}
	var all []verifiedPlugin
	seen := map[string]bool{}
	for _, dir := range dispatch.PluginDirs() {
		bins, refused := dispatch.Discover([]string{dir})
		bins = append(bins, dispatch.Kept([]string{dir})...)
		locked, err := dispatch.ReadLock(dir)
		if err = errors.Join(refused, err); err != nil {
			all = append(all, verifiedPlugin{Name: "?", Path: dir, Problem: strings.ReplaceAll(err.Error(), "\n", "; ")})
		}
		for _, b := range bins {
			name := b.Name
			if b.Version != "" {
				name = dispatch.KeptName(b.Name, b.Version)
			}
			if !seen[name] {
				v := verifyPlugin(ctx, b, locked[name], log)
				v.Name = name
				all = append(all, v)
			}
			seen[name] = true
			delete(locked, name)
		}
		for name := range locked {
			all = append(all, verifiedPlugin{Name: name, Path: dir, Pinned: true, Problem: "its file is missing, or was refused"})
			seen[name] = true
		}
	}
	if len(names) > 0 {
		all = slices.DeleteFunc(all, func(p verifiedPlugin) bool { return p.Name != names[0] })
		if len(all) == 0 {
			return fmt.Errorf("no plugin %s: %w", names[0], failure.ErrPlugin)
		}
	}
	slices.SortFunc(all, func(a, b verifiedPlugin) int { return strings.Compare(a.Name, b.Name) })
	if err := printVerified(g, all); err != nil {
		return err
	}
	for _, p := range all {
		if p.Problem != "" {
			return fmt.Errorf("%s: %s: %w", p.Name, p.Problem, failure.ErrPlugin)
		}
	}
	return nil
}

func verifyPlugin(ctx context.Context, b dispatch.Binary, l *dispatch.Locked, log hclog.Logger) verifiedPlugin {
	v := verifiedPlugin{Name: b.Name, Path: b.Path, Pinned: b.SHA256 != ""}
	info, err := askPlugin(ctx, b, log)
	v.Version = info.Version
	switch {
	case err != nil:
		v.Problem = strings.ReplaceAll(err.Error(), "\n", "; ")
	case l == nil:
	case l.Version != info.Version:
		v.Problem = fmt.Sprintf("says that it is version %s, was %s when it was added", info.Version, l.Version)
	case !slices.Equal(l.Claims, info.Claims):
		v.Problem = fmt.Sprintf("claims %v, claimed %v when it was added", info.Claims, l.Claims)
	}
	return v
}

func printVerified(g *global, all []verifiedPlugin) error {
	if g.json {
		return ui.JSON(os.Stdout, all)
	}
	t := tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "NAME\tVERSION\tPATH\tRESULT")
	for _, p := range all {
		result := p.Problem
		switch {
		case result != "":
		case p.Pinned:
			result = "ok, pinned"
		default:
			result = "ok"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", p.Name, p.Version, p.Path, result)
	}
	return t.Flush()
}
