package files

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/files/filespb"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/openfile"
)

// deletedSuffix is what the kernel appends to the path of a file that has no
// name any more.
const deletedSuffix = " (deleted)"

// pseudo are the file systems that make their files up: inode numbers, sizes
// and times say nothing about identity.
var pseudo = map[string]bool{
	"proc": true, "sysfs": true, "cgroup": true, "cgroup2": true, "debugfs": true,
	"tracefs": true, "securityfs": true, "configfs": true, "efivarfs": true, "pstore": true,
}

const statxMask = unix.STATX_BASIC_STATS | unix.STATX_BTIME | unix.STATX_MNT_ID

// examineNamed handles what can be opened again by its path.
func (s *survey) examineNamed(it *item) error {
	f := it.file()
	if !strings.HasPrefix(f.Link, "/") {
		s.block(it, f.Link+": this kind of file is not carried", "")
		return nil
	}
	d, err := s.describe(it)
	if err != nil {
		return err
	}
	it.kind = kindNamed
	msg := &filespb.Named{Description: d, Path: []byte(f.Link), Offset: f.Offset, Pseudo: pseudo[f.FS]}
	if f.FS == "proc" && !s.examineProc(it, msg) {
		return nil
	}
	var st unix.Statx_t
	err = unix.Statx(unix.AT_FDCWD, f.Link, unix.AT_SYMLINK_NOFOLLOW|unix.AT_STATX_DONT_SYNC, statxMask, &st)
	if err != nil || !msg.Pseudo && !same(f, &st) {
		return s.examineUnreachable(it, msg)
	}
	if int(st.Mnt_id) != f.MountID && st.Mask&unix.STATX_MNT_ID != 0 {
		s.block(it, f.Link+": was opened in another mount namespace, or its mount is hidden by another one", "")
		return nil
	}
	if !msg.Pseudo {
		msg.Identity = identity(&st)
	}
	it.msg = msg
	return s.examineCarried(it, msg)
}

// same tells whether a path leads to the file that is open.
func same(f *sdk.File, st *unix.Statx_t) bool {
	return unix.Mkdev(st.Dev_major, st.Dev_minor) == f.Dev && st.Ino == f.Ino
}

// examineUnreachable handles a file that its path does not lead to: one without
// a name, or one that cannot be found.
func (s *survey) examineUnreachable(it *item, msg *filespb.Named) error {
	f := it.file()
	path, deleted := strings.CutSuffix(f.Link, deletedSuffix)
	_, ours, err := s.mounts.get(f.MountID)
	if err != nil {
		return err
	}
	name, memory := strings.CutPrefix(path, "/memfd:")
	switch {
	case memory && !ours && f.Type == sdk.TypeRegular:
		return s.examineGhost(it, msg, &filespb.Ghost{Path: []byte(name), Memory: true})
	case !deleted:
		s.block(it, f.Link+": the path leads to another file now, or only in another root or mount namespace", "")
	case !ours:
		s.block(it, f.Link+": a file without a name, on a mount that cannot be reached", "")
	case f.Type != sdk.TypeRegular && f.Type != sdk.TypeDirectory:
		s.block(it, f.Link+": only regular files and directories are carried without a name", "")
	default:
		return s.examineGhost(it, msg, &filespb.Ghost{Path: []byte(path)})
	}
	return nil
}

func identity(st *unix.Statx_t) *filespb.Identity {
	id := &filespb.Identity{
		Dev: unix.Mkdev(st.Dev_major, st.Dev_minor), Ino: st.Ino, Mode: uint32(st.Mode),
		Size: int64(st.Size), Mtime: nanoseconds(st.Mtime),
	}
	if st.Mask&unix.STATX_BTIME != 0 {
		id.Btime = nanoseconds(st.Btime)
	}
	return id
}

func nanoseconds(t unix.StatxTimestamp) int64 { return t.Sec*1e9 + int64(t.Nsec) }

// presentName is the path under which a file is now: its own, or the other name of one
// that was deleted.
func presentName(n *filespb.Named) string {
	if len(n.GetLink()) > 0 {
		return string(n.GetLink())
	}
	return string(n.GetPath())
}

// checkNamed compares the file that a path leads to now with the one of the
// checkpoint. The level is [sdk.LevelOK] if there is nothing to say.
func (p policies) checkNamed(n *filespb.Named) (level sdk.Level, text, help string) {
	path := presentName(n)
	if n.GetProcess() != 0 || n.GetGhost() != 0 {
		return sdk.LevelOK, "", "" // comes with the process, or with the image
	}
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW, statxMask, &st)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return sdk.LevelBlock, path + ": does not exist", "put the file back where it was at the checkpoint"
	}
	if err != nil {
		return sdk.LevelBlock, fmt.Sprintf("%s: stat: %v", path, err), ""
	}
	if n.GetPseudo() {
		return sdk.LevelOK, "", ""
	}
	was, is := n.GetIdentity(), identity(&st)
	if was.GetMode()&unix.S_IFMT != is.Mode&unix.S_IFMT {
		return sdk.LevelBlock, fmt.Sprintf("%s: is %s, was %s", path, typeName(is.Mode), typeName(was.GetMode())), ""
	}
	if was.GetMode()&unix.S_IFMT != unix.S_IFREG || n.GetDescription().GetFlags()&unix.O_PATH != 0 {
		return sdk.LevelOK, "", ""
	}
	if flags := n.GetDescription().GetFlags(); flags&unix.O_ACCMODE != unix.O_RDONLY {
		if err := unix.Faccessat(unix.AT_FDCWD, path, unix.W_OK, unix.AT_EACCESS); err != nil {
			return sdk.LevelBlock, fmt.Sprintf("%s: cannot be written: %v", path, err), ""
		}
	}
	return p.of(string(n.GetPath())).compare(path, was, is)
}

func stamp(ns int64) string { return time.Unix(0, ns).UTC().Format(time.RFC3339Nano) }

func typeName(mode uint32) string {
	switch mode & unix.S_IFMT {
	case unix.S_IFREG:
		return "a regular file"
	case unix.S_IFDIR:
		return "a directory"
	case unix.S_IFLNK:
		return "a symbolic link"
	case unix.S_IFIFO:
		return "a FIFO"
	case unix.S_IFCHR:
		return "a character device"
	case unix.S_IFBLK:
		return "a block device"
	case unix.S_IFSOCK:
		return "a socket"
	}
	return "no file"
}

// openNamed opens a file again and gives it its offset.
func (r *restore) openNamed(n *filespb.Named) (int, error) {
	path, fd, err := r.reopenNamed(n)
	if err != nil {
		return -1, fmt.Errorf("open %s: %w", path, err)
	}
	if err := r.finishNamed(fd, n); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("%s: %w", path, err)
	}
	return fd, nil
}

func (r *restore) finishNamed(fd int, n *filespb.Named) error {
	flags := n.GetDescription().GetFlags()
	if id := n.GetIdentity(); id != nil {
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			return fmt.Errorf("fstat: %w", err)
		}
		if st.Mode&unix.S_IFMT != id.GetMode()&unix.S_IFMT {
			return fmt.Errorf("is %s, was %s: %w", typeName(st.Mode), typeName(id.GetMode()), sdk.ErrChanged)
		}
		if st.Mode&unix.S_IFMT == unix.S_IFREG && flags&unix.O_PATH == 0 && !r.policies.of(string(n.GetPath())).shorter(&st, id) {
			return fmt.Errorf("has %d bytes, had %d: %w", st.Size, id.GetSize(), sdk.ErrChanged)
		}
	}
	if n.GetOffset() != 0 && flags&unix.O_PATH == 0 {
		if _, err := unix.Seek(fd, n.GetOffset(), unix.SEEK_SET); err != nil {
			return fmt.Errorf("seek to %d: %w", n.GetOffset(), err)
		}
	}
	if err := takeLocks(fd, n.GetLocks()); err != nil {
		return err
	}
	return openfile.SetFlags(fd, flags)
}
