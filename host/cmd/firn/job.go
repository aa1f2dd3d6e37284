package main

import (
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"
)

// job is the terminal on which firn runs a tree that joined its session, as a
// shell runs a job: when the tree stops, firn gives the terminal back and stops
// too, so that the shell that started firn goes on; when that continues firn, so
// does the tree.
//
// https://www.gnu.org/software/libc/manual/html_node/Implementing-a-Shell.html
type job struct {
	tty *os.File // nil without a controlling terminal
	own int      // process group of firn
}

// newJob takes note of the terminal before the tree gets it, if it does.
func newJob(shellJob bool) *job {
	if !shellJob {
		return nil
	}
	j := &job{own: unix.Getpgrp()}
	tty, err := os.OpenFile("/dev/tty", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return j
	}
	j.tty = tty
	// Who sets the foreground group from the background is stopped otherwise.
	signal.Ignore(syscall.SIGTTOU)
	return j
}

// foreground is the process group in the foreground; 0 if the terminal is not
// firn's any more.
func (j *job) foreground() int {
	if j.tty == nil {
		return 0
	}
	group, err := unix.IoctlGetInt(int(j.tty.Fd()), unix.TIOCGPGRP)
	if err != nil {
		return 0
	}
	return group
}

func (j *job) setForeground(group int) {
	_ = unix.IoctlSetPointerInt(int(j.tty.Fd()), unix.TIOCSPGRP, group)
}

// stopped is called when the root was stopped.
func (j *job) stopped(root int, by syscall.Signal) {
	if by != syscall.SIGTSTP && by != syscall.SIGTTIN && by != syscall.SIGTTOU {
		return // not the terminal's doing
	}
	group, err := unix.Getpgid(root)
	if err != nil || j.foreground() == 0 {
		return
	}
	if j.foreground() == group {
		j.setForeground(j.own)
	}
	// The stop may reach another thread first, and this one go on meanwhile.
	continued := make(chan os.Signal, 1)
	signal.Notify(continued, syscall.SIGCONT)
	_ = unix.Kill(os.Getpid(), unix.SIGSTOP)
	<-continued
	signal.Stop(continued)
	if j.foreground() == j.own {
		j.setForeground(group)
	}
	_ = unix.Kill(-group, unix.SIGCONT)
}

// ended gives the terminal back, if nobody uses it any more.
func (j *job) ended() {
	if group := j.foreground(); group != 0 && group != j.own && unix.Kill(-group, 0) == unix.ESRCH {
		j.setForeground(j.own)
	}
}
