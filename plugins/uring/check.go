package uring

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/uring/uringpb"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/openfile"
	"github.com/firn-cr/firn/sdk/procfs"
)

const (
	// maxRequests bounds how long a restore takes: some two minutes.
	maxRequests = 1_000_000_000
	// slowRequests is from where on that is worth telling: a second, or so.
	slowRequests = 10_000_000
)

// unknowable is what every ring may differ in.
const unknowable = "whether it goes on behind a request that fails to be submitted (IORING_SETUP_SUBMIT_ALL) the kernel does not tell; it will not"

// Check implements [sdk.Checker].
func (p *plugin) Check(ctx context.Context, req *sdk.CheckRequest) ([]sdk.Finding, error) {
	s := newSurvey(req.Session, req.Frozen)
	defer s.access.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	rings := map[uint64]*uringpb.Ring{}
	if req.Frozen {
		if err := s.registeredRings(ctx); err != nil {
			return nil, err
		}
	}
	for _, r := range s.files {
		ring, err := s.settled(ctx, r)
		switch {
		case errors.Is(err, errBusy) && !req.Frozen:
		case err != nil && !req.Frozen && (openfile.Gone(err) || errors.Is(err, fs.ErrNotExist)):
		case errors.Is(err, sdk.ErrUnsupported):
			s.report.Block(r, "io_uring: "+refusalText(err), "let the program end what it does with it")
		case err != nil:
			return nil, fmt.Errorf("examine %s of task %d: %w", r.File.Subject(), r.Task, err)
		default:
			s.describe(r, ring)
			rings[r.Object] = ring
		}
	}
	p.frozen = nil
	if req.Frozen {
		p.frozen = rings
	}
	return append(s.report.Findings(), s.strayMappings()...), nil
}

// refusalError says why a ring cannot be carried. It is sdk.ErrUnsupported.
type refusalError string

func (e refusalError) Error() string        { return string(e) }
func (e refusalError) Is(target error) bool { return target == sdk.ErrUnsupported || target == e }

func refusalText(err error) string {
	var r refusalError
	if errors.As(err, &r) {
		return string(r)
	}
	return err.Error()
}

// survey looks at the rings of a tree.
type survey struct {
	sess   *sdk.Session
	frozen bool
	access *openfile.Access
	report openfile.Report
	files  []*sdk.Resource
	vmas   map[uint64][]*sdk.Resource // by the inode of the ring
	smaps  map[sdk.TaskID][]procfs.Smap
}

func newSurvey(sess *sdk.Session, frozen bool) *survey {
	s := &survey{sess: sess, frozen: frozen, access: openfile.NewAccess(sess.Tree), vmas: map[uint64][]*sdk.Resource{}, smaps: map[sdk.TaskID][]procfs.Smap{}}
	for i := range sess.Resources {
		switch r := &sess.Resources[i]; {
		case r.File != nil:
			s.files = append(s.files, r)
		case r.VMA != nil:
			s.vmas[r.VMA.Ino] = append(s.vmas[r.VMA.Ino], r)
		}
	}
	return s
}

func (s *survey) describe(r *sdk.Resource, ring *uringpb.Ring) {
	s.report.Add(r, sdk.LevelOK, fmt.Sprintf("ok, io_uring of %d entries, %d completions not taken", ring.GetEntries(),
		ring.GetSubmitted()-ring.GetTaken()), "")
	s.report.Note(r, "io_uring: "+unknowable)
	if n := ring.GetSubmitted(); n > slowRequests {
		s.report.Note(r, fmt.Sprintf("io_uring: has had %d requests, and the restore sends as many empty ones: about %d s", n, n/slowRequests))
	}
}

// textInFlight is what may end by itself: the kernel goes on with requests while the
// tree stands still, and tells it when a task makes a system call.
const textInFlight = "has requests in flight, or has had some with more or fewer completions than one"

// textUnused is for rings in which nothing tells the layout.
const textUnused = "has hardly been used: its layout cannot be told"

// settleTime is how long is waited for requests in flight.
const settleTime = 100 * time.Millisecond

// settled is examine, after what is in flight in a frozen tree, if that does not
// take long.
func (s *survey) settled(ctx context.Context, r *sdk.Resource) (*uringpb.Ring, error) {
	for deadline := time.Now().Add(settleTime); ; time.Sleep(time.Millisecond) {
		ring, err := s.examine(r)
		wait := errors.Is(err, refusalError(textInFlight)) || errors.Is(err, errBusy)
		if !s.frozen || !wait || time.Now().After(deadline) {
			return ring, err
		}
		if _, _, err := s.askThreads(ctx); err != nil {
			return nil, err
		}
	}
}

// examine finds out whether a ring can be carried, and how. A ring that cannot be
// is sdk.ErrUnsupported. Groups of buffers take some 30 ms to be looked for, which is
// done while the tree runs, before and after it stands still.
func (s *survey) examine(r *sdk.Resource) (*uringpb.Ring, error) {
	fd, err := s.access.Dup(r)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	in, err := readInfo(fd)
	if err != nil {
		return nil, err
	}
	if text := in.refusal(s.frozen); text != "" {
		return nil, refusalError(text)
	}
	ring := &uringpb.Ring{
		Entries: in.entries, CompletionEntries: in.completions, Submitted: in.cachedSQHead, Taken: in.cqHead,
	}
	fresh, _, err := setup(1, 2, false)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fresh)
	if text, err := probe(fd, fresh); err != nil {
		return nil, err
	} else if text != "" {
		return nil, refusalError(text)
	}
	if in.cachedSQHead < 2 {
		return nil, refusalError(textUnused)
	}
	if !s.frozen {
		return ring, refuseGroups(fd, fresh) // the rest needs a ring that rests
	}
	if err := layout(fd, ring); err != nil {
		return nil, err
	}
	return ring, s.mappings(r, ring)
}

// refusal tells what is in the way by what the kernel shows of a ring.
func (in *info) refusal(frozen bool) string {
	switch {
	case in.thread != -1:
		return "has a thread of the kernel that polls (IORING_SETUP_SQPOLL)"
	case in.files > 0:
		return "has registered files"
	case in.buffers > 0:
		return "has registered buffers"
	case in.napis:
		return "polls devices (IORING_REGISTER_NAPI)"
	case in.personalities:
		return "has registered credentials (IORING_REGISTER_PERSONALITY)"
	case in.cachedSQHead > maxRequests:
		return fmt.Sprintf("has had %d requests, more than %d: a restore would take minutes", in.cachedSQHead, maxRequests)
	case !frozen:
		return "" // what is in flight ends
	case in.sqTail != in.cachedSQHead:
		return "has requests that were not submitted yet"
	case in.polls:
		return "waits for files (polls in flight)"
	case in.overflown:
		return "has more completions than room for them"
	case in.cachedSQHead != in.cachedCQTail:
		return textInFlight
	case in.cqHead > in.cachedCQTail || in.cachedCQTail-in.cqHead > in.completions:
		return "has counters that do not fit each other"
	}
	return ""
}

// mappings collects where processes have a ring.
func (s *survey) mappings(r *sdk.Resource, ring *uringpb.Ring) error {
	for _, v := range s.vmas[r.File.Ino] {
		maps, ok := s.smaps[v.Task]
		if !ok {
			p := s.sess.Tree.Process(v.Task)
			if p == nil {
				return fmt.Errorf("task %d is not in the tree: %w", v.Task, sdk.ErrCorrupt)
			}
			var err error
			if maps, err = procfs.Smaps(p.PID); err != nil {
				return err
			}
			s.smaps[v.Task] = maps
		}
		i := slices.IndexFunc(maps, func(m procfs.Smap) bool { return m.Start == v.VMA.Start })
		if i < 0 {
			return fmt.Errorf("mapping %x-%x is not there any more: %w", v.VMA.Start, v.VMA.End, sdk.ErrChanged)
		}
		m := &maps[i]
		switch m.Offset {
		case offSQRing, offCQRing, offSQEs:
		default:
			return refusalError(fmt.Sprintf("has buffers that are mapped at %x", m.Start))
		}
		out := &uringpb.Mapping{Task: uint32(v.Task), Start: m.Start, End: m.End, Offset: m.Offset, DontFork: m.Flags.Has(procfs.VMDontCopy)}
		if m.Readable() {
			out.Prot |= unix.PROT_READ
		}
		if m.Writable() {
			out.Prot |= unix.PROT_WRITE
		}
		ring.Mappings = append(ring.Mappings, out)
	}
	return nil
}

// strayMappings reports mappings of rings that nobody has open.
func (s *survey) strayMappings() (found []sdk.Finding) {
	open := map[uint64]bool{}
	for _, r := range s.files {
		open[r.File.Ino] = true
	}
	for ino, list := range s.vmas {
		for _, v := range list {
			if !open[ino] {
				found = append(found, sdk.Finding{Level: sdk.LevelBlock, Task: v.Task, Object: v.Object,
					Subject: fmt.Sprintf("mapping %x-%x", v.VMA.Start, v.VMA.End), Text: "memory of an io_uring that no task of the tree has open"})
			}
		}
	}
	return found
}
