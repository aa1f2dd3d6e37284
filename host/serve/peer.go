package serve

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// namespaces are those in which a command and its worker must be the same for
// the worker to do what the command would.
var namespaces = []string{"cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"}

// rights are the lines of /proc/PID/status that say what a process may do.
// proc_pid_status(5).
var rights = []string{"Uid", "Gid", "Groups", "CapPrm", "CapEff", "CapBnd", "NoNewPrivs", "Seccomp", "Seccomp_filters"}

// checkPeer makes sure that the process at the other end of a connection may do
// what this process may, no more and no less, and sees the same files and
// processes. The kernel remembers who connected; that this one still holds the
// connection is looked at last, so that nobody else got its number meanwhile.
func checkPeer(fd int) error {
	cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return fmt.Errorf("peer of the socket: %w", err)
	}
	if int(cred.Uid) != os.Geteuid() {
		return fmt.Errorf("firn serve of user %d serves that user only, not user %d", os.Geteuid(), cred.Uid)
	}
	dir, err := peerDir(cred)
	if err != nil {
		return err
	}
	for _, ns := range namespaces {
		same, err := sameFile("/proc/self/ns/"+ns, dir+"/ns/"+ns)
		if err != nil {
			return err
		}
		if !same {
			return fmt.Errorf("firn serve is in another %s namespace", ns)
		}
	}
	if same, err := sameFile("/proc/self/root", dir+"/root"); err != nil || !same {
		return errors.Join(err, errors.New("firn serve has another root directory"))
	}
	if err := sameLines(dir, "status", rights); err != nil {
		return err
	}
	if err := sameLines(dir, "limits", nil); err != nil {
		return err
	}
	return checkThere(fd)
}

// checkGroups makes sure that the peer is in the same control groups.
func checkGroups(fd int) error {
	cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return fmt.Errorf("peer of the socket: %w", err)
	}
	dir, err := peerDir(cred)
	if err != nil {
		return err
	}
	return sameLines(dir, "cgroup", nil)
}

// peerDir is the peer's directory in /proc.
func peerDir(cred *unix.Ucred) (string, error) {
	if cred.Pid <= 0 {
		return "", errors.New("the command is in another PID namespace")
	}
	return "/proc/" + strconv.Itoa(int(cred.Pid)), nil
}

// checkThere makes sure that the peer still holds its end of the connection: a
// closed one would be readable by now.
func checkThere(fd int) error {
	poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
	if _, err := unix.Poll(poll, 0); err != nil {
		return fmt.Errorf("peer of the socket: %w", err)
	}
	if poll[0].Revents&(unix.POLLHUP|unix.POLLRDHUP|unix.POLLERR) != 0 {
		return errors.New("the peer has gone")
	}
	return nil
}

// sameFile tells whether two links of /proc lead to the same object. A kernel
// without such a namespace has it for nobody.
func sameFile(a, b string) (bool, error) {
	var x, y unix.Stat_t
	ax, ay := unix.Stat(a, &x), unix.Stat(b, &y)
	if errors.Is(ax, unix.ENOENT) && errors.Is(ay, unix.ENOENT) {
		return true, nil
	}
	if err := errors.Join(ax, ay); err != nil {
		return false, fmt.Errorf("compare %s with %s: %w", a, b, err)
	}
	return x.Dev == y.Dev && x.Ino == y.Ino, nil
}

// sameLines compares lines of a file of /proc with those of this process: those
// that begin with one of the names, or all.
func sameLines(dir, file string, names []string) error {
	ours, err := os.ReadFile("/proc/self/" + file)
	if err != nil {
		return fmt.Errorf("rights of firn serve: %w", err)
	}
	theirs, err := os.ReadFile(dir + "/" + file)
	if err != nil {
		return fmt.Errorf("rights of the peer: %w", err)
	}
	a, b := strings.Split(string(ours), "\n"), strings.Split(string(theirs), "\n")
	if names != nil {
		other := func(line string) bool {
			name, _, _ := strings.Cut(line, ":")
			return !slices.Contains(names, name)
		}
		a, b = slices.DeleteFunc(a, other), slices.DeleteFunc(b, other)
	}
	for i := range max(len(a), len(b)) {
		if i >= len(a) || i >= len(b) || a[i] != b[i] {
			return fmt.Errorf("firn serve has other %s: %s", file, differing(a, b, i))
		}
	}
	return nil
}

func differing(a, b []string, i int) string {
	line := func(s []string) string {
		if i < len(s) {
			return strings.Join(strings.Fields(s[i]), " ")
		}
		return "nothing"
	}
	return fmt.Sprintf("%q, the command has %q", line(a), line(b))
}
