package kern

import (
	"errors"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// fcntl(2) commands that x/sys lacks (asm-generic/fcntl.h).
const (
	fSetSig       = 10
	fGetSig       = 11
	fSetOwnEx     = 15
	fGetOwnEx     = 16
	fGetOwnerUIDs = 17
)

// OwnerType is the kind of id in a [FileOwner].
type OwnerType int32

// The kinds of owners of fcntl(F_SETOWN_EX).
const (
	OwnerTID  OwnerType = 0
	OwnerPID  OwnerType = 1
	OwnerPGRP OwnerType = 2
)

// FileOwner is who gets the signals of an open file description
// (fcntl(F_SETOWN_EX) and fcntl(F_SETSIG)).
type FileOwner struct {
	Type OwnerType
	// ID is the thread, process or process group; 0 for none.
	ID int
	// Signal is sent instead of SIGIO; 0 for SIGIO without siginfo.
	Signal int
	// UID and EUID are those of the process that set the owner: the signals
	// are sent in its name.
	UID, EUID uint32
}

// IsZero tells that no owner and no signal are set, as for a new file.
func (o *FileOwner) IsZero() bool { return o.ID == 0 && o.Signal == 0 }

// GetFileOwner reads the owner of an open file description. The user ids are
// zero on kernels without CONFIG_CHECKPOINT_RESTORE.
func GetFileOwner(fd int) (FileOwner, error) {
	sig, err := unix.FcntlInt(uintptr(fd), fGetSig, 0)
	if err != nil {
		return FileOwner{}, err
	}
	var ex struct{ typ, pid int32 }
	if err := fcntlPtr(fd, fGetOwnEx, unsafe.Pointer(&ex)); err != nil {
		return FileOwner{}, err
	}
	o := FileOwner{Type: OwnerType(ex.typ), ID: int(ex.pid), Signal: sig}
	if o.ID == 0 {
		return o, nil
	}
	var uids [2]uint32
	if err := fcntlPtr(fd, fGetOwnerUIDs, unsafe.Pointer(&uids)); err == nil {
		o.UID, o.EUID = uids[0], uids[1]
	}
	return o, nil
}

// SetFileOwner sets what [GetFileOwner] read. Setting it in the name of
// another user needs CAP_SETUID.
func SetFileOwner(fd int, o FileOwner) error {
	if _, err := unix.FcntlInt(uintptr(fd), fSetSig, o.Signal); err != nil {
		return err
	}
	if o.ID == 0 {
		return nil
	}
	ex := struct{ typ, pid int32 }{int32(o.Type), int32(o.ID)}
	set := func() error { return fcntlPtr(fd, fSetOwnEx, unsafe.Pointer(&ex)) }
	if int(o.UID) == unix.Getuid() && int(o.EUID) == unix.Geteuid() {
		return set()
	}
	return AsUser(o.UID, o.EUID, Same, set)
}

// Same is a user or group id that [AsUser] leaves as it is.
const Same = ^uint32(0)

// AsUser runs f with another real and effective user id and another effective
// group id; what f makes belongs to them. Only this thread changes them (the
// raw system calls), and the process stays dumpable, which such a change would
// end (credentials(7), prctl(2)). Other users need CAP_SETUID and CAP_SETGID,
// and f does not have the capabilities of the caller if its user is another.
func AsUser(uid, euid, egid uint32, f func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	ruid, oldEUID, oldEGID := unix.Getuid(), unix.Geteuid(), unix.Getegid()
	dumpable, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0)
	if err != nil {
		return err
	}
	if err := setThread(unix.SYS_SETRESGID, Same, egid); err != nil {
		return err
	}
	if err := setThread(unix.SYS_SETRESUID, uid, euid); err != nil {
		return errors.Join(err, setThread(unix.SYS_SETRESGID, Same, uint32(oldEGID)))
	}
	err = f()
	back := setThread(unix.SYS_SETRESUID, uint32(ruid), uint32(oldEUID))
	back = errors.Join(back, setThread(unix.SYS_SETRESGID, Same, uint32(oldEGID)))
	if dumpable == 1 {
		back = errors.Join(back, unix.Prctl(unix.PR_SET_DUMPABLE, 1, 0, 0, 0))
	}
	return errors.Join(err, back)
}

// setThread sets the real and the effective id of this thread alone.
func setThread(nr uintptr, own, effective uint32) error {
	if _, _, errno := unix.RawSyscall(nr, uintptr(own), uintptr(effective), ^uintptr(0)); errno != 0 {
		return errno
	}
	return nil
}

// fcntlPtr is fcntl(2) with a pointer to a struct that x/sys does not know.
func fcntlPtr(fd, cmd int, arg unsafe.Pointer) error {
	if _, _, errno := unix.Syscall(unix.SYS_FCNTL, uintptr(fd), uintptr(cmd), uintptr(arg)); errno != 0 {
		return errno
	}
	return nil
}
