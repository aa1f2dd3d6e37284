package files

import (
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/files/filespb"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/openfile"
	"github.com/firn-cr/firn/sdk/procfs"
)

const (
	// fanotifyClasses are the classes of groups that are asked for permission.
	// While such a program is frozen, everybody who opens what it watches waits
	// for it, firn too.
	fanotifyClasses = unix.FAN_CLASS_CONTENT | unix.FAN_CLASS_PRE_CONTENT
	// markFlags are the flags of a mark that the kernel keeps.
	markFlags = unix.FAN_MARK_IGNORED_SURV_MODIFY | unix.FAN_MARK_EVICTABLE | unix.FAN_MARK_IGNORE
)

// fanotifyKinds are the kinds of marks that are carried, by what they are on.
var fanotifyKinds = map[procfs.FanotifyObject]uint32{
	procfs.FanotifyInode:      unix.FAN_MARK_INODE,
	procfs.FanotifyMount:      unix.FAN_MARK_MOUNT,
	procfs.FanotifyFilesystem: unix.FAN_MARK_FILESYSTEM,
}

func (s *survey) examineFanotify(it *item) error {
	info, err := s.access.FDInfo(it.res)
	if err != nil {
		return err
	}
	g := info.Fanotify
	if g == nil {
		return fmt.Errorf("fdinfo of a fanotify group has no flags: %w", sdk.ErrKernel)
	}
	if text, err := s.fanotifyRefusal(it, g); err != nil || text != "" {
		s.block(it, "fanotify: "+text, "")
		return err
	}
	d, err := s.describe(it)
	if err != nil {
		return err
	}
	msg := &filespb.Fanotify{Description: d, Flags: g.Flags, EventFlags: g.EventFlags}
	complete := true
	for i := range g.Marks {
		m := &g.Marks[i]
		on, err := s.findMarked(m)
		if err != nil {
			return err
		}
		if on == nil {
			s.block(it, fmt.Sprintf("fanotify: a mark is on %s %d of device %d:%d, whose path is not known",
				m.Object, max(m.Ino, uint64(m.MountID)), unix.Major(m.Dev), unix.Minor(m.Dev)), "")
			complete = false
			continue
		}
		msg.Marks = append(msg.Marks, &filespb.FanotifyMark{
			Kind: fanotifyKinds[m.Object], On: on, Flags: m.Flags, Mask: m.Mask, Ignored: m.Ignored,
		})
	}
	if read, err := s.eventsRead(it, "fanotify"); err != nil || !read {
		return err
	}
	if complete {
		it.kind, it.msg = kindFanotify, msg
	}
	return nil
}

// fanotifyRefusal tells what of a group cannot be carried at all.
func (s *survey) fanotifyRefusal(it *item, g *procfs.FanotifyInfo) (string, error) {
	if g.Flags&fanotifyClasses != 0 {
		return "groups that are asked for permission are not carried", nil
	}
	for i := range g.Marks {
		m := &g.Marks[i]
		if _, ok := fanotifyKinds[m.Object]; !ok {
			return fmt.Sprintf("marks on %s are not carried", m.Object), nil
		}
		if unknown := m.Flags &^ uint32(markFlags); unknown != 0 {
			return fmt.Sprintf("a mark has flags %#x, which are not carried", unknown), nil
		}
	}
	// The kernel does not show whether a group was made without CAP_SYS_ADMIN;
	// such a group is told less (fanotify_init(2)).
	_, p, err := s.access.Holder(it.res)
	if err != nil {
		return "", err
	}
	status, err := procfs.Status(p.PID)
	if err != nil {
		return "", err
	}
	if status.CapEff>>unix.CAP_SYS_ADMIN&1 == 0 {
		return "groups of processes without CAP_SYS_ADMIN are not carried", nil
	}
	return "", nil
}

// findMarked finds a path to what a mark is on.
func (s *survey) findMarked(m *procfs.FanotifyMark) (*filespb.Watched, error) {
	if m.Object == procfs.FanotifyInode {
		return s.findWatched(watchKey{m.Dev, m.Ino, m.Handle})
	}
	mounts, err := s.mounts.all()
	if err != nil {
		return nil, err
	}
	for i := range mounts {
		mt := &mounts[i]
		if m.Object == procfs.FanotifyMount && mt.ID != m.MountID || m.Object == procfs.FanotifyFilesystem && mt.Dev != m.Dev {
			continue
		}
		var st unix.Statx_t
		err := unix.Statx(unix.AT_FDCWD, mt.Point, unix.AT_SYMLINK_NOFOLLOW|unix.AT_STATX_DONT_SYNC, statxMask, &st)
		if err == nil && int(st.Mnt_id) == mt.ID { // not hidden by another one
			return &filespb.Watched{Path: []byte(mt.Point), Mode: uint32(st.Mode)}, nil
		}
	}
	return nil, nil
}

// makeFanotify makes a group without marks, which [plugin.Seal] sets.
func makeFanotify(m *filespb.Fanotify) (int, error) {
	if m.GetFlags()&fanotifyClasses != 0 {
		return -1, fmt.Errorf("fanotify: flags %#x: %w", m.GetFlags(), sdk.ErrCorrupt)
	}
	fd, err := unix.FanotifyInit(uint(m.GetFlags())|unix.FAN_CLOEXEC, uint(m.GetEventFlags()))
	if err != nil {
		return -1, fmt.Errorf("fanotify_init: %w", err)
	}
	if err := openfile.SetFlags(fd, m.GetDescription().GetFlags()); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("fanotify: %w", err)
	}
	return fd, nil
}

// mark sets the marks of a group.
func (p *plugin) mark(fd int, g *filespb.Fanotify) error {
	// In the order of fdinfo the last one is the oldest.
	for _, m := range slices.Backward(g.GetMarks()) {
		if err := p.addMark(fd, m); err != nil {
			return fmt.Errorf("mark %s: %w", m.GetOn().GetPath(), err)
		}
	}
	return nil
}

func (p *plugin) addMark(fd int, m *filespb.FanotifyMark) error {
	switch m.GetKind() {
	case unix.FAN_MARK_INODE, unix.FAN_MARK_MOUNT, unix.FAN_MARK_FILESYSTEM:
	default:
		return fmt.Errorf("kind %#x: %w", m.GetKind(), sdk.ErrCorrupt)
	}
	if m.GetFlags()&^uint32(markFlags) != 0 {
		return fmt.Errorf("flags %#x: %w", m.GetFlags(), sdk.ErrCorrupt)
	}
	target, err := p.openWatched(m.GetOn())
	if err != nil {
		return err
	}
	defer unix.Close(target)
	path := fmt.Sprintf("/proc/self/fd/%d", target)
	add := func(flags uint32, mask uint32) error {
		if mask == 0 {
			return nil
		}
		if err := unix.FanotifyMark(fd, uint(unix.FAN_MARK_ADD|m.GetKind()|flags), uint64(mask), unix.AT_FDCWD, path); err != nil {
			return fmt.Errorf("fanotify_mark: %w", err)
		}
		return nil
	}
	if err := add(m.GetFlags()&unix.FAN_MARK_EVICTABLE, m.GetMask()); err != nil {
		return err
	}
	ignore := m.GetFlags()
	if ignore&unix.FAN_MARK_IGNORE == 0 {
		ignore |= unix.FAN_MARK_IGNORED_MASK
	}
	return add(ignore, m.GetIgnored())
}
