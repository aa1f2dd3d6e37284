package restore

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/host/image"
	"github.com/firn-cr/firn/sdk"
)

// enteredKey is the environment variable by which the program that
// EnterMountNamespace executes knows that it was.
const enteredKey = "FIRN_MOUNT_NAMESPACE_ENTERED"

// OwnMounts tells whether the tree gets a /proc of its own, and so a mount
// namespace: it had one, or is to get a PID namespace that it did not have.
func OwnMounts(cfg *Config) (bool, error) {
	if cfg.NewPIDNamespace {
		return true, nil
	}
	img, err := image.Glance(cfg.Image)
	if err != nil {
		return false, err
	}
	return img.Manifest().OwnProc, img.Close()
}

// EnterMountNamespace gives this process a mount namespace of its own, private
// to it and its children, by executing its program again: no other way leads all
// threads of a process there. It returns nil in the second run, and does not
// return from the first unless it fails.
//
// The files that the plugins open for a tree lie on the mounts of the plugins'
// namespace. The tree lives in the same one, so that link(2) and rename(2)
// between a directory that is open and a path go on working: across mount
// namespaces they fail with EXDEV.
func EnterMountNamespace() error {
	if os.Getenv(enteredKey) != "" {
		// Named after the link that was executed until now; a name is no
		// reason to fail.
		_ = os.WriteFile("/proc/self/comm", []byte(filepath.Base(os.Args[0])), 0)
		return os.Unsetenv(enteredKey)
	}
	runtime.LockOSThread() // never unlocked: the thread must not run anything else
	err := unix.Unshare(unix.CLONE_NEWNS)
	if errors.Is(err, unix.EPERM) {
		return fmt.Errorf("create mount namespace: CAP_SYS_ADMIN needed: %w", sdk.ErrNotPermitted)
	}
	if err != nil {
		return fmt.Errorf("create mount namespace: %w", err)
	}
	// Neither what is mounted here is seen outside, nor the other way round.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	err = unix.Exec("/proc/self/exe", os.Args, append(os.Environ(), enteredKey+"=1"))
	return fmt.Errorf("execute %s in its mount namespace: %w", os.Args[0], err)
}

// aloneInMountNamespace makes sure that no other process is in the mount
// namespace of this one: a /proc that is mounted there would be everybody's.
func aloneInMountNamespace() error {
	var own unix.Stat_t
	if err := unix.Stat("/proc/self/ns/mnt", &own); err != nil {
		return fmt.Errorf("read own mount namespace: %w", err)
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return err
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		var st unix.Stat_t
		if err := unix.Stat(fmt.Sprintf("/proc/%d/ns/mnt", pid), &st); err != nil {
			continue // ended; a kernel thread's is that of init
		}
		if st.Ino == own.Ino && st.Dev == own.Dev {
			return fmt.Errorf("the mount namespace is that of process %d, too: %w", pid, sdk.ErrInUse)
		}
	}
	return nil
}
