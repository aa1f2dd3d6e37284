package files

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/files/filespb"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/kern"
	"github.com/firn-cr/firn/sdk/openfile"
)

// inotifyEvents is what a watch can ask for, with the flags that the kernel
// keeps. Others of inotify_add_watch(2) mean that call alone.
const inotifyEvents = unix.IN_ALL_EVENTS | unix.IN_ONESHOT | unix.IN_EXCL_UNLINK

// examineWatchers looks at the instances of inotify and fanotify. It comes
// after all other files: what they watch may be one of these.
func (s *survey) examineWatchers() error {
	for i := range s.items {
		it := &s.items[i]
		if it.file().Type != sdk.TypeAnon {
			continue
		}
		var err error
		switch anonName(it.file().Link) {
		case anonInotify:
			err = s.examineInotify(it)
		case anonFanotify:
			err = s.examineFanotify(it)
		}
		if err != nil && !s.gone(err) {
			return fmt.Errorf("examine %s of task %d: %w", openfile.Subject(it.res), it.res.Task, err)
		}
	}
	return nil
}

func (s *survey) examineInotify(it *item) error {
	info, err := s.access.FDInfo(it.res)
	if err != nil {
		return err
	}
	d, err := s.describe(it)
	if err != nil {
		return err
	}
	msg := &filespb.Inotify{Description: d}
	complete := true
	for _, w := range info.Inotify {
		on, err := s.findWatched(watchKey{w.Dev, w.Ino, w.Handle})
		if err != nil {
			return err
		}
		if on == nil {
			s.block(it, fmt.Sprintf("inotify: watch %d is on inode %d of device %d:%d, whose path is not known",
				w.WD, w.Ino, unix.Major(w.Dev), unix.Minor(w.Dev)), "open the file, or be in its directory")
			complete = false
			continue
		}
		msg.Watches = append(msg.Watches, &filespb.InotifyWatch{Wd: uint32(w.WD), Mask: w.Mask & inotifyEvents, On: on})
	}
	slices.SortFunc(msg.Watches, func(a, b *filespb.InotifyWatch) int { return cmp.Compare(a.GetWd(), b.GetWd()) })
	if read, err := s.eventsRead(it, "inotify"); err != nil || !read {
		return err
	}
	if complete {
		it.kind, it.msg = kindInotify, msg
	}
	return nil
}

// A program that runs may read its events any moment: only what stays unread for
// a while is reported.
const (
	unreadChecks   = 5
	unreadInterval = 20 * time.Millisecond
)

// eventsRead tells whether the program has read all events, and reports it
// otherwise. Events can neither be looked at without taking them from the
// program nor be put into a new queue.
func (s *survey) eventsRead(it *item, what string) (bool, error) {
	fd, err := s.access.Dup(it.res)
	if err != nil {
		return false, err
	}
	defer unix.Close(fd)
	for checks := 1; ; checks++ {
		unread, err := unix.IoctlGetInt(fd, unix.TIOCINQ)
		if err != nil {
			return false, fmt.Errorf("get fill: %w", err)
		}
		if unread == 0 {
			return true, nil
		}
		if s.frozen || checks == unreadChecks {
			s.block(it, fmt.Sprintf("%s: %d bytes of events have not been read", what, unread), "try again when the program has read them")
			return false, nil
		}
		time.Sleep(unreadInterval)
	}
}

// makeInotify makes an instance without watches. Those are set by
// [plugin.Seal]: until then the restore itself opens files.
func makeInotify(m *filespb.Inotify) (int, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("inotify: %w", err)
	}
	if err := openfile.SetFlags(fd, m.GetDescription().GetFlags()); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("inotify: %w", err)
	}
	return fd, nil
}

// watch sets the watches of an instance under their numbers.
func (p *plugin) watch(fd int, m *filespb.Inotify) error {
	for _, w := range m.GetWatches() {
		if err := p.addWatch(fd, w); err != nil {
			return fmt.Errorf("watch %d on %s: %w", w.GetWd(), w.GetOn().GetPath(), err)
		}
	}
	return nil
}

func (p *plugin) addWatch(fd int, w *filespb.InotifyWatch) error {
	if w.GetWd() == 0 || int32(w.GetWd()) < 0 || w.GetMask()&^uint32(inotifyEvents) != 0 {
		return fmt.Errorf("number %d, mask %#x: %w", int32(w.GetWd()), w.GetMask(), sdk.ErrCorrupt)
	}
	target, err := p.openWatched(w.GetOn())
	if err != nil {
		return err
	}
	defer unix.Close(target)
	if err := kern.SetNextWatch(fd, int32(w.GetWd())); err != nil {
		return fmt.Errorf("set number: %w", err)
	}
	wd, err := unix.InotifyAddWatch(fd, fmt.Sprintf("/proc/self/fd/%d", target), w.GetMask())
	if err != nil {
		return fmt.Errorf("inotify_add_watch: %w", err)
	}
	if wd != int(w.GetWd()) {
		return fmt.Errorf("got number %d: %w", wd, sdk.ErrKernel)
	}
	return nil
}
