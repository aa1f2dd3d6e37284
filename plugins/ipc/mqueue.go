package ipc

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/ipc/ipcpb"
	"github.com/firn-cr/firn/sdk"
)

// fsconfigCreate is FSCONFIG_CMD_CREATE (linux/mount.h).
const fsconfigCreate = 6

// maxName is NAME_MAX.
const maxName = 255

// mountQueues mounts the file system of the POSIX message queues of the calling
// thread's namespace nowhere, for the descriptor alone (fsmount(2), since Linux
// 5.2); nil on a kernel without these queues.
func mountQueues() (*os.File, error) {
	name := []byte("mqueue\x00")
	fs, err := call(unix.SYS_FSOPEN, pointer(name), unix.FSOPEN_CLOEXEC)
	if errors.Is(err, unix.ENODEV) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("fsopen mqueue: %w", err)
	}
	defer unix.Close(fs)
	if _, err := call(unix.SYS_FSCONFIG, uintptr(fs), fsconfigCreate); err != nil {
		return nil, fmt.Errorf("fsconfig mqueue: %w", err)
	}
	fd, err := call(unix.SYS_FSMOUNT, uintptr(fs), unix.FSMOUNT_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("fsmount mqueue: %w", err)
	}
	// The descriptor of a mount is one of O_PATH.
	defer unix.Close(fd)
	dir, err := unix.Openat(fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open message queues: %w", err)
	}
	return os.NewFile(uintptr(dir), "mqueue"), nil
}

// queueDevice identifies the POSIX queues of the calling thread's namespace.
func queueDevice() (uint64, error) {
	dir, err := mountQueues()
	if dir == nil {
		return 0, err
	}
	defer dir.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(dir.Fd()), &st); err != nil {
		return 0, err
	}
	return st.Dev, nil
}

// posixQueue is a POSIX message queue and what of it cannot be carried.
type posixQueue struct {
	*ipcpb.MessageQueue
	messages int64
	// notifies is the process that waits for a message (mq_notify(3)).
	notifies int
}

// posixQueues reads the POSIX message queues of the calling thread's namespace.
func posixQueues() ([]posixQueue, error) {
	dir, err := mountQueues()
	if dir == nil {
		return nil, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	var all []posixQueue
	for _, name := range names {
		fd, err := unix.Openat(int(dir.Fd()), name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("POSIX message queue /%s: %w", name, err)
		}
		q, err := readQueue(fd, name)
		unix.Close(fd)
		if err != nil {
			return nil, fmt.Errorf("POSIX message queue /%s: %w", name, err)
		}
		all = append(all, q)
	}
	return all, nil
}

// readQueue reads attributes, struct mq_attr: flags, most messages, their most
// bytes, messages now, as longs; and what the file says of notifications.
func readQueue(fd int, name string) (posixQueue, error) {
	q := posixQueue{MessageQueue: &ipcpb.MessageQueue{Name: []byte(name)}}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return q, err
	}
	q.Mode, q.Uid, q.Gid = st.Mode&0o7777, st.Uid, st.Gid
	attr := make([]byte, 64)
	if _, err := call(unix.SYS_MQ_GETSETATTR, uintptr(fd), 0, pointer(attr)); err != nil {
		return q, fmt.Errorf("mq_getattr: %w", err)
	}
	long := func(i int) int64 { return int64(binary.NativeEndian.Uint64(attr[8*i:])) }
	q.MaxMessages, q.MaxSize, q.messages = long(1), long(2), long(3)
	text := make([]byte, 256)
	n, err := unix.Pread(fd, text, 0)
	if err != nil {
		return q, fmt.Errorf("read: %w", err)
	}
	q.notifies, err = notified(text[:n])
	return q, err
}

// notified finds NOTIFY_PID, which is 0 if nobody waits.
func notified(text []byte) (int, error) {
	_, rest, ok := bytes.Cut(text, []byte("NOTIFY_PID:"))
	pid, err := strconv.Atoi(string(bytes.TrimSpace(rest)))
	if !ok || err != nil {
		return 0, fmt.Errorf("status %q: %w", text, sdk.ErrCorrupt)
	}
	return pid, nil
}

// blocked tells why a queue cannot be carried; empty if it can.
func (q *posixQueue) blocked() string {
	switch {
	case q.messages > 0:
		return fmt.Sprintf("holds %d messages, which nobody can read without taking them out", q.messages)
	case q.notifies != 0:
		return fmt.Sprintf("notifies task %d of the next message, and the kernel does not tell with which value", q.notifies)
	}
	return ""
}

func (d *dump) dumpMessageQueues(ctx context.Context) error {
	queues, err := posixQueues()
	if err != nil {
		return err
	}
	for _, q := range queues {
		if text := q.blocked(); text != "" {
			return fmt.Errorf("POSIX message queue /%s %s: %w", q.Name, text, sdk.ErrChanged)
		}
		if err := d.emit.Emit(ctx, kindMessageQueue, d.object, q.MessageQueue); err != nil {
			return err
		}
	}
	return nil
}

// openQueue is mq_open(3), by the name without a slash.
func openQueue(name []byte, flags int, attr []byte) (int, error) {
	cstr := append(bytes.Clone(name), 0)
	fd, err := call(unix.SYS_MQ_OPEN, pointer(cstr), uintptr(flags|unix.O_CLOEXEC), 0o600, pointer(attr))
	if err != nil {
		return -1, fmt.Errorf("mq_open: %w", err)
	}
	return fd, nil
}

func restoreMessageQueue(q *ipcpb.MessageQueue) error {
	if err := raise("fs/mqueue/msg_max", uint64(q.MaxMessages)); err != nil {
		return err
	}
	if err := raise("fs/mqueue/msgsize_max", uint64(q.MaxSize)); err != nil {
		return err
	}
	attr := make([]byte, 64)
	binary.NativeEndian.PutUint64(attr[8:], uint64(q.MaxMessages))
	binary.NativeEndian.PutUint64(attr[16:], uint64(q.MaxSize))
	fd, err := openQueue(q.Name, unix.O_CREAT|unix.O_EXCL|unix.O_RDWR, attr)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Fchown(fd, int(q.Uid), int(q.Gid)); err != nil {
		return fmt.Errorf("chown: %w", err)
	}
	if err := unix.Fchmod(fd, q.Mode); err != nil {
		return fmt.Errorf("chmod: %w", err)
	}
	return nil
}

func validName(name []byte) error {
	if len(name) == 0 || len(name) > maxName || bytes.ContainsAny(name, "/\x00") {
		return fmt.Errorf("name %q of a message queue: %w", name, sdk.ErrCorrupt)
	}
	return nil
}

func validMessageQueue(q *ipcpb.MessageQueue) error {
	if q.MaxMessages < 1 || q.MaxSize < 1 || q.Mode&^0o7777 != 0 {
		return fmt.Errorf("POSIX message queue /%s: %w", q.Name, sdk.ErrCorrupt)
	}
	return validName(q.Name)
}
