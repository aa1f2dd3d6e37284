package ipc

import (
	"encoding/binary"
	"fmt"
	"os"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/ipc/ipcpb"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/kern"
	"github.com/firn-cr/firn/sdk/procfs"
)

// Commands and flags that golang.org/x/sys/unix does not have (linux/ipc.h,
// linux/sem.h, linux/msg.h, linux/shm.h).
const (
	ipcRmid = 0
	ipcSet  = 1
	ipcStat = 2

	semGetAll = 13
	semSetVal = 16

	msgCopy = 0o40000

	shmLock      = 11
	shmReadOnly  = 0o10000
	shmNoReserve = 0o10000
	shmDestroyed = 0o1000
	shmLocked    = 0o2000
)

// ctlCalls are the calls that control an object of each kind.
var ctlCalls = map[procfs.SysVKind]uintptr{
	procfs.SharedMemory: unix.SYS_SHMCTL, procfs.MessageQueues: unix.SYS_MSGCTL, procfs.Semaphores: unix.SYS_SEMCTL,
}

func call(nr uintptr, args ...uintptr) (int, error) {
	var a [5]uintptr
	copy(a[:], args)
	r, _, errno := unix.Syscall6(nr, a[0], a[1], a[2], a[3], a[4], 0)
	if errno != 0 {
		return 0, errno
	}
	return int(r), nil
}

func pointer(b []byte) uintptr { return uintptr(unsafe.Pointer(unsafe.SliceData(b))) }

// controlSize is more than what any IPC_STAT fills: struct msqid64_ds,
// shmid64_ds and semid64_ds have 104 to 120 bytes.
const controlSize = 256

// Offsets in these (asm-generic/ipcbuf.h, msgbuf.h): all begin with struct
// ipc64_perm, of 48 bytes.
const (
	atUID   = 4
	atGID   = 8
	atMode  = 20
	atLimit = 88 // msg_qbytes
)

// stat is IPC_STAT of an object.
func stat(kind procfs.SysVKind, id int32) ([]byte, error) {
	b := make([]byte, controlSize)
	if err := control(kind, id, ipcStat, b); err != nil {
		return nil, fmt.Errorf("stat: %w", err)
	}
	return b, nil
}

// control is shmctl(2), msgctl(2) or semctl(2) of a whole object.
func control(kind procfs.SysVKind, id int32, cmd uintptr, b []byte) error {
	args := []uintptr{uintptr(id), cmd, pointer(b)}
	if kind == procfs.Semaphores {
		args = []uintptr{uintptr(id), 0, cmd, pointer(b)}
	}
	_, err := call(ctlCalls[kind], args...)
	return err
}

// owner makes the record of what all objects have.
func owner(o *procfs.SysVObject) *ipcpb.Owner {
	return &ipcpb.Owner{Id: o.ID, Key: o.Key, Mode: o.Mode & 0o777, Uid: o.UID, Gid: o.GID, CreatorUid: o.CUID, CreatorGid: o.CGID}
}

// validOwner checks what create hands to the kernel.
func validOwner(o *ipcpb.Owner) error {
	if o == nil || o.Id < 0 || o.Mode&^0o777 != 0 {
		return fmt.Errorf("owner %v: %w", o, sdk.ErrCorrupt)
	}
	return nil
}

// setOwner sets owner, group and mode of an object; set may change more.
func setOwner(kind procfs.SysVKind, o *ipcpb.Owner, set func(b []byte)) error {
	b, err := stat(kind, o.Id)
	if err != nil {
		return err
	}
	ne := binary.NativeEndian
	ne.PutUint32(b[atUID:], o.Uid)
	ne.PutUint32(b[atGID:], o.Gid)
	ne.PutUint32(b[atMode:], o.Mode)
	if set != nil {
		set(b)
	}
	if err := control(kind, o.Id, ipcSet, b); err != nil {
		return fmt.Errorf("set owner and mode: %w", err)
	}
	return nil
}

// create makes an object with its id, in the name of the user that created it.
// get is called with the key, and flags to which it may add.
//
// The kernel takes the id from kernel.*_next_id, once (since Linux 3.10 with
// CONFIG_CHECKPOINT_RESTORE).
func create(kind procfs.SysVKind, o *ipcpb.Owner, get func(key uintptr, flags uintptr) (int, error)) error {
	if err := writeSysctl("kernel/"+string(kind)+"_next_id", strconv.Itoa(int(o.Id))); err != nil {
		return err
	}
	var id int
	attempt := func() (err error) {
		id, err = get(uintptr(uint32(o.Key)), unix.IPC_CREAT|unix.IPC_EXCL|0o600)
		return err
	}
	var err error
	if int(o.CreatorUid) == os.Geteuid() && int(o.CreatorGid) == os.Getegid() {
		err = attempt()
	} else {
		err = kern.AsUser(kern.Same, o.CreatorUid, o.CreatorGid, attempt)
	}
	if err != nil {
		return fmt.Errorf("create: %w", err)
	}
	if id != int(o.Id) {
		return fmt.Errorf("has id %d: %w", id, sdk.ErrKernel)
	}
	return nil
}
