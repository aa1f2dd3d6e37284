package task

import (
	"bytes"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/task/taskpb"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/kern"
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
	return &taskpb.FileSystem{Root: []byte(root), Cwd: []byte(cwd), Umask: uint32(umask)}, nil
}

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
		return path + " is deleted"
	}
	if err := unix.Stat(path, &named); err != nil {
		return fmt.Sprintf("%s cannot be reached: %v", path, err)
	}
	if named.Dev != there.Dev || named.Ino != there.Ino {
		return path + " is another directory by now (renamed, or something is mounted over it)"
	}
	return ""
}

// setFS sets the context. The paths are the restorer's, so the current
// directory comes first and the root last. The threads that share a context
// must not take part in another step's work on paths.
func setFS(s *script, fs *taskpb.FileSystem, own bool) error {
	for _, p := range [][]byte{fs.GetCwd(), fs.GetRoot()} {
		if len(p) == 0 || p[0] != '/' || len(p) >= unix.PathMax || bytes.IndexByte(p, 0) >= 0 {
			return fmt.Errorf("directory %q: %w", p, sdk.ErrCorrupt)
		}
	}
	if own {
		s.do("file system context of its own", unix.SYS_UNSHARE, tape.Imm(unix.CLONE_FS))
	}
	s.do("current directory "+string(fs.GetCwd()), unix.SYS_CHDIR, s.String(string(fs.GetCwd())).Arg())
	if string(fs.GetRoot()) != "/" {
		s.do("root directory "+string(fs.GetRoot()), unix.SYS_CHROOT, s.String(string(fs.GetRoot())).Arg())
	}
	s.do("umask", unix.SYS_UMASK, tape.Imm(fs.GetUmask()))
	return nil
}
