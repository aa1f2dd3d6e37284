package resource

import (
	"fmt"
	"os"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/procfs"
)

// mounts knows the types of the file systems of all mount namespaces that were
// met, by namespace and mount id.
type mounts struct {
	host  Host
	mu    sync.Mutex
	types map[uint64]map[int]string
}

// place finds the file system of a file of a process, and the mount of the host
// that the file's mount is. A file that was opened before the process got its
// mount namespace lies on a mount of the host's.
func (m *mounts) place(tid int, ns uint64, f *sdk.File) (err error) {
	f.FS, err = m.fsType(tid, ns, f.MountID)
	if err == nil && f.FS == "" {
		var same map[string]uint64
		if same, err = own(); err == nil && same["mnt"] != ns {
			f.FS, err = m.fsType(os.Getpid(), same["mnt"], f.MountID)
		}
	}
	f.MountID = m.host.Mount(ns, f.MountID)
	return err
}

// complete adds to a file of a process, whose /proc/TID/fd is dir, where it lies.
func (m *mounts) complete(tid int, ns uint64, f *openFD, dir int) error {
	err := m.place(tid, ns, &f.file)
	if err == nil && f.file.FS == "" && f.file.Type == sdk.TypeRegular {
		f.file.FS = internalFS(dir, f.fd)
	}
	return err
}

// fsType returns the type of the file system of a mount, "" if the mount is not
// in the namespace, or not any more (a lazy umount(2)).
func (m *mounts) fsType(tid int, ns uint64, mount int) (string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	types, ok := m.types[ns]
	if !ok {
		list, err := procfs.Mounts(tid)
		if err != nil {
			return "", fmt.Errorf("read mounts: %w", err)
		}
		types = map[int]string{}
		for _, mt := range list {
			types[mt.ID] = mt.FS
		}
		if m.types == nil {
			m.types = map[uint64]map[int]string{}
		}
		m.types[ns] = types
	}
	return types[mount], nil
}

// mqueueMagic is MQUEUE_MAGIC (ipc/mqueue.c).
const mqueueMagic = 0x19800202

// internalFS returns the type of the file system of a file on a mount that the
// kernel has for itself, if programs open files there all the same: mq_open(3)
// does. dir is /proc/TID/fd.
func internalFS(dir, fd int) string {
	var st unix.Statfs_t
	err := unix.Statfs(fmt.Sprintf("/proc/self/fd/%d/%d", dir, fd), &st)
	if err == nil && st.Type == mqueueMagic {
		return "mqueue"
	}
	return ""
}

// mappedDevice returns the device number behind a mapping of a device, 0 for
// everything else. Devices are mapped by their nodes, which live below /dev.
func mappedDevice(tid int, m *procfs.Mapping) uint64 {
	if m.Ino == 0 || !strings.HasPrefix(m.Path, "/dev/") {
		return 0
	}
	var st unix.Stat_t
	err := unix.Stat(fmt.Sprintf("/proc/%d/map_files/%x-%x", tid, m.Start, m.End), &st)
	if err != nil || st.Mode&unix.S_IFMT != unix.S_IFCHR && st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return 0
	}
	return st.Rdev
}
