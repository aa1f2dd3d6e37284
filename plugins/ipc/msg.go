package ipc

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/ipc/ipcpb"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/procfs"
)

// maxMessage is the longest message that fits into a record.
const maxMessage = 1 << 20

// typeSize is what precedes the text in struct msgbuf: a long.
const typeSize = 8

// peek copies a message of a queue without taking it out (MSG_COPY, since
// Linux 3.8 with CONFIG_CHECKPOINT_RESTORE). The first one has index 0. The
// error is ENOMSG behind the last one.
func peek(id int32, index uint64, buf []byte) (*ipcpb.Message, error) {
	n, err := call(unix.SYS_MSGRCV, uintptr(id), pointer(buf), uintptr(len(buf)-typeSize), uintptr(index), msgCopy|unix.IPC_NOWAIT)
	if err != nil {
		return nil, err
	}
	return &ipcpb.Message{Type: int64(binary.NativeEndian.Uint64(buf)), Text: buf[typeSize : typeSize+n]}, nil
}

// dumpQueues emits the message queues of the calling thread's namespace.
func (d *dump) dumpQueues(ctx context.Context) error {
	rows, err := procfs.SysVIPC(procfs.MessageQueues)
	if err != nil {
		return err
	}
	buf := make([]byte, typeSize+maxMessage)
	for _, r := range rows {
		if err := d.dumpQueue(ctx, r, buf); err != nil {
			return fmt.Errorf("message queue %d: %w", r.ID, err)
		}
	}
	return nil
}

func (d *dump) dumpQueue(ctx context.Context, r procfs.SysVObject, buf []byte) error {
	b, err := stat(procfs.MessageQueues, r.ID)
	if err != nil {
		return err
	}
	q := &ipcpb.Queue{Owner: owner(&r), Limit: binary.NativeEndian.Uint64(b[atLimit:]), Messages: r.Numbers["qnum"]}
	if err := d.emit.Emit(ctx, kindQueue, d.object, q); err != nil {
		return err
	}
	for i := range q.Messages {
		m, err := peek(q.Owner.Id, i, buf)
		if err != nil {
			return fmt.Errorf("read message %d of %d: %w", i, q.Messages, err)
		}
		if err := d.emit.Emit(ctx, kindMessage, d.object, m); err != nil {
			return err
		}
	}
	return nil
}

// blockedQueue tells why a queue cannot be carried; empty if it can.
func blockedQueue(r procfs.SysVObject, buf []byte) (string, error) {
	for i := range r.Numbers["qnum"] {
		_, err := peek(r.ID, i, buf)
		switch {
		case errors.Is(err, unix.ENOSYS):
			return "has messages, which this kernel cannot copy (CONFIG_CHECKPOINT_RESTORE)", nil
		case errors.Is(err, unix.E2BIG):
			return fmt.Sprintf("has a message longer than %d bytes", maxMessage), nil
		case errors.Is(err, unix.EINVAL):
			// Removed; or a copy, of at most kernel.msgmax, is too short (copy_msg).
			if _, err := stat(procfs.MessageQueues, r.ID); err == nil {
				return "has a message that is longer than kernel.msgmax allows by now", nil
			}
			return "", nil
		case errors.Is(err, unix.ENOMSG), errors.Is(err, unix.EIDRM):
			return "", nil // received since, or removed
		case err != nil:
			return "", fmt.Errorf("read message: %w", err)
		}
	}
	return "", nil
}

// restoreQueue makes a queue and sends its messages again. Its limit may have
// been lowered below what it holds, and raising it needs CAP_SYS_RESOURCE, so
// it gets one that is large enough at birth.
func restoreQueue(q *ipcpb.Queue, messages []*ipcpb.Message) error {
	need := max(q.Limit, uint64(len(messages)))
	var sum uint64
	for _, m := range messages {
		sum += uint64(len(m.Text))
		if err := raise("kernel/msgmax", uint64(len(m.Text))); err != nil {
			return err
		}
	}
	if err := raise("kernel/msgmnb", max(need, sum)); err != nil {
		return err
	}
	err := create(procfs.MessageQueues, q.Owner, func(key, flags uintptr) (int, error) { return call(unix.SYS_MSGGET, key, flags) })
	if err != nil {
		return err
	}
	for i, m := range messages {
		b := binary.NativeEndian.AppendUint64(make([]byte, 0, typeSize+len(m.Text)), uint64(m.Type))
		b = append(b, m.Text...)
		if _, err := call(unix.SYS_MSGSND, uintptr(q.Owner.Id), pointer(b), uintptr(len(m.Text)), unix.IPC_NOWAIT); err != nil {
			return fmt.Errorf("send message %d of %d: %w", i, len(messages), err)
		}
	}
	return setOwner(procfs.MessageQueues, q.Owner, func(b []byte) { binary.NativeEndian.PutUint64(b[atLimit:], q.Limit) })
}

func validMessage(m *ipcpb.Message) error {
	if m.Type < 1 || len(m.Text) > maxMessage {
		return fmt.Errorf("message of type %d with %d bytes: %w", m.Type, len(m.Text), sdk.ErrCorrupt)
	}
	return nil
}
