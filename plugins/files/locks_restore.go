package files

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/files/filespb"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/tape"
)

// takeLocks takes the locks of a new description. Those of processes are left
// to LinkFiles: the process itself must take them.
func takeLocks(fd int, locks []*filespb.Lock) error {
	for _, l := range locks {
		var err error
		switch {
		case l.GetFlock():
			how := unix.LOCK_SH
			if l.GetWrite() {
				how = unix.LOCK_EX
			}
			err = unix.Flock(fd, how|unix.LOCK_NB)
		case l.GetDescription():
			var span unix.Flock_t
			if span, err = flockOf(l); err == nil {
				err = unix.FcntlFlock(uintptr(fd), unix.F_OFD_SETLK, &span)
			}
		}
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
			return fmt.Errorf("lock: %w", sdk.ErrInUse)
		}
		if err != nil {
			return fmt.Errorf("lock: %w", err)
		}
	}
	return nil
}

// flockOf is struct flock of a lock.
func flockOf(l *filespb.Lock) (unix.Flock_t, error) {
	if l.GetStart() > math.MaxInt64 || l.GetLength() > math.MaxInt64 {
		return unix.Flock_t{}, fmt.Errorf("lock of %d bytes at %d: %w", l.GetLength(), l.GetStart(), sdk.ErrCorrupt)
	}
	f := unix.Flock_t{Type: unix.F_RDLCK, Start: int64(l.GetStart()), Len: int64(l.GetLength())}
	if l.GetWrite() {
		f.Type = unix.F_WRLCK
	}
	return f, nil
}

// locks lets processes take their locks and leases. A lease makes its process
// the owner of the description, unless another one is set later.
func (l *linker) locks(object uint64, locks []*filespb.Lock) error {
	for _, lock := range locks {
		if lock.GetFlock() || lock.GetDescription() {
			continue
		}
		f, err := flockOf(lock)
		if err != nil {
			return err
		}
		t, err := l.of(sdk.TaskID(lock.GetTask()))
		if err != nil {
			return fmt.Errorf("link object %d: %w", object, err)
		}
		if lock.GetLease() {
			t.call(fmt.Sprintf("lease fd %d of task %d", lock.GetFd(), lock.GetTask()),
				unix.SYS_FCNTL, tape.Imm(lock.GetFd()), tape.Imm(unix.F_SETLEASE), tape.Imm(f.Type))
			continue
		}
		arg := t.run.Tape.Bytes(flockBytes(f))
		t.call(fmt.Sprintf("lock fd %d of task %d", lock.GetFd(), lock.GetTask()),
			unix.SYS_FCNTL, tape.Imm(lock.GetFd()), tape.Imm(unix.F_SETLK), arg.Arg())
	}
	return nil
}

// flockBytes is struct flock in memory; it is the same on amd64 and arm64:
//
//	0 i16 type  2 i16 whence  8 i64 start  16 i64 length  24 i32 pid
func flockBytes(f unix.Flock_t) []byte {
	b := make([]byte, unsafe.Sizeof(f))
	binary.NativeEndian.PutUint16(b, uint16(f.Type))
	binary.NativeEndian.PutUint64(b[8:], uint64(f.Start))
	binary.NativeEndian.PutUint64(b[16:], uint64(f.Len))
	return b
}

// checkLocks tells whether somebody has a lock that the image needs.
func checkLocks(n *filespb.Named) (level sdk.Level, text, help string) {
	if len(n.GetLocks()) == 0 || n.GetGhost() != 0 || n.GetProcess() != 0 {
		return sdk.LevelOK, "", ""
	}
	// Through a description of its own, which is closed again.
	fd, err := reopen(string(n.GetPath()), n.GetDescription().GetFlags())
	if err != nil {
		return sdk.LevelOK, "", "" // checkNamed says why
	}
	defer unix.Close(fd)
	for _, l := range n.GetLocks() {
		if l.GetLease() {
			continue // whether others have it open only the kernel knows
		}
		f, err := flockOf(l)
		if err != nil {
			return sdk.LevelBlock, fmt.Sprintf("%s: %v", n.GetPath(), err), ""
		}
		holder := "somebody"
		if l.GetFlock() {
			err = takeLocks(fd, []*filespb.Lock{l})
		} else if err = unix.FcntlFlock(uintptr(fd), unix.F_OFD_GETLK, &f); err == nil && f.Type != unix.F_UNLCK {
			err = sdk.ErrInUse
			if f.Pid > 0 {
				holder = fmt.Sprintf("task %d", f.Pid)
			}
		}
		if errors.Is(err, sdk.ErrInUse) {
			return sdk.LevelBlock, fmt.Sprintf("%s: is locked by %s", n.GetPath(), holder), "end it first"
		}
	}
	return sdk.LevelOK, "", ""
}
