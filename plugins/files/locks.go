package files

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/files/filespb"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/openfile"
	"github.com/firn-cr/firn/sdk/procfs"
)

// lockOption allows locks to be carried.
const lockOption = "file-locks"

// initPIDNS is the inode of the first PID namespace (PROC_PID_INIT_INO).
const initPIDNS = 0xEFFFFFFC

// plainInodes are file systems whose st_ino is the inode number that
// /proc/locks shows.
var plainInodes = map[string]bool{
	"ext2": true, "ext3": true, "ext4": true, "xfs": true, "btrfs": true, "f2fs": true, "tmpfs": true, "ramfs": true, "devtmpfs": true,
}

// fdinfoFiles are so many that reading fdinfo of each takes longer than reading
// /proc/locks, which is not cheap either: the kernel waits for an RCU grace
// period, 10 ms and more (locks_start in fs/locks.c).
const fdinfoFiles = 500

// examineLocks finds files that are locked or leased. Locks show in fdinfo; for
// many files /proc/locks tells which ones to read, if it shows all locks, as it
// does in the first PID namespace only.
func (s *survey) examineLocks() error {
	var files []*item
	for i := range s.items {
		f := s.items[i].file()
		if (f.Type == sdk.TypeRegular || f.Type == sdk.TypeDirectory) && f.Flags&unix.O_PATH == 0 {
			files = append(files, &s.items[i])
		}
	}
	var locked map[uint64]bool
	all := false
	if len(files) > fdinfoFiles {
		var err error
		if locked, all, err = lockedInodes(); err != nil {
			return err
		}
	}
	for _, it := range files {
		if f := it.file(); all && plainInodes[f.FS] && !locked[f.Ino] {
			continue
		}
		if err := s.readLocks(it); err != nil {
			return fmt.Errorf("examine %s of task %d: %w", openfile.Subject(it.res), it.res.Task, err)
		}
	}
	return nil
}

// lockedInodes returns the inodes of all locks, and whether they are all.
func lockedInodes() (inodes map[uint64]bool, all bool, err error) {
	var st unix.Stat_t
	if err := unix.Stat("/proc/self/ns/pid", &st); err != nil || st.Ino != initPIDNS {
		return nil, false, nil
	}
	locks, err := procfs.Locks()
	if err != nil {
		return nil, false, err
	}
	inodes = map[uint64]bool{}
	for _, l := range locks {
		inodes[l.Ino] = true
	}
	return inodes, true, nil
}

// readLocks reads the locks that are held through a description. POSIX locks
// belong to a process and show in its own fdinfo only.
func (s *survey) readLocks(it *item) error {
	seen := map[procfs.Lock]bool{}
	for _, ref := range it.file().Refs {
		p := s.sess.Tree.Process(ref.Task)
		if p == nil {
			continue
		}
		info, err := procfs.ReadFDInfo(p.PID, ref.FD)
		if s.gone(err) {
			continue
		}
		if err != nil {
			return err
		}
		for _, l := range info.Locks {
			if !seen[l] {
				seen[l] = true
				s.addLock(it, ref, l)
			}
		}
	}
	if len(it.file().Refs) > 0 {
		return nil
	}
	info, err := s.access.FDInfo(it.res) // no process has it open
	if err != nil {
		return err
	}
	for _, l := range info.Locks {
		if l.Type == "LEASE" {
			s.block(it, it.file().Link+": "+lockName(l)+": no task has the file open", "")
			continue
		}
		s.addLock(it, sdk.FDRef{}, l)
	}
	return nil
}

// addLock notes a lock, or reports why it cannot be carried.
func (s *survey) addLock(it *item, ref sdk.FDRef, l procfs.Lock) {
	name := it.file().Link + ": " + lockName(l)
	n, ok := it.msg.(*filespb.Named)
	switch {
	case !carriedLock(&l):
		s.block(it, name+": not carried", "")
		return
	case !s.sess.Enabled(lockOption):
		s.report.Add(it.res, sdk.LevelFlag, name, "--"+lockOption+": take it again, which fails if somebody else has it by then")
		return
	case !ok:
		return // blocked for another reason
	}
	lock := &filespb.Lock{
		Flock: l.Type == "FLOCK", Description: l.Type == "OFDLCK", Lease: l.Type == "LEASE",
		Write: l.Access == "WRITE", Start: l.Start,
	}
	if l.End != procfs.LockEOF {
		lock.Length = l.End - l.Start + 1
	}
	if l.Type == "POSIX" || l.Type == "LEASE" {
		lock.Task, lock.Fd = uint32(ref.Task), uint32(ref.FD)
	}
	n.Locks = append(n.Locks, lock)
}

// carriedLock tells whether a lock can be taken again: not a lease that somebody
// is breaking at the moment, and not what file servers have (DELEG, LAYOUT).
func carriedLock(l *procfs.Lock) bool {
	state := "ADVISORY"
	switch l.Type {
	case "FLOCK", "OFDLCK", "POSIX":
	case "LEASE":
		state = "ACTIVE"
	default:
		return false
	}
	return l.State == state && (l.Access == "READ" || l.Access == "WRITE")
}

func lockName(l procfs.Lock) string {
	switch l.Type {
	case "FLOCK":
		return "lock of flock(2) (" + l.Access + ")"
	case "LEASE", "DELEG":
		return "lease (" + l.State + " " + l.Access + ")"
	}
	kind := "lock"
	if l.Type == "OFDLCK" {
		kind = "lock of the description"
	}
	end := "the end"
	if l.End != procfs.LockEOF {
		end = fmt.Sprintf("byte %d", l.End)
	}
	return fmt.Sprintf("%s (%s) from byte %d to %s", kind, l.Access, l.Start, end)
}
