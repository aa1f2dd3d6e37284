package sdk

import (
	"fmt"

	"github.com/firn-cr/firn/sdk/procfs"
)

// TaskID names a thread or process inside an image: the number that it has in
// the PID namespace of the tree's root. That is the host's own unless the tree
// has one of its own; then the host, and so plugins, know the task by another
// number.
type TaskID uint32

// Tree is the process tree of a session.
type Tree struct {
	// Root is the ID of the tree's root process.
	Root TaskID
	// Processes are in an order in which every parent precedes its children.
	Processes []Process
	// UserNamespaces are those in which processes of the tree live, or which own
	// namespaces of theirs, every one after the one around it.
	UserNamespaces []UserNamespace
}

// UserNamespace finds a user namespace of the tree by its place in the list,
// counted from 1, as [Process.UserNamespace] has it; nil for that of the host.
func (t *Tree) UserNamespace(n int) *UserNamespace {
	if n < 1 || n > len(t.UserNamespaces) {
		return nil
	}
	return &t.UserNamespaces[n-1]
}

// Process finds a process by its ID and returns nil if there is none.
func (t *Tree) Process(id TaskID) *Process {
	for i := range t.Processes {
		if t.Processes[i].ID == id {
			return &t.Processes[i]
		}
	}
	return nil
}

// ByPID finds a process by the number that it has here and now, as other parts
// of the kernel tell it. It returns nil if no process of the tree has that.
func (t *Tree) ByPID(pid int) *Process {
	for i := range t.Processes {
		if t.Processes[i].TGID() == pid {
			return &t.Processes[i]
		}
	}
	return nil
}

// Process is a thread group.
type Process struct {
	// ID is the process's name in the image. Records use it.
	ID TaskID
	// PID is the task by which the plugin reaches the live process now: in
	// /proc, with tapes, by kcmp(2). It is the main thread unless that has
	// exited ([Process.MainExited]): then it is another thread, for /proc shows
	// neither memory nor files of the main one any more. pidfd_open(2) wants
	// PIDFD_THREAD for such (since Linux 6.9). The number is one of the plugin's
	// PID namespace. A tree may have namespaces of its own: then the task itself,
	// and so a tape, knows it by another number, which is the last one of NSpid
	// in /proc/PID/status.
	PID int
	// Parent is the ID of the parent; 0 for the root.
	Parent TaskID
	// PGID and SID as at the checkpoint.
	PGID, SID TaskID
	// Comm is the name of the main thread.
	Comm string
	// Zombie processes have no threads, memory or files.
	Zombie bool
	// Threads has the main thread first, unless it has exited. Until the
	// threads are created (before FileLinker) only PID is valid.
	Threads []Thread
	// Reserved is a range of the address space that belongs to the host while
	// a restore lasts. It overlaps nothing of the checkpointed process.
	Reserved AddrRange
	// UserNamespace is the process's place in [Tree.UserNamespaces], counted from
	// 1, or 0 if it lives in that of the host. In a restore it enters the
	// namespace after [IdentityRestorer], and from then on has rights in there
	// only.
	UserNamespace int
}

// MainExited tells whether the main thread has ended while others run, by
// pthread_exit(3) in main for example. It stays a zombie, with a name and
// credentials, until the others have ended, and is not among Threads. In a
// restore there is one until the seal: PID is its id till then.
func (p *Process) MainExited() bool { return len(p.Threads) > 0 && p.Threads[0].ID != p.ID }

// TGID is the number of the process here and now: that of its main thread, also
// if that has exited. It is 0 if the process has ended meanwhile.
func (p *Process) TGID() int {
	if !p.MainExited() {
		return p.PID
	}
	status, err := procfs.Status(p.PID)
	if err != nil {
		return 0
	}
	return status.Tgid
}

// TIDs are the live ids of all threads.
func (p *Process) TIDs() []int {
	tids := make([]int, len(p.Threads))
	for i, t := range p.Threads {
		tids[i] = t.TID
	}
	return tids
}

// Thread is one task.
type Thread struct {
	ID  TaskID
	TID int
}

// AddrRange is the half-open range [Start, End) of an address space.
type AddrRange struct{ Start, End uint64 }

// Len returns the length in bytes.
func (r AddrRange) Len() uint64 { return r.End - r.Start }

// Overlaps tells whether the two ranges share a byte.
func (r AddrRange) Overlaps(o AddrRange) bool { return r.Start < o.End && o.Start < r.End }

// Resource is one thing that a plugin owns.
type Resource struct {
	// Kind says which of the fields below are set.
	Kind Kind
	// Object identifies the resource in the image; unique over all kinds but
	// tasks, whose object is their TaskID.
	Object uint64
	// Task is the process that has the resource (the first one, if several).
	Task TaskID
	// File is set for KindFile.
	File *File
	// VMA is set for KindVMA.
	VMA *VMA
	// Namespace is set for KindNamespace.
	Namespace *Namespace
}

// File describes an open file description.
type File struct {
	// Link is the text of /proc/PID/fd/N.
	Link string
	Type FileType
	Mode uint32 // st_mode
	Dev  uint64 // st_dev as makedev(3)
	Ino  uint64
	Rdev uint64
	Size int64
	// Flags are the status flags and access mode as fdinfo shows them, without
	// O_CLOEXEC.
	Flags uint32
	// Offset is the file position.
	Offset int64
	// MountID is the id of the mount in the mountinfo of Task.
	MountID int
	// FS is the type of the file system as in mountinfo: "tmpfs".
	FS string
	// Socket is set for sockets.
	Socket *Socket
	// Refs are all descriptors in the tree that refer to this description. There
	// may be none, if something else holds it.
	Refs []FDRef
	// Holders are what else holds it: see [Holder].
	Holders []FileHolder
}

// Subject names the description in reports by who has it: "fd 7".
func (f *File) Subject() string {
	switch {
	case len(f.Refs) > 0:
		return fmt.Sprintf("fd %d", f.Refs[0].FD)
	case len(f.Holders) > 0:
		return f.Holders[0].Subject
	}
	return "file"
}

// FileHolder is a resource that holds an open file description beside the
// descriptors of tasks.
type FileHolder struct {
	// Plugin owns the resource, whose object is Object.
	Plugin string
	Object uint64
	// Subject names the place in reports: "fd 7, in its queue".
	Subject string
	// PID and FD are where the description can be had from (pidfd_getfd(2)) while
	// a check or a dump lasts: a descriptor of the plugin's process. 0 in a
	// restore.
	PID, FD int
}

// FDRef is one file descriptor.
type FDRef struct {
	Task    TaskID
	FD      int
	Cloexec bool
}

// VMA is one line of /proc/PID/maps.
type VMA struct {
	AddrRange
	Perm   string // "rw-p"
	Offset uint64
	Dev    uint64
	Ino    uint64
	// Rdev is the device number (st_rdev) if a device is mapped, else 0.
	Rdev uint64
	Path string
}

// Namespace is a namespace in which some tasks of the tree live and the host
// does not.
type Namespace struct {
	Name  string // "uts"
	Ino   uint64
	Tasks []TaskID
	// Owner is the user namespace to which it belongs, whose members have rights
	// over it, as [Process.UserNamespace].
	Owner int
}
