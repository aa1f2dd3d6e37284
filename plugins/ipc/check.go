package ipc

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/namespace"
	"github.com/firn-cr/firn/sdk/procfs"
)

// subject is what findings about a whole namespace are about.
const subject = "ipc namespace"

// Check implements [sdk.Checker].
func (*plugin) Check(ctx context.Context, req *sdk.CheckRequest) ([]sdk.Finding, error) {
	var findings []sdk.Finding
	for i := range req.Resources {
		r := &req.Resources[i]
		members := namespace.Members(req.Session, r)
		if len(members) == 0 {
			continue
		}
		x := &examination{host: req.Host, tree: req.Tree, resource: r, members: members, frozen: req.Frozen, preview: req.Preview}
		err := x.examine(ctx)
		gone := errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH)
		switch {
		case gone && !req.Frozen:
			continue // it has just ended
		case errors.Is(err, os.ErrPermission):
			x.block(subject, err.Error(), "run firn with CAP_SYS_ADMIN, CAP_SYS_PTRACE and CAP_IPC_OWNER")
		case err != nil:
			return nil, fmt.Errorf("ipc namespace of task %d: %w", members[0].ID, err)
		}
		findings = append(findings, x.findings...)
	}
	list, err := checkDescriptors(req.Session)
	return append(findings, list...), err
}

// examination is what is known of one namespace while it is looked at.
type examination struct {
	host     sdk.Host
	tree     *sdk.Tree
	resource *sdk.Resource
	members  []*sdk.Process
	frozen   bool
	// preview tells that the frozen tree is going to be examined as well.
	preview  bool
	findings []sdk.Finding
}

func (x *examination) add(level sdk.Level, subject, text, help string) {
	x.findings = append(x.findings, sdk.Finding{Level: level, Task: x.members[0].ID, Object: x.resource.Object,
		Subject: subject, Text: text, Help: help})
}

func (x *examination) block(subject, text, help string) { x.add(sdk.LevelBlock, subject, text, help) }

func (x *examination) examine(ctx context.Context) error {
	outsider, err := x.outsider()
	if err != nil {
		return err
	}
	if outsider != 0 {
		x.block(subject, fmt.Sprintf("task %d lives in it as well, which is outside of the tree", outsider),
			"checkpoint a tree that has all processes of the namespace")
	}
	return within(x.members[0].PID, func() error { return x.content(ctx) })
}

// content looks at the objects; the calling thread is in the namespace.
func (x *examination) content(ctx context.Context) error {
	segments, err := x.segments()
	if err != nil {
		return err
	}
	queues, err := procfs.SysVIPC(procfs.MessageQueues)
	if err != nil {
		return err
	}
	buf := make([]byte, typeSize+maxMessage)
	for _, r := range queues {
		text, err := blockedQueue(r, buf)
		if err != nil {
			return err
		}
		if text != "" {
			x.block(fmt.Sprintf("message queue %d", r.ID), text, "")
		}
	}
	sets, err := procfs.SysVIPC(procfs.Semaphores)
	if err != nil {
		return err
	}
	if err := x.adjustments(ctx, sets); err != nil {
		return err
	}
	posix, err := posixQueues()
	if err != nil {
		return err
	}
	for i := range posix {
		if text := posix[i].blocked(); text != "" {
			x.block("POSIX message queue /"+string(posix[i].Name), text, "receive the messages, or end the notification")
		}
	}
	x.add(sdk.LevelOK, subject, fmt.Sprintf("%d shared memory segments, %d message queues, %d sets of semaphores, %d POSIX message queues",
		segments, len(queues), len(sets), len(posix)), "")
	return nil
}

// runningLooks is how often attachments are counted while the tree runs,
// before a difference counts.
const runningLooks = 3

// segments looks at shared memory.
func (x *examination) segments() (int, error) {
	forced, err := os.ReadFile("/proc/sys/" + rmidForced)
	if err != nil {
		return 0, err
	}
	if x.preview {
		rows, err := procfs.SysVIPC(procfs.SharedMemory)
		return len(rows), err
	}
	var rows []procfs.SysVObject
	var wrong []sdk.Finding
	for look := range runningLooks {
		before := len(x.findings)
		if rows, err = procfs.SysVIPC(procfs.SharedMemory); err != nil {
			return 0, err
		}
		attached, err := attachments(x.members)
		if err != nil {
			return 0, err
		}
		if err := x.compare(rows, attached, strings.TrimSpace(string(forced)) != "0"); err != nil {
			return 0, err
		}
		wrong, x.findings = slices.Clone(x.findings[before:]), x.findings[:before]
		if len(wrong) == 0 || x.frozen || look == runningLooks-1 {
			break
		}
	}
	x.findings = append(x.findings, wrong...)
	return len(rows), nil
}

// compare makes sure that whoever has attached a segment is in the tree and in
// the namespace: mappings do not tell of which namespace a segment is.
func (x *examination) compare(rows []procfs.SysVObject, attached map[int32][]attachment, forced bool) error {
	for _, r := range rows {
		id := r.ID
		subject := fmt.Sprintf("shared memory %d", id)
		by, want := attached[id], int(r.Numbers["nattch"])
		have := len(by)
		delete(attached, id)
		switch {
		case have != want:
			x.block(subject, fmt.Sprintf("has %d attachments, %d of them in the tree", want, have),
				"checkpoint a tree that has all processes that use it")
		case forced && want == 0:
			x.block(subject, "is tied to the task that made it (kernel.shm_rmid_forced)", "attach it")
		}
		huge, err := x.inHugePages(id, by)
		if err != nil {
			return err
		}
		if huge {
			x.block(subject, "memory in huge pages (SHM_HUGETLB)", "")
		}
	}
	for id := range attached {
		x.block(fmt.Sprintf("shared memory %d", id), "is attached, but of another IPC namespace", "detach it")
	}
	return nil
}

// inHugePages looks at the file of a segment. While the tree runs, one that
// nobody has attached is left alone.
func (x *examination) inHugePages(id int32, attached []attachment) (bool, error) {
	if len(attached) == 0 && !x.frozen {
		return false, nil
	}
	f, err := openSegment(id, attached)
	if err != nil && !x.frozen && (errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.EINVAL)) {
		return false, nil // detached since
	}
	if err != nil {
		return false, fmt.Errorf("shared memory %d: %w", id, err)
	}
	defer f.Close()
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &st); err != nil {
		return false, err
	}
	return st.Type == hugetlbMagic, nil
}

// outsider finds a process of the namespace that is not in the tree.
func (x *examination) outsider() (int, error) {
	dir, err := os.Open("/proc")
	if err != nil {
		return 0, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return 0, err
	}
	for _, n := range names {
		pid, err := strconv.Atoi(n)
		if err != nil || x.tree.ByPID(pid) != nil {
			continue
		}
		if ino, err := namespace.Inode(pid, nsName); err == nil && ino == x.resource.Namespace.Ino {
			return pid, nil
		}
	}
	return 0, nil
}
