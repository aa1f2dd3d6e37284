package sdk

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/sdk/kern"
	pb "github.com/firn-cr/firn/sdk/proto/pluginpb"
)

// dumpFiles makes a [Dumper] of a [FileDumper]: it duplicates every file into
// this process, through a pidfd of a process that has it open.
func dumpFiles(ctx context.Context, d FileDumper, req *DumpRequest) error {
	pids := make(map[TaskID]int, len(req.Tree.Processes))
	for _, p := range req.Tree.Processes {
		pids[p.ID] = p.PID
	}
	holders := pidfds{}
	defer holders.close()
	for _, r := range req.Resources {
		if r.Kind != KindFile || r.File == nil {
			return fmt.Errorf("dump %s %d: a plugin with DumpFile only takes files: %w", r.Kind, r.Object, ErrUnsupported)
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		fd, err := holders.file(pids, r.File)
		if err != nil {
			return fmt.Errorf("dump %s: %w", r.File.Link, err)
		}
		err = d.DumpFile(ctx, &FileDump{DumpRequest: req, Resource: r, FD: fd})
		unix.Close(fd)
		if err != nil {
			return fmt.Errorf("dump %s of task %d (%s): %w", r.File.Subject(), r.Task, r.File.Link, err)
		}
	}
	return nil
}

// pidfds are open pidfds by PID.
type pidfds map[int]int

func (p pidfds) close() {
	for _, fd := range p {
		unix.Close(fd)
	}
}

// file duplicates an open file from who has it.
func (p pidfds) file(pids map[TaskID]int, f *File) (int, error) {
	err := fmt.Errorf("no process has it open: %w", ErrUnsupported)
	for _, ref := range f.Refs {
		var fd int
		if fd, err = p.get(pids[ref.Task], ref.FD); err == nil {
			return fd, nil
		}
		err = fmt.Errorf("fd %d of task %d: %w", ref.FD, ref.Task, err)
	}
	for _, h := range f.Holders {
		var fd int
		if fd, err = p.get(h.PID, h.FD); err == nil {
			return fd, nil
		}
		err = fmt.Errorf("%s: %w", h.Subject, err)
	}
	return -1, err
}

func (p pidfds) get(pid, target int) (int, error) {
	pidfd, ok := p[pid]
	if !ok {
		var err error
		if pidfd, err = kern.OpenPidfd(pid); err != nil {
			if errors.Is(err, unix.ESRCH) {
				err = fmt.Errorf("%w: %w", ErrTaskGone, err)
			}
			return -1, err
		}
		p[pid] = pidfd
	}
	fd, err := unix.PidfdGetfd(pidfd, target, 0)
	if err != nil {
		return -1, fmt.Errorf("pidfd_getfd: %w", err)
	}
	return fd, nil
}

// restoreFiles makes an [ObjectRestorer] of a [FileRestorer].
func restoreFiles(ctx context.Context, f FileRestorer, req *RestoreRequest) error {
	for _, r := range req.Resources {
		if err := ctx.Err(); err != nil {
			return err
		}
		file := &FileRestore{RestoreRequest: req, Resource: r}
		for rec, err := range req.Records.Object(r.Object) {
			if err != nil {
				return fmt.Errorf("restore %s: %w", resourceName(&r), err)
			}
			file.Own = append(file.Own, rec)
		}
		fd, err := f.RestoreFile(ctx, file)
		if err != nil {
			return fmt.Errorf("restore %s: %w", resourceName(&r), err)
		}
		if err := req.Provide(r.Object, fd); err != nil {
			return err
		}
	}
	return nil
}

func resourceName(r *Resource) string {
	if r.File == nil {
		return fmt.Sprintf("%s %d", r.Kind, r.Object)
	}
	return fmt.Sprintf("file %d (%s)", r.Object, r.File.Link)
}

// provider collects what RestoreObjects provides.
type provider struct {
	ses *session

	mu   sync.Mutex
	list []*pb.Provided
}

func (p *provider) provide(object uint64, fd int) error {
	if err := p.ses.provide(object, fd); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.list = append(p.list, &pb.Provided{Object: object, Fd: int32(fd)})
	return nil
}

func (p *provider) taken() []*pb.Provided {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.list
}
