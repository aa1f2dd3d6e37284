package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/host/dispatch"
	"github.com/firn-cr/firn/host/internal/ui"
	"github.com/firn-cr/firn/host/restore"
)

const restoreHelp = `Restore creates the process tree of IMAGE again, under its old process ids, and
lets it go on. It waits for the root process and passes on its exit status;
with -d it returns as soon as the tree runs.

Nothing is created before the whole image has been verified. When anything
fails before the tree runs, every task that was created is ended.

A tree that had a PID namespace of its own gets a new one.
With --new-pid-namespace the tree sees its old process ids in a PID namespace of
its own, where they are always free; the host sees others, and those are what
restore prints. The namespace ends with the root process, and everybody in it.
The tree gets a mount namespace of its own as well, with the mounts of the caller
and its own /proc.

With --shell-job a tree that was checkpointed with --shell-job gets the terminal
that is standard input, output or error of firn, or else its controlling
terminal. A tree without a session of its own joins that of firn; one that has
its own takes the terminal away from firn's.

Tasks go back to the control groups that they were in, if these are there. With
--manage-cgroups those that are missing are created, with the limits and owners
that they had at the checkpoint, and removed again if the restore fails.`

func newRestore(g *global) *cobra.Command {
	cfg := restore.Config{}
	var detach bool
	var pidfile string
	cmd := &cobra.Command{
		Use:     "restore IMAGE",
		Short:   "Bring a process tree back from an image",
		Long:    restoreHelp,
		Example: "  firn restore app.firn\n  firn restore -d --pidfile app.pid app.firn",
		Args:    oneArg("IMAGE"),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			cfg.Image = args[0]
			if cfg.Log, err = g.log(); err != nil {
				return err
			}
			if cfg.Options, err = pluginOptions(cmd); err != nil {
				return err
			}
			if err := checkInherited(cmd); err != nil {
				return err
			}
			cfg.PluginDirs, cfg.Warm = dispatch.PluginDirs(), g.warm
			if own, err := restore.OwnMounts(&cfg); err == nil && own && g.warm != nil {
				g.declined = errors.New("firn serve restores nothing into a mount namespace of its own")
				return g.declined
			}
			if err := enterMounts(&cfg); err != nil {
				return &commandError{"restore " + cfg.Image, err}
			}
			j := newJob(cfg.ShellJob)
			done := showRestore(&cfg)
			tree, res, err := restore.Run(cmd.Context(), cfg)
			done()
			if err != nil {
				return &commandError{"restore " + cfg.Image, err}
			}
			if err := printRestore(g, &res, detach); err != nil {
				return err
			}
			if pidfile != "" {
				if err := os.WriteFile(pidfile, []byte(strconv.Itoa(res.RootPID)+"\n"), 0o644); err != nil {
					return &commandError{"restore " + cfg.Image, fmt.Errorf("the tree runs, but its pidfile was not written: %w", err)}
				}
			}
			if detach {
				return nil
			}
			return passOn(cmd.Context(), tree, j)
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&detach, "detach", "d", false, "return when the tree runs")
	f.StringVar(&pidfile, "pidfile", "", "write the root's process id into this file")
	f.BoolVarP(&cfg.LeaveStopped, "leave-stopped", "s", false, "leave the tree stopped (SIGSTOP)")
	f.BoolVar(&cfg.NewPIDNamespace, "new-pid-namespace", false, "restore into a new PID namespace: the process ids may be in use")
	f.BoolVar(&cfg.ShellJob, shellJob, false, "give the terminal of firn to a tree that left its own behind")
	f.DurationVar(&cfg.Timeout, "timeout", 5*time.Minute, "give up, and end what was created, after this time")
	addTrustFlag(f, &cfg.TrustedPlugins, &cfg.DebuggedPlugins)
	addRestorePluginFlags(f)
	return cmd
}

// showRestore shows how far a restore is, on a terminal that is not the tree's, or
// not yet.
func showRestore(cfg *restore.Config) (done func()) {
	if cfg.ShellJob {
		return func() {}
	}
	p := ui.NewProgress(os.Stderr)
	var running atomic.Bool
	cfg.Progress = func(phase string, done, total int64) {
		switch {
		case phase == restore.PhaseResume:
			running.Store(true)
			p.Done()
		case !running.Load():
			p.Show(phase, done, total)
		}
	}
	return p.Done
}

// addRestorePluginFlags adds the flags of a restore that mean something to plugins
// only.
func addRestorePluginFlags(f *pflag.FlagSet) {
	f.StringArray("plugin-option", nil, "an option `NAME=VALUE` for plugins; may be repeated")
	f.Bool("manage-cgroups", false, "create the control groups that are missing, with the limits that they had")
	f.StringArray("changed-files", nil, "what to accept of regular files that changed: `[PATTERN=]POLICY`, one of refuse, append, same (the default), accept; may be repeated")
	f.Bool("tcp-established", false, "restore TCP connections; the default, if the image has them")
	f.Bool("tcp-close", false, "give TCP connections up: they are restored as ended")
	f.StringArray("rewrite-addr", nil, "give sockets with the IP address OLD the address NEW: `OLD=NEW`; may be repeated")
	f.IntSlice("inherit", nil, "take the caller's descriptor `FD` for that of the same number of the root process; may be repeated")
	f.StringArray("inherit-fd", nil, "take descriptor N of the caller for a file: `fd[N]:KEY`, where KEY is pipe:[INODE] or a path; may be repeated")
	f.StringArray("join-ns", nil, "let the tree enter a namespace instead of one of its own: `NAME:PATH`, net:/run/netns/blue; may be repeated")
	f.StringArray("external", nil, "make the other end of a veth device under another name, in a bridge or not: `veth[DEVICE]:NAME[@BRIDGE]`; may be repeated")
	f.Bool("host-clocks", false, "do not continue CLOCK_MONOTONIC and CLOCK_BOOTTIME: let the tree see those of this machine")
}

// checkInherited makes sure that the descriptors which the caller hands over are
// open and not firn's own: the runtime marks all that it opens close-on-exec, and
// nothing that was inherited is.
func checkInherited(cmd *cobra.Command) error {
	fds, err := cmd.Flags().GetIntSlice("inherit")
	if err != nil {
		return err
	}
	list, err := cmd.Flags().GetStringArray("inherit-fd")
	if err != nil {
		return err
	}
	for _, v := range list {
		var fd int
		if _, err := fmt.Sscanf(v, "fd[%d]:", &fd); err != nil {
			return usagef("--inherit-fd %q: want fd[N]:KEY", v)
		}
		fds = append(fds, fd)
	}
	for _, fd := range fds {
		flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
		if err != nil || flags&unix.FD_CLOEXEC != 0 {
			return usagef("the descriptor %d that the tree is to inherit is not open", fd)
		}
	}
	return nil
}

// enterMounts gives this process the mount namespace in which the tree gets its
// own /proc, if it gets one.
func enterMounts(cfg *restore.Config) error {
	own, err := restore.OwnMounts(cfg)
	if err != nil || !own {
		return err
	}
	return restore.EnterMountNamespace()
}

func printRestore(g *global, res *restore.Result, detach bool) error {
	for _, n := range res.Notes {
		fmt.Fprintln(os.Stderr, "firn: note: "+n)
	}
	if g.json {
		return ui.JSON(os.Stdout, res)
	}
	if !detach {
		return nil // stdout belongs to the program
	}
	_, err := fmt.Printf("%d: %s in %s, %s of memory, in %s\n", res.RootPID,
		ui.Count(res.Tasks, "process", "processes"), ui.Count(res.Threads, "thread", "threads"),
		ui.Size(res.BytesMemory), ui.Millis(res.TotalMS))
	return err
}
