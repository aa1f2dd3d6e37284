package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/firn-cr/firn/host/dispatch"
	"github.com/firn-cr/firn/host/failure"
)

// global holds the flags that every command has, and what this process is.
type global struct {
	logLevel string
	json     bool
	// warm and logger are those of a process that was kept ready by serve.
	warm   *dispatch.Warm
	logger hclog.Logger
	idle   time.Duration // how long it was ready
	// declined is why such a process cannot run the command; nothing is done then.
	declined error
	// unserved is why serve did not run the command although it was asked.
	unserved error
}

func usagef(format string, args ...any) error {
	return fmt.Errorf(format+": %w", append(args, failure.ErrUsage)...)
}

func newRoot(g *global) *cobra.Command {
	root := &cobra.Command{
		Use:   "firn",
		Short: "Checkpoint running process trees and restore them",
		Long: `Firn saves a running process tree into one image file and brings it back.

Every kernel subsystem is saved by a plugin of its own; "firn plugin list" shows
them. "firn check PID" says beforehand what would keep a tree from being saved.

Exit status: 0 done; 1 failed, the tree or the machine is as before; 2 usage;
3 not checkpointable; 4 plugin missing, refused or of the wrong version; 5 a
right or a kernel feature is missing; 6 timed out, rolled back; 7 failed and the
tree is damaged.`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          noCommand,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.PersistentFlags().StringVar(&g.logLevel, "log-level", envOr("FIRN_LOG", "warn"), logUsage)
	root.PersistentFlags().BoolVar(&g.json, "json", false, "print the result as one JSON object")
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usagef("%v", err) })
	root.AddCommand(newCheckpoint(g), newRestore(g), newCheck(g), newShow(g), newVerify(g), newFlatten(g), newPlugin(g), newVersion(g), newServe(g), newServeWorker(g), newServeSubject())
	return root
}

func noCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	hint := ""
	if s := cmd.SuggestionsFor(args[0]); len(s) > 0 {
		hint = "; did you mean " + strings.Join(s, " or ")
	}
	return usagef("unknown command %q%s (see firn help)", args[0], hint)
}

// oneArg demands exactly one argument and names it in the error.
func oneArg(name string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != 1 {
			return usagef("%s: want one argument, the %s, got %d", cmd.CommandPath(), name, len(args))
		}
		return nil
	}
}

func parsePID(text string) (int, error) {
	pid, err := strconv.Atoi(text)
	if err != nil || pid <= 0 {
		return 0, usagef("%q is not a process id", text)
	}
	return pid, nil
}

func envOr(name, fallback string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return fallback
}

// shellJob is a flag of checkpoints and restores.
const shellJob = "shell-job"

// addPluginFlags adds the flags of a checkpoint that mean something to plugins
// only. --plugin-option serves plugins that firn does not know.
func addPluginFlags(f *pflag.FlagSet) {
	f.Bool("file-locks", false, "carry file locks: nobody else may hold or wait for them meanwhile")
	f.String("ghost-limit", "1M", "carry the content of deleted files up to this size")
	f.StringArray("carry", nil, "carry the content of open regular files: `PATH`, a pattern, or a directory and a slash; may be repeated")
	f.StringArray("file-digest", nil, "let the restore know open regular files by their content: `PATH`, a pattern, or a directory and a slash; may be repeated")
	f.StringArray("external", nil, "leave something out of the image: `KEY` is what /proc/PID/fd shows of a file, pipe:[INODE] or a path; net[INODE] of a network namespace; veth[DEVICE] of the other end of a device; may be repeated")
	f.Bool("link-remap", false, "give deleted files that have another, unknown name one more until the restore")
	f.Bool("tcp-established", false, "carry TCP connections; their packets are kept away until the restore")
	f.Bool("tcp-close", false, "give TCP connections up: they are restored as ended")
	f.Bool("ext-unix-sk", false, "allow unix datagram sockets that are connected to a socket outside of the tree")
	f.Bool(shellJob, false, "leave a terminal behind whose other side is outside of the tree")
	f.StringArray("plugin-option", nil, "an option `NAME=VALUE` for plugins; may be repeated")
	f.StringArray("plugin-for", nil, "give resources to a plugin whatever others claim: `KIND:PATTERN=PLUGIN`, where KIND is file, mapping or namespace; may be repeated")
	f.StringArray("disable-plugin", nil, "do not use the plugin `NAME` in this run; may be repeated")
	addTrustFlag(f, new([]string), new([]string))
}

// addTrustFlag adds the flags that take the containment, or the deadlines, from
// plugins.
func addTrustFlag(f *pflag.FlagSet, trusted, debugged *[]string) {
	f.StringArrayVar(debugged, "debug-plugin", nil, "stop the plugin `NAME` when it is started, until a debugger is attached or it gets a SIGCONT, and give it all the time it takes (see --timeout); may be repeated")
	f.StringArrayVar(trusted, "trust-plugin", nil, "give the plugin `NAME`, which did not come with firn, all rights of firn, not only those that it declares; may be repeated")
}

// selection reads the flags that say which plugins take part.
func selection(cmd *cobra.Command) (s dispatch.Selection, err error) {
	if s.Disabled, err = cmd.Flags().GetStringArray("disable-plugin"); err != nil {
		return s, err
	}
	if s.Trusted, err = cmd.Flags().GetStringArray("trust-plugin"); err != nil {
		return s, err
	}
	if s.Debugged, err = cmd.Flags().GetStringArray("debug-plugin"); err != nil {
		return s, err
	}
	rules, err := cmd.Flags().GetStringArray("plugin-for")
	if err != nil {
		return s, err
	}
	for _, text := range rules {
		r, err := dispatch.ParseRule(text)
		if err != nil {
			return s, fmt.Errorf("--plugin-for %w", err)
		}
		s.Rules = append(s.Rules, r)
	}
	return s, nil
}

// pluginOptions collects the flags that were given on the command line; plugins
// see them by name.
func pluginOptions(cmd *cobra.Command) (map[string]string, error) {
	out := map[string]string{}
	cmd.Flags().Visit(func(f *pflag.Flag) {
		out[f.Name] = f.Value.String()
		if list, ok := f.Value.(pflag.SliceValue); ok {
			out[f.Name] = strings.Join(list.GetSlice(), "\n")
		}
	})
	delete(out, "plugin-option")
	if cmd.Flags().Lookup("plugin-option") == nil {
		return out, nil
	}
	extra, err := cmd.Flags().GetStringArray("plugin-option")
	if err != nil {
		return nil, err
	}
	for _, o := range extra {
		name, value, ok := strings.Cut(o, "=")
		if !ok || name == "" {
			return nil, usagef("--plugin-option %q: want NAME=VALUE", o)
		}
		out[name] = value
	}
	return out, nil
}
