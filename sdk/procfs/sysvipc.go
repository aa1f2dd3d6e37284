package procfs

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
)

// SysVKind is a kind of System V objects, by its file in /proc/sysvipc.
type SysVKind string

// The kinds of System V objects.
const (
	SharedMemory  SysVKind = "shm"
	MessageQueues SysVKind = "msg"
	Semaphores    SysVKind = "sem"
)

// idColumns are the columns with the ids.
var idColumns = map[SysVKind]string{SharedMemory: "shmid", MessageQueues: "msqid", Semaphores: "semid"}

// SysVObject is one System V object.
type SysVObject struct {
	// ID is what shmat(2), msgsnd(2) and semop(2) take.
	ID int32
	// Key is IPC_PRIVATE (0) for objects without a name.
	Key int32
	// Mode are the permission bits, of shared memory with SHM_DEST and
	// SHM_LOCKED.
	Mode                 uint32
	UID, GID, CUID, CGID uint32
	// Numbers are all columns but the key, by their names (proc_sysvipc(5)).
	Numbers map[string]uint64
}

// SysVIPC lists the objects of a kind in the IPC namespace of the calling
// thread: the kernel looks at it when the file is opened. A kernel without
// System V objects is an os.ErrNotExist.
func SysVIPC(kind SysVKind) ([]SysVObject, error) {
	b, err := os.ReadFile("/proc/sysvipc/" + string(kind))
	if err != nil {
		return nil, fmt.Errorf("list System V objects: %w", err)
	}
	objects, err := ParseSysVIPC(kind, b)
	if err != nil {
		return nil, fmt.Errorf("/proc/sysvipc/%s: %w", kind, err)
	}
	return objects, nil
}

// ParseSysVIPC parses the content of a file of /proc/sysvipc: a line with the
// names of the columns, and one of numbers for each object. Permissions are
// octal, and keys may be negative.
func ParseSysVIPC(kind SysVKind, b []byte) ([]SysVObject, error) {
	head, rest, _ := bytes.Cut(b, []byte{'\n'})
	names := bytes.Fields(head)
	var objects []SysVObject
	for line := range bytes.Lines(rest) {
		fields := bytes.Fields(line)
		if len(fields) != len(names) {
			return nil, fmt.Errorf("%d columns, want %d: %w", len(fields), len(names), ErrFormat)
		}
		o := SysVObject{Numbers: make(map[string]uint64, len(names))}
		for i, f := range fields {
			if err := o.set(string(names[i]), string(f)); err != nil {
				return nil, err
			}
		}
		id, ok := o.Numbers[idColumns[kind]]
		if !ok || id > 1<<31-1 {
			return nil, fmt.Errorf("id %d: %w", id, ErrFormat)
		}
		o.ID, o.Mode = int32(id), uint32(o.Numbers["perms"])
		o.UID, o.GID = uint32(o.Numbers["uid"]), uint32(o.Numbers["gid"])
		o.CUID, o.CGID = uint32(o.Numbers["cuid"]), uint32(o.Numbers["cgid"])
		objects = append(objects, o)
	}
	return objects, nil
}

func (o *SysVObject) set(name, text string) error {
	if name == "key" {
		key, err := strconv.ParseInt(text, 10, 32)
		if err != nil {
			return fmt.Errorf("key %q: %w", text, ErrFormat)
		}
		o.Key = int32(key)
		return nil
	}
	base := 10
	if name == "perms" {
		base = 8
	}
	v, err := strconv.ParseUint(text, base, 64)
	if err != nil {
		return fmt.Errorf("%s %q: %w", name, text, ErrFormat)
	}
	o.Numbers[name] = v
	return nil
}
