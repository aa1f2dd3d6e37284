package dispatch

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-plugin"
	"github.com/hashicorp/go-plugin/runner"
	"google.golang.org/grpc"

	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/hbuf"
	"github.com/firn-cr/firn/sdk/wire"
)

// DefaultStartTimeout bounds the start of plugins.
const DefaultStartTimeout = 15 * time.Second

// Options are how plugins are started.
type Options struct {
	// Log gets the plugins' logs, each under the plugin's name. The level of the
	// logger of that name is the plugin's.
	Log hclog.Logger
	// Arena is the arena of every plugin; nil for none. A restore needs none.
	Arena *ArenaOptions
	// StartTimeout bounds the start; DefaultStartTimeout if 0.
	StartTimeout time.Duration
	// Deadlines bound the phases; see [DefaultDeadline].
	Deadlines map[wire.Phase]time.Duration
	// RuntimeDir is where the directory for sockets is made; empty for /run,
	// XDG_RUNTIME_DIR or the directory for temporary files.
	RuntimeDir string
	// Memory is what is known of plugins, which are not asked again unless their
	// files have changed. It may be nil.
	Memory Memory
	// Warm has plugins that were started already; it may be nil.
	Warm *Warm
	// Env is added to what plugins see of the environment.
	Env []string
}

// ArenaOptions are the parts of hbuf.Config that are the same for every
// plugin.
type ArenaOptions struct {
	// Size, SegmentSize, Warm, Initial and MemoryLimit are those of hbuf.Config; zeros
	// are its defaults.
	Size        uint64
	SegmentSize uint32
	Warm        uint64
	Initial     uint64
	MemoryLimit uint64
	// Mode is the first mode; see [Plugin.SetMode].
	Mode hbuf.Mode
	// Populate is how many bytes get memory at the start, in the background;
	// see hbuf.Consumer.Populate.
	Populate uint64
}

// Start starts plugins, all at the same time, and asks each what it is. On an
// error, which names every plugin that failed, none is left.
func Start(ctx context.Context, bins []Binary, opt Options) (*Set, error) {
	if opt.Log == nil {
		opt.Log = hclog.NewNullLogger()
	}
	if opt.StartTimeout == 0 {
		opt.StartTimeout = DefaultStartTimeout
	}
	if debugged(bins) {
		opt.StartTimeout = debugTime
	}
	dir, err := newSocketDir(opt.RuntimeDir)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, opt.StartTimeout, fmt.Errorf("start of plugins: %w", sdk.ErrTimeout))
	defer cancel()
	set := &Set{log: opt.Log, plugins: make([]*Plugin, len(bins))}
	errs := make([]error, len(bins))
	var all sync.WaitGroup
	for i, b := range bins {
		all.Add(1)
		go func() {
			defer all.Done()
			if !b.Debug {
				set.plugins[i] = opt.Warm.take(b, opt)
			}
			if set.plugins[i] != nil {
				return
			}
			p, err := startOne(ctx, b, opt, dir.path)
			if err != nil {
				errs[i] = &Error{Plugin: b.Name, Doing: "start", Err: &unusable{err}}
				return
			}
			set.plugins[i] = p
		}()
	}
	all.Wait()
	// Everybody is connected, nobody will connect again.
	err = errors.Join(append(errs, dir.remove())...)
	if err == nil {
		err = set.index()
	}
	if err != nil {
		return nil, errors.Join(err, set.Close())
	}
	set.remember(opt)
	return set, nil
}

// startOne starts one plugin, with the rights that it is to have. One of which these
// are not known is started without any, and, if it declares some, or is to be debugged,
// once more.
func startOne(ctx context.Context, b Binary, opt Options, dir string) (*Plugin, error) {
	if !b.ThirdParty {
		return startWith(ctx, b, opt, dir, rights{all: true})
	}
	var has rights
	if r := opt.Memory[b.Name]; r != nil {
		has, _ = declared(r.Info.Capabilities) // checked before it was remembered
	}
	asked := b
	asked.Debug = false
	p, err := startWith(ctx, asked, opt, dir, has)
	if err != nil {
		return nil, err
	}
	wants, err := declared(p.info.Capabilities)
	if err == nil && wants == has && !b.Debug {
		return p, nil
	}
	if err = errors.Join(err, p.stop()); err != nil {
		return nil, err
	}
	return startWith(ctx, b, opt, dir, wants)
}

// startWith starts one plugin with some rights.
func startWith(ctx context.Context, b Binary, opt Options, dir string, r rights) (_ *Plugin, err error) {
	exe, err := openTrusted(b.Path)
	if err != nil {
		return nil, err
	}
	defer exe.Close()
	if err := checkSum(b, exe); err != nil {
		return nil, err
	}
	p := &Plugin{binary: b, log: opt.Log.Named(b.Name), deadlines: opt.Deadlines, sink: &lateSink{}}
	if p.file, err = identifyFile(b.Path, exe); err != nil {
		return nil, err
	}
	if err := p.newConsumer(opt.Arena); err != nil {
		return nil, err
	}
	out := newOutput(b.Name, p.log)
	p.runner = &pluginRunner{out: out}
	p.client = plugin.NewClient(p.clientConfig(exe, opt, dir, r))
	defer func() {
		if err != nil {
			err = errors.Join(p.explain(err), p.stop())
		}
	}()
	if err := p.handshake(ctx); err != nil {
		return nil, err
	}
	if err := p.describe(ctx, opt.Memory); err != nil {
		return nil, err
	}
	if p.info.Name != b.Name {
		return nil, fmt.Errorf("%s says that its name is %q", b.Path, p.info.Name)
	}
	p.sink.declare(p.info)
	p.log.Debug("plugin started", "pid", p.PID(), "version", p.info.Version, "path", b.Path)
	return p, nil
}

// describe finds out what the plugin is.
func (p *Plugin) describe(ctx context.Context, m Memory) (err error) {
	if r := m[p.binary.Name]; r != nil && r.File == p.file && p.runner.connected() {
		p.info = r.Info
		return nil
	}
	if p.info, err = p.wire.Describe(ctx); err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return err
}

// newConsumer makes the consumer of the plugin's records.
func (p *Plugin) newConsumer(opt *ArenaOptions) (err error) {
	cfg := hbuf.Config{Sink: p.sink, Log: p.log.Debug, NoArena: opt == nil}
	if opt != nil {
		cfg.ArenaSize, cfg.SegmentSize, cfg.Warm, cfg.Initial = opt.Size, opt.SegmentSize, opt.Warm, opt.Initial
		cfg.Mode, cfg.MemoryLimit = opt.Mode, opt.MemoryLimit
		p.deferred = opt.Mode == hbuf.Deferred
	}
	if p.consumer, err = hbuf.NewConsumer(cfg); err != nil || opt == nil || opt.Populate == 0 {
		return err
	}
	p.populated = make(chan struct{})
	go func() {
		defer close(p.populated)
		if err := p.consumer.Populate(opt.Populate); err != nil && !errors.Is(err, hbuf.ErrClosed) {
			p.log.Debug("arena is not populated", "error", err)
		}
	}()
	return nil
}

func (p *Plugin) clientConfig(exe *os.File, opt Options, dir string, r rights) *plugin.ClientConfig {
	log := hclog.NewNullLogger()
	if p.log.IsTrace() {
		log = p.log.Named("go-plugin")
	}
	return &plugin.ClientConfig{
		HandshakeConfig:  wire.Handshake(),
		Plugins:          plugin.PluginSet{wire.ServiceName: &grpcPlugin{}},
		AllowedProtocols: []plugin.Protocol{plugin.ProtocolGRPC},
		StartTimeout:     opt.StartTimeout + stopGrace, // the context ends first
		SkipHostEnv:      true,
		Logger:           log,
		SyncStdout:       &lineWriter{log: p.log, name: "stdout"},
		SyncStderr:       &lineWriter{log: p.log, name: "stderr"},
		UnixSocketConfig: &plugin.UnixSocketConfig{TempDir: dir},
		GRPCDialOptions:  []grpc.DialOption{grpc.WithContextDialer(p.runner.dial), grpc.WithIdleTimeout(0)},
		RunnerFunc: func(_ hclog.Logger, cmd *exec.Cmd, dir string) (runner.Runner, error) {
			env := append(environment(opt, p.log.GetLevel()), cmd.Env...)
			p.runner.dir = dir
			p.runner.start = func() (*process, error) {
				proc, err := spawn(exe, p.binary.Name, env, p.consumer.Files(), r)
				if err == nil && p.binary.Debug {
					err = p.awaitDebugger(proc)
				}
				return proc, err
			}
			return p.runner, nil
		},
	}
}

// handshake starts the process and connects. go-plugin knows no context: when
// ctx ends, it is made to fail.
func (p *Plugin) handshake(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() {
		_ = p.runner.Kill(ctx)
		p.runner.out.close()
	})
	defer stop()
	if err := p.connect(); err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return err
	}
	return nil
}

func (p *Plugin) connect() error {
	protocol, err := p.client.Client()
	if err != nil {
		return err
	}
	conn, err := protocol.Dispense(wire.ServiceName)
	if err != nil {
		return err
	}
	p.wire = wire.NewClient(conn.(grpc.ClientConnInterface))
	return nil
}

// explain prefers what the host knows to what go-plugin says.
func (p *Plugin) explain(err error) error {
	if refused := p.runner.refusal(); refused != nil {
		return refused
	}
	proc := p.runner.process()
	if proc == nil || errors.Is(err, sdk.ErrTimeout) {
		return err
	}
	if died := p.died(drainTime); died != nil && !proc.victim() {
		return died
	}
	return err
}

// allowed are the variables of the environment that a plugin sees; those that
// end in an underscore are prefixes.
var allowed = []string{
	"PATH", "HOME", "USER", "LANG", "LANGUAGE", "LC_", "TZ", "TMPDIR", "XDG_RUNTIME_DIR", "FIRN_",
	"GOCOVERDIR", "GORACE",
}

// environment is that of a plugin.
func environment(opt Options, level hclog.Level) []string {
	var env []string
	for _, v := range os.Environ() {
		name, _, _ := strings.Cut(v, "=")
		for _, a := range allowed {
			if name == a || strings.HasSuffix(a, "_") && strings.HasPrefix(name, a) {
				env = append(env, v)
				break
			}
		}
	}
	if level == hclog.NoLevel {
		level = hclog.Off
	}
	// A plugin lives for less than a second: collecting what it dropped on the
	// way to its first record costs more than it gives.
	env = append(env, "GOMAXPROCS=2", "GOGC=400", wire.LogLevelKey+"="+level.String())
	return append(env, opt.Env...)
}

// grpcPlugin hands go-plugin's connection out.
type grpcPlugin struct{ plugin.NetRPCUnsupportedPlugin }

// GRPCServer implements plugin.GRPCPlugin.
func (grpcPlugin) GRPCServer(*plugin.GRPCBroker, *grpc.Server) error {
	return errors.New("a host is no plugin")
}

// GRPCClient implements plugin.GRPCPlugin.
func (grpcPlugin) GRPCClient(_ context.Context, _ *plugin.GRPCBroker, conn *grpc.ClientConn) (any, error) {
	return conn, nil
}
