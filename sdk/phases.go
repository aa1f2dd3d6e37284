package sdk

import (
	"context"
	"fmt"

	pb "github.com/firn-cr/firn/sdk/proto/pluginpb"
)

// round is one phase of a session: the session as the plugin sees it and the
// request it came with.
type round struct {
	*Session
	ses *session
	req *pb.RunRequest
}

func (ses *session) round(req *pb.RunRequest) *round {
	return &round{ses: ses, req: req, Session: &Session{
		Tree:      treeFromWire(req.GetTree()),
		Resources: resourcesFromWire(req.GetResources()),
		Attended:  resourcesFromWire(req.GetAttended()),
		Held:      heldFromWire(req.GetHeld()),
		Options:   ses.options,
		Deferred:  ses.deferred,
		Host:      ses.services,
		Log:       ses.log,
	}}
}

// phase binds a phase of the protocol to an optional interface.
type phase struct {
	code pb.Phase
	has  func(Plugin) bool
	run  func(context.Context, Plugin, *round) (*pb.RunResponse, error)
}

// phases has every phase of the protocol. The order is that of the protocol.
var phases = []phase{
	{pb.Phase_PHASE_QUIESCE, is[Quiescer], runQuiesce},
	{pb.Phase_PHASE_CHECK, is[Checker], runCheck},
	{pb.Phase_PHASE_PREPARE, is[Preparer], runPrepare},
	{pb.Phase_PHASE_DUMP, either[Dumper, FileDumper], runDump},
	{pb.Phase_PHASE_THAWED, either[Thawer, Holder], runThawed},
	{pb.Phase_PHASE_ABORT, func(Plugin) bool { return true }, runAbort},
	{pb.Phase_PHASE_CHECK_IMAGE, is[ImageChecker], runCheckImage},
	{pb.Phase_PHASE_RESTORE_NAMESPACES, is[NamespaceRestorer], restorePhase(NamespaceRestorer.RestoreNamespaces)},
	{pb.Phase_PHASE_RESTORE_OBJECTS, either[ObjectRestorer, FileRestorer], runRestoreObjects},
	{pb.Phase_PHASE_RESTORE_MEMORY, is[MemoryRestorer], restorePhase(MemoryRestorer.RestoreMemory)},
	{pb.Phase_PHASE_RESTORE_IDENTITY, is[IdentityRestorer], restorePhase(IdentityRestorer.RestoreIdentity)},
	{pb.Phase_PHASE_LINK_FILES, is[FileLinker], restorePhase(FileLinker.LinkFiles)},
	{pb.Phase_PHASE_RESTORE_TASKS, is[TaskRestorer], restorePhase(TaskRestorer.RestoreTasks)},
	{pb.Phase_PHASE_SEAL, is[Sealer], restorePhase(Sealer.Seal)},
	{pb.Phase_PHASE_RESUMED, is[Resumer], restorePhase(Resumer.Resumed)},
	{pb.Phase_PHASE_ENDED, is[Ender], runEnded},
}

func findPhase(code pb.Phase) *phase {
	for i := range phases {
		if phases[i].code == code {
			return &phases[i]
		}
	}
	return nil
}

func is[T any](p Plugin) bool {
	_, ok := p.(T)
	return ok
}

func either[A, B any](p Plugin) bool { return is[A](p) || is[B](p) }

func runCheck(ctx context.Context, p Plugin, r *round) (*pb.RunResponse, error) {
	if !r.req.GetAgain() {
		r.ses.dropHeld()
	}
	req := &CheckRequest{Session: r.Session, Frozen: r.req.GetFrozen(), Preview: r.req.GetPreview(), Again: r.req.GetAgain()}
	found, err := p.(Checker).Check(ctx, req)
	resp := &pb.RunResponse{Findings: findingsToWire(found)}
	h, ok := p.(Holder)
	if err != nil || !ok || req.Preview {
		return resp, err
	}
	held, err := h.Held(ctx, req)
	r.ses.keepHeld(held)
	resp.Held = heldToWire(held)
	return resp, err
}

func runQuiesce(ctx context.Context, p Plugin, r *round) (*pb.RunResponse, error) {
	return &pb.RunResponse{}, p.(Quiescer).Quiesce(ctx, &QuiesceRequest{Session: r.Session})
}

func runPrepare(ctx context.Context, p Plugin, r *round) (*pb.RunResponse, error) {
	resp, err := p.(Preparer).Prepare(ctx, &PrepareRequest{Session: r.Session})
	if resp == nil {
		return &pb.RunResponse{}, err
	}
	if r.ses.deferred {
		r.ses.producer.Warm(uint64(max(resp.RecordBytes, 0)) + uint64(max(resp.BulkBytes, 0)))
	}
	return &pb.RunResponse{RecordBytes: resp.RecordBytes, BulkBytes: resp.BulkBytes}, err
}

// dump calls f and waits until the host has accepted what f emitted.
func (r *round) dump(ctx context.Context, f func(context.Context, *DumpRequest) error) (*pb.RunResponse, error) {
	if err := f(ctx, &DumpRequest{Session: r.Session, Records: r.ses.emitter(), Frozen: r.req.GetFrozen()}); err != nil {
		return nil, err
	}
	if err := r.ses.producer.Flush(ctx); err != nil {
		return nil, fmt.Errorf("flush records: %w", err)
	}
	return &pb.RunResponse{}, nil
}

func runDump(ctx context.Context, p Plugin, r *round) (*pb.RunResponse, error) {
	if d, ok := p.(Dumper); ok {
		return r.dump(ctx, d.Dump)
	}
	return r.dump(ctx, func(ctx context.Context, req *DumpRequest) error {
		return dumpFiles(ctx, p.(FileDumper), req)
	})
}

func runThawed(ctx context.Context, p Plugin, r *round) (*pb.RunResponse, error) {
	r.ses.dropHeld()
	if t, ok := p.(Thawer); ok {
		return r.dump(ctx, t.Thawed)
	}
	return &pb.RunResponse{}, nil
}

func runEnded(ctx context.Context, p Plugin, r *round) (*pb.RunResponse, error) {
	return &pb.RunResponse{}, p.(Ender).Ended(ctx, &EndRequest{Session: r.Session})
}

func runAbort(ctx context.Context, p Plugin, _ *round) (*pb.RunResponse, error) {
	if a, ok := p.(Aborter); ok {
		return &pb.RunResponse{}, a.Abort(ctx)
	}
	return &pb.RunResponse{}, nil
}

// restore makes the request of a restore's phase.
func (r *round) restore() (*RestoreRequest, error) {
	if r.ses.records == nil {
		return nil, fmt.Errorf("the session has no image: %w", ErrUnsupported)
	}
	req := &RestoreRequest{
		Session: r.Session,
		Records: r.ses.records,
		ImageFD: int(r.req.GetImageFd()), PluginFD: int(r.req.GetPluginFd()),
		fetch: map[uint64]HeldFile{},
		Provide: func(object uint64, fd int) error {
			return fmt.Errorf("provide object %d: only objects may be provided by RestoreObjects: %w", object, ErrUnsupported)
		},
	}
	for _, h := range r.Held {
		req.fetch[h.Object] = h
	}
	return req, nil
}

func restorePhase[T any](method func(T, context.Context, *RestoreRequest) error) func(context.Context, Plugin, *round) (*pb.RunResponse, error) {
	return func(ctx context.Context, p Plugin, r *round) (*pb.RunResponse, error) {
		req, err := r.restore()
		if err != nil {
			return nil, err
		}
		return &pb.RunResponse{}, method(p.(T), ctx, req)
	}
}

func runCheckImage(ctx context.Context, p Plugin, r *round) (*pb.RunResponse, error) {
	req, err := r.restore()
	if err != nil {
		return nil, err
	}
	found, err := p.(ImageChecker).CheckImage(ctx, req)
	return &pb.RunResponse{Findings: findingsToWire(found)}, err
}

func runRestoreObjects(ctx context.Context, p Plugin, r *round) (*pb.RunResponse, error) {
	req, err := r.restore()
	if err != nil {
		return nil, err
	}
	provider := &provider{ses: r.ses}
	req.Provide = provider.provide
	if o, ok := p.(ObjectRestorer); ok {
		err = o.RestoreObjects(ctx, req)
	} else {
		err = restoreFiles(ctx, p.(FileRestorer), req)
	}
	return &pb.RunResponse{Provided: provider.taken()}, err
}
