package serve

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// maxMessage is the largest message. A command line or environment that is
// larger is not served.
const maxMessage = 128 << 10

// errTooLarge tells that a command does not fit into a message.
var errTooLarge = errors.New("arguments and environment are too large")

// request is the first message of a command. With it come the descriptors of its
// standard input, output and error and of its current directory.
type request struct {
	Args  []string `json:"args"`
	Env   []string `json:"env"`
	Umask int      `json:"umask"`
	// Program is the executable: a worker serves its own version only.
	Program program `json:"program"`
}

// requestFiles is how many descriptors come with a request.
const requestFiles = 4

// program identifies an executable file.
type program struct {
	Dev, Ino uint64
	Size     int64
	Mtime    int64 // ns
	Ctime    int64 // ns
}

// self identifies the running executable.
func self() (program, error) {
	var st unix.Stat_t
	if err := unix.Stat("/proc/self/exe", &st); err != nil {
		return program{}, fmt.Errorf("stat the running program: %w", err)
	}
	return program{st.Dev, st.Ino, st.Size, st.Mtim.Nano(), st.Ctim.Nano()}, nil
}

// reply is what a worker answers, once.
type reply struct {
	// Declined tells why the worker does nothing: the command has to do its work
	// itself. Empty if it was done.
	Declined string `json:"declined,omitempty"`
	// Status is the exit status.
	Status int `json:"status"`
}

// signal is every message of a command after the first: a signal that it got.
type signal struct {
	Signal int `json:"signal"`
}

// send sends a message with descriptors. The socket is a SOCK_SEQPACKET one, in
// blocking mode, which keeps the boundaries of messages.
func send(fd int, message any, files ...int) error {
	text, err := json.Marshal(message)
	if err != nil {
		return fmt.Errorf("send message: %w", err)
	}
	if len(text) > maxMessage {
		return errTooLarge
	}
	var rights []byte
	if len(files) > 0 {
		rights = unix.UnixRights(files...)
	}
	for {
		err = unix.Sendmsg(fd, text, rights, nil, unix.MSG_NOSIGNAL)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if errors.Is(err, unix.EMSGSIZE) {
		return errTooLarge
	}
	if err != nil {
		return fmt.Errorf("send message: %w", err)
	}
	return nil
}

// receive receives a message and its descriptors, which are the caller's and
// close-on-exec. It returns io.EOF when the peer has closed its end.
func receive(fd int, message any) (files []*os.File, err error) {
	text := make([]byte, maxMessage)
	oob := make([]byte, unix.CmsgSpace(4*requestFiles))
	var n, oobn, flags int
	for {
		n, oobn, flags, _, err = unix.Recvmsg(fd, text, oob, unix.MSG_CMSG_CLOEXEC)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if errors.Is(err, unix.ECONNRESET) {
		return nil, io.EOF
	}
	if err != nil {
		return nil, fmt.Errorf("receive message: %w", err)
	}
	defer func() {
		if err != nil {
			closeAll(files)
			files = nil
		}
	}()
	if oobn > 0 {
		if files, err = received(oob[:oobn]); err != nil {
			return files, err
		}
	}
	if n == 0 {
		return files, io.EOF
	}
	if flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
		return files, errors.New("receive message: it is too long")
	}
	if err := json.Unmarshal(text[:n], message); err != nil {
		return files, fmt.Errorf("receive message: %w", err)
	}
	return files, nil
}

func received(oob []byte) (files []*os.File, err error) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, fmt.Errorf("receive message: %w", err)
	}
	for i := range messages {
		fds, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			continue // not descriptors
		}
		for _, fd := range fds {
			files = append(files, os.NewFile(uintptr(fd), "received"))
		}
	}
	return files, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}
