package probe

import (
	"fmt"
	"sync"

	"golang.org/x/sys/unix"
)

// capability is a right of the process and what it is for.
type capability struct {
	name      string
	number    int
	neededFor string
	required  bool
}

var capabilities = []capability{
	{"CAP_SYS_PTRACE", unix.CAP_SYS_PTRACE, "tracing tasks of other users and reading their memory", true},
	{"CAP_CHECKPOINT_RESTORE", unix.CAP_CHECKPOINT_RESTORE, "chosen PIDs and map_files (CAP_SYS_ADMIN does too)", false},
	{"CAP_SYS_ADMIN", unix.CAP_SYS_ADMIN, "namespaces, mounts, seccomp filters, host names", false},
	{"CAP_KILL", unix.CAP_KILL, "ending and stopping tasks of other users", false},
	{"CAP_SETUID", unix.CAP_SETUID, "restoring user ids", false},
	{"CAP_SETGID", unix.CAP_SETGID, "restoring group ids", false},
	{"CAP_SETPCAP", unix.CAP_SETPCAP, "restoring capability bounding sets", false},
	{"CAP_DAC_OVERRIDE", unix.CAP_DAC_OVERRIDE, "opening files of other users", false},
	{"CAP_DAC_READ_SEARCH", unix.CAP_DAC_READ_SEARCH, "finding files by inode and linking deleted ones back", false},
	{"CAP_CHOWN", unix.CAP_CHOWN, "owners of files that are made again", false},
	{"CAP_FOWNER", unix.CAP_FOWNER, "modes and times of files that are made again", false},
	{"CAP_MKNOD", unix.CAP_MKNOD, "device nodes that are made again", false},
	{"CAP_NET_ADMIN", unix.CAP_NET_ADMIN, "TCP repair, network devices, some socket options", false},
	{"CAP_NET_RAW", unix.CAP_NET_RAW, "raw and packet sockets", false},
	{"CAP_NET_BIND_SERVICE", unix.CAP_NET_BIND_SERVICE, "sockets bound to ports below 1024", false},
	{"CAP_SYS_CHROOT", unix.CAP_SYS_CHROOT, "tasks with their own root directory", false},
	{"CAP_SYS_NICE", unix.CAP_SYS_NICE, "priorities, scheduling policies, affinity of other users' tasks", false},
	{"CAP_SYS_RESOURCE", unix.CAP_SYS_RESOURCE, "limits above the hard limits of the caller, limits of other users' tasks", false},
	{"CAP_IPC_LOCK", unix.CAP_IPC_LOCK, "locked memory above the limit", false},
	{"CAP_IPC_OWNER", unix.CAP_IPC_OWNER, "System V objects of other users", false},
}

// Capabilities tells for every capability that Firn uses whether this process
// has it in its effective set.
var Capabilities = sync.OnceValue(func() []Result {
	var data [2]unix.CapUserData
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	err := unix.Capget(&hdr, &data[0])
	all := make([]Result, 0, len(capabilities))
	for _, c := range capabilities {
		r := Result{Name: c.name, NeededFor: c.neededFor, Required: c.required, Answer: No}
		switch {
		case err != nil:
			r.Answer, r.Detail = Unknown, fmt.Sprintf("capget: %v", err)
		case data[c.number/32].Effective&(1<<(c.number%32)) != 0:
			r.Answer = Yes
		}
		all = append(all, r)
	}
	return all
})
