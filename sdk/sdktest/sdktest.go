package sdktest

import (
	"context"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/wire"
)

// Config is what the plugin under test sees.
type Config struct {
	// Tree, Resources and Attended go with every phase.
	Tree                *sdk.Tree
	Resources, Attended []sdk.Resource
	// Options are the flags of the command line.
	Options map[string]string
	// Host answers the plugin's calls; a zero Host if nil.
	Host *Host
	// ImageFD and PluginFD are what a restore's requests say.
	ImageFD, PluginFD int
	// Timeout bounds every phase; 20 seconds if 0.
	Timeout time.Duration
}

// Harness runs one plugin.
type Harness struct {
	Config
	t       testing.TB
	client  *wire.Client
	info    *wire.Info
	records []sdk.RecordType // as the plugin declares them

	mu    sync.Mutex
	image *Image // of the session that is being opened
	// images are those of all sessions.
	images []*Image
}

// New serves p until the test ends. The plugin's log is that of the test.
func New(t testing.TB, p sdk.Plugin, cfg Config) *Harness {
	t.Helper()
	if cfg.Host == nil {
		cfg.Host = &Host{}
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = 20 * time.Second
	}
	if cfg.Tree == nil {
		cfg.Tree = &sdk.Tree{}
	}
	h := &Harness{Config: cfg, t: t, records: p.Describe().Records}
	h.serve(p)
	ctx, cancel := h.context()
	defer cancel()
	info, err := h.client.Describe(ctx)
	if err != nil {
		t.Fatalf("sdktest: describe: %v", err)
	}
	h.info = info
	return h
}

// serve connects a client to a server of p.
func (h *Harness) serve(p sdk.Plugin) {
	lis := bufconn.Listen(1 << 20)
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	log := hclog.New(&hclog.LoggerOptions{Level: hclog.Debug, Output: newTestLog(h.t)})
	go func() {
		served <- sdk.ServeListener(ctx, lis, p, sdk.ListenerConfig{Log: log, Image: h.receive})
	}()
	conn, err := grpc.NewClient("passthrough:sdktest",
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return lis.DialContext(ctx) }),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(1<<30), grpc.MaxCallSendMsgSize(1<<30)))
	if err != nil {
		cancel()
		h.t.Fatalf("sdktest: connect: %v", err)
	}
	h.client = wire.NewClient(conn)
	h.t.Cleanup(func() {
		_ = conn.Close()
		cancel()
		if err := <-served; err != nil {
			h.t.Errorf("sdktest: serve plugin: %v", err)
		}
	})
}

// receive plays the socket over which a host passes the image.
func (h *Harness) receive() (*os.File, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.image.dup()
}

func (h *Harness) context() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), h.Timeout)
}

// Info is what the plugin told about itself.
func (h *Harness) Info() *wire.Info { return h.info }

// Check runs one check in a session of its own.
func (h *Harness) Check(frozen bool) ([]sdk.Finding, error) {
	s := h.Open()
	defer s.Close()
	s.Frozen = frozen
	res, err := s.Run(wire.PhaseCheck)
	return res.Findings, err
}

// Dump runs a checkpoint's phases that the plugin has, without the checks, in
// a session of its own, and returns what was emitted.
func (h *Harness) Dump() (*Image, error) {
	s := h.Open()
	defer s.Close()
	for _, p := range []wire.Phase{wire.PhasePrepare, wire.PhaseDump, wire.PhaseThawed} {
		if !h.info.Has(p) {
			continue
		}
		if _, err := s.Run(p); err != nil {
			return nil, err
		}
	}
	return s.Image(), nil
}

// restorePhases are the phases of a restore in order.
var restorePhases = []wire.Phase{
	wire.PhaseRestoreNamespaces, wire.PhaseRestoreObjects, wire.PhaseRestoreMemory,
	wire.PhaseRestoreIdentity, wire.PhaseLinkFiles, wire.PhaseRestoreTasks, wire.PhaseSeal, wire.PhaseResumed,
}

// Restore opens a restore of the image and runs phases: those given, or all
// that the plugin has but CheckImage. The session stays open, and with it the
// descriptors that were provided, until the test ends or it is closed.
func (h *Harness) Restore(img *Image, phases ...wire.Phase) (*Session, error) {
	s := h.OpenRestore(img)
	if len(phases) == 0 {
		phases = restorePhases
	}
	for _, p := range phases {
		if !h.info.Has(p) {
			continue
		}
		if _, err := s.Run(p); err != nil {
			return s, err
		}
	}
	return s, nil
}

// Tree is a tree of one process with one thread: the process pid.
func Tree(pid int) *sdk.Tree {
	id := sdk.TaskID(pid)
	return &sdk.Tree{Root: id, Processes: []sdk.Process{{
		ID: id, PID: pid, PGID: id, SID: id, Comm: "test", Threads: []sdk.Thread{{ID: id, TID: pid}},
	}}}
}
