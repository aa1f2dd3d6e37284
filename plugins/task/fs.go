package task

import (
	"bytes"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/task/taskpb"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/kern"
	"github.com/firn-cr/firn/sdk/openfile"
	"github.com/firn-cr/firn/sdk/tape"
)

// readFS reads what path names of a thread start from.
func readFS(tid, umask int) (*taskpb.FileSystem, error) {
	root, err := os.Readlink(fmt.Sprintf("/proc/%d/root", tid))
	if err != nil {
		return nil, fmt.Errorf("read root directory: %w", err)
	}
	cwd, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", tid))
	if err != nil {
		return nil, fmt.Errorf("read current directory: %w", err)
	}
	fs := &taskpb.FileSystem{Root: []byte(root), Cwd: []byte(cwd), Umask: uint32(umask)}
	var st unix.Stat_t
	if err := unix.Stat(fmt.Sprintf("/proc/%d/cwd", tid), &st); err != nil {
		return nil, fmt.Errorf("stat current directory: %w", err)
	}
	if st.Nlink == 0 {
		fs.Cwd = []byte(strings.TrimSuffix(cwd, deletedSuffix))
		fs.DeletedCwd = &taskpb.DeletedDirectory{Dev: st.Dev, Ino: st.Ino, Mode: st.Mode, Uid: st.Uid, Gid: st.Gid}
	}
	return fs, nil
}

// deletedSuffix is what the kernel appends to the path of a deleted directory.
const deletedSuffix = " (deleted)"

// sharesFS tells whether two tasks share root, current directory and umask.
func sharesFS(a, b int) (bool, error) {
	order, err := kern.Kcmp(a, b, kern.KcmpFS, 0, 0)
	if err != nil {
		return false, fmt.Errorf("compare file system context of %d and %d: %w", a, b, err)
	}
	return order == 0, nil
}

// directoryFinding tells why a directory of a task cannot be carried, as the
// text of a finding; "" if it can. What names it must lead to it.
func directoryFinding(tid int, which string) string {
	link := fmt.Sprintf("/proc/%d/%s", tid, which)
	path, err := os.Readlink(link)
	if err != nil {
		return "" // gone, or the dump will say
	}
	var there, named unix.Stat_t
	if err := unix.Stat(link, &there); err != nil {
		return ""
	}
	if there.Nlink == 0 {
		if which == "cwd" && strings.HasPrefix(path, "/") {
			return "" // will be made again
		}
		return strings.TrimSuffix(path, deletedSuffix) + " is deleted"
	}
	if err := unix.Stat(path, &named); err != nil {
		return fmt.Sprintf("%s cannot be reached: %v", path, err)
	}
	if named.Dev != there.Dev || named.Ino != there.Ino {
		return path + " is another directory by now (renamed, or something is mounted over it)"
	}
	return ""
}

// deletedKey identifies a deleted directory of the image.
type deletedKey struct{ dev, ino uint64 }

// placer puts threads where their paths start.
type placer struct {
	// deleted are descriptors of deleted directories, in this process.
	deleted map[deletedKey]int
	// pluginFD is the number of this process's pidfd in every task.
	pluginFD int
}

// makeDeleted makes the deleted directories of all threads once more.
func (p *placer) makeDeleted(saved []*savedProcess) error {
	p.deleted = map[deletedKey]int{}
	add := func(fs *taskpb.FileSystem) error {
		d := fs.GetDeletedCwd()
		key := deletedKey{d.GetDev(), d.GetIno()}
		if _, ok := p.deleted[key]; ok || d == nil {
			return nil
		}
		dir := openfile.Directory{Path: string(fs.GetCwd()), Mode: d.GetMode(), UID: d.GetUid(), GID: d.GetGid()}
		fd, err := dir.Make()
		if err == nil {
			p.deleted[key] = fd
		}
		return err
	}
	for _, s := range saved {
		if err := add(s.rec.GetFs()); err != nil {
			return err
		}
		for i := range s.threads {
			if err := add(s.threads[i].rec.GetFs()); err != nil {
				return err
			}
		}
	}
	return nil
}

func (p *placer) close() {
	for _, fd := range p.deleted {
		unix.Close(fd)
	}
}

func currentDirectory(fs *taskpb.FileSystem) string {
	return "current directory " + string(fs.GetCwd())
}

// enterDeleted makes a deleted directory the current one.
func (p *placer) enterDeleted(s *script, fs *taskpb.FileSystem) {
	what, d := currentDirectory(fs), fs.GetDeletedCwd()
	fd := s.do(what, unix.SYS_PIDFD_GETFD, tape.Imm(p.pluginFD), tape.Imm(p.deleted[deletedKey{d.GetDev(), d.GetIno()}]), tape.Imm(0))
	s.do(what, unix.SYS_FCHDIR, fd.Arg())
	s.do(what, unix.SYS_CLOSE, fd.Arg())
}

// setFS sets the context. The paths are the restorer's, so the current
// directory comes first and the root last. The threads that share a context
// must not take part in another step's work on paths.
func (p *placer) setFS(s *script, fs *taskpb.FileSystem, own, inside bool) error {
	for _, d := range [][]byte{fs.GetCwd(), fs.GetRoot()} {
		if len(d) == 0 || d[0] != '/' || len(d) >= unix.PathMax || bytes.IndexByte(d, 0) >= 0 {
			return fmt.Errorf("directory %q: %w", d, sdk.ErrCorrupt)
		}
	}
	if own {
		s.do("file system context of its own", unix.SYS_UNSHARE, tape.Imm(unix.CLONE_FS))
	}
	switch {
	case fs.GetDeletedCwd() == nil:
		s.do(currentDirectory(fs), unix.SYS_CHDIR, s.String(string(fs.GetCwd())).Arg())
	case !inside: // who is in a user namespace has entered it before that
		p.enterDeleted(s, fs)
	}
	if string(fs.GetRoot()) != "/" {
		s.do("root directory "+string(fs.GetRoot()), unix.SYS_CHROOT, s.String(string(fs.GetRoot())).Arg())
	}
	s.do("umask", unix.SYS_UMASK, tape.Imm(fs.GetUmask()))
	return nil
}
