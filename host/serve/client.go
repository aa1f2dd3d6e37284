package serve

import (
	"errors"
	"fmt"
	"io"
	"os"
	ossignal "os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// SocketVariable names the environment variable with the path of the socket;
// "off" keeps commands from being served.
const SocketVariable = "FIRN_SERVE"

// Socket returns the path of the socket of this user's warm hosts; empty if
// there is none.
func Socket() string {
	switch path := os.Getenv(SocketVariable); path {
	case "":
	case "off":
		return ""
	default:
		return path
	}
	if os.Geteuid() == 0 {
		return "/run/firn/serve.sock"
	}
	if dir := os.Getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "firn", "serve.sock")
	}
	return ""
}

// Served tells whether a warm host can stand for a command. It cannot for one
// whose tree gets something of the command's own process: its terminal, its
// open files, its place as parent.
func Served(args []string) bool {
	if len(args) == 0 || slices.ContainsFunc(args, personal) {
		return false
	}
	switch args[0] {
	case "checkpoint", "dump", "check":
		return true
	case "restore":
		// Otherwise it waits for its child.
		return slices.Contains(args, "-d") || slices.Contains(args, "--detach")
	}
	return false
}

// personal tells whether an argument is about the process itself, or has its
// plugins go on after the command.
func personal(arg string) bool {
	for _, p := range []string{"-h", "--help", "--shell-job", "--inherit", "--lazy"} {
		if strings.HasPrefix(arg, p) {
			return true
		}
	}
	return false
}

// Do has a warm host run a command line and returns its exit status. It reports
// false, and nothing has happened then, if nobody serves or the worker declined;
// err tells why, if somebody was asked.
func Do(args []string) (status int, done bool, err error) {
	path := Socket()
	if path == "" {
		return 0, false, nil
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, false, nil
	}
	defer unix.Close(fd)
	if unix.Connect(fd, &unix.SockaddrUnix{Name: path}) != nil {
		return 0, false, nil
	}
	if err := checkServer(fd); err != nil {
		return 0, false, err
	}
	if err := ask(fd, args); err != nil {
		return 0, false, err
	}
	stop := forward(fd)
	defer stop()
	var r reply
	if _, err := receive(fd, &r); err != nil {
		if errors.Is(err, io.EOF) {
			err = errors.New("firn serve ended in the middle; what it had begun is undone")
		}
		return 1, true, err
	}
	if r.Declined != "" {
		return 0, false, errors.New(r.Declined)
	}
	return r.Status, true, nil
}

// checkServer makes sure that whoever listens is root or this user: it gets our
// standard files, and what it does we answer for.
func checkServer(fd int) error {
	cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return fmt.Errorf("peer of the socket: %w", err)
	}
	if int(cred.Uid) != os.Geteuid() {
		return fmt.Errorf("the socket belongs to user %d", cred.Uid)
	}
	return nil
}

// ask sends the request.
func ask(fd int, args []string) error {
	program, err := self()
	if err != nil {
		return err
	}
	dir, err := unix.Open(".", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("current directory: %w", err)
	}
	defer unix.Close(dir)
	return send(fd, &request{Args: args, Env: os.Environ(), Umask: umask(), Program: program}, 0, 1, 2, dir)
}

// umask reads the umask without changing it. proc_pid_status(5), since 4.7.
func umask() int {
	text, err := os.ReadFile("/proc/self/status")
	if err == nil {
		for line := range strings.Lines(string(text)) {
			if value, ok := strings.CutPrefix(line, "Umask:"); ok {
				if n, err := strconv.ParseInt(strings.TrimSpace(value), 8, 32); err == nil {
					return int(n)
				}
			}
		}
	}
	old := syscall.Umask(0o077)
	syscall.Umask(old)
	return old
}

// forward sends on the signals that would end the command. That the command is
// killed shows by the end of the connection.
func forward(fd int) (stop func()) {
	signals := make(chan os.Signal, 1)
	ossignal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	go func() {
		for s := range signals {
			if n, ok := s.(syscall.Signal); ok {
				_ = send(fd, &signal{Signal: int(n)}) // else: the worker has ended
			}
		}
	}()
	return func() { ossignal.Stop(signals) }
}
