package files

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/files/filespb"
	"github.com/firn-cr/firn/sdk/kern"
	"github.com/firn-cr/firn/sdk/openfile"
	"github.com/firn-cr/firn/sdk/procfs"
)

// examineEpoll reads the interest list. Its members must be open in one of the
// processes that have the instance, for that process will add them again: under
// the number under which they were added, or under another one.
//
// An entry that EPOLLONESHOT has disabled comes back enabled for errors and
// hang-ups, which epoll_ctl(2) always adds.
func (s *survey) examineEpoll(it *item) error {
	info, err := s.access.FDInfo(it.res)
	if err != nil {
		return err
	}
	d, err := s.describe(it)
	if err != nil {
		return err
	}
	msg := &filespb.Epoll{Description: d}
	if msg.Params, err = s.epollParams(it); err != nil {
		return err
	}
	var lost []procfs.EpollTarget
	for _, ref := range it.file().Refs {
		p := s.sess.Tree.Process(ref.Task)
		if p == nil {
			continue
		}
		var targets []*filespb.EpollTarget
		targets, lost, err = epollTargets(p.PID, ref.FD, info.Epoll)
		if err != nil {
			return err
		}
		if len(lost) == 0 {
			msg.Task, msg.Fd, msg.Targets = uint32(ref.Task), uint32(ref.FD), targets
			break
		}
	}
	for _, t := range lost {
		s.block(it, fmt.Sprintf("epoll: watches a file that was added as fd %d (inode %d) and is no longer open in the task", t.FD, t.Ino), "")
	}
	if len(lost) == 0 {
		it.kind, it.msg = kindEpoll, msg
	}
	return nil
}

// epollParams returns nil if busy polling is not set up.
func (s *survey) epollParams(it *item) (*filespb.EpollParams, error) {
	fd, err := s.access.Dup(it.res)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	p, err := kern.GetEpollParams(fd)
	if err != nil || p == (kern.EpollParams{}) {
		return nil, nil // before Linux 6.9 there is nothing to read
	}
	return &filespb.EpollParams{
		BusyPollUsecs: p.BusyPollUsecs, BusyPollBudget: uint32(p.BusyPollBudget), PreferBusyPoll: p.PreferBusyPoll != 0,
	}, nil
}

// epollTargets finds the members of instance epfd in the descriptors of a
// task. lost are those that are not among them.
func epollTargets(tid, epfd int, list []procfs.EpollTarget) (found []*filespb.EpollTarget, lost []procfs.EpollTarget, err error) {
	same := map[int]int{} // entries so far that were added under one number
	for _, t := range list {
		skip := same[t.FD]
		same[t.FD]++
		msg := &filespb.EpollTarget{Fd: uint32(t.FD), Events: t.Events, Data: t.Data}
		ok, err := epollHas(tid, t.FD, epfd, t.FD, skip)
		if err != nil {
			return nil, nil, err
		}
		if !ok {
			msg.Moved = true
			var other int
			if other, ok, err = findMoved(tid, epfd, t, skip); err != nil {
				return nil, nil, err
			}
			msg.Other = uint32(other)
		}
		if ok {
			found = append(found, msg)
		} else {
			lost = append(lost, t)
		}
	}
	return found, lost, nil
}

// epollHas is [kern.EpollHas] where a closed descriptor is nothing unusual.
func epollHas(tid, fd, epfd, target, skip int) (bool, error) {
	ok, err := kern.EpollHas(tid, fd, epfd, target, skip)
	if errors.Is(err, unix.EBADF) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("compare fd %d with epoll target %d: kcmp: %w", fd, target, err)
	}
	return ok, nil
}

// findMoved looks for a member among the other descriptors of the task: the
// number under which it was added was closed, but not the file.
func findMoved(tid, epfd int, t procfs.EpollTarget, skip int) (int, bool, error) {
	dir, err := os.Open(fmt.Sprintf("/proc/%d/fd", tid))
	if err != nil {
		return 0, false, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return 0, false, err
	}
	slices.Sort(names)
	for _, name := range names {
		var st unix.Stat_t
		if err := unix.Fstatat(int(dir.Fd()), name, &st, 0); err != nil || st.Ino != t.Ino {
			continue
		}
		fd, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		if ok, err := epollHas(tid, fd, epfd, t.FD, skip); ok || err != nil {
			return fd, ok, err
		}
	}
	return 0, false, nil
}

// makeEpoll makes an empty instance; [plugin.LinkFiles] fills it.
func makeEpoll(e *filespb.Epoll) (int, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("epoll: %w", err)
	}
	if p := e.GetParams(); p != nil {
		params := kern.EpollParams{BusyPollUsecs: p.GetBusyPollUsecs(), BusyPollBudget: uint16(p.GetBusyPollBudget())}
		if p.GetPreferBusyPoll() {
			params.PreferBusyPoll = 1
		}
		err = kern.SetEpollParams(fd, params)
	}
	if err == nil {
		err = openfile.SetFlags(fd, e.GetDescription().GetFlags())
	}
	if err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("epoll: %w", err)
	}
	return fd, nil
}
