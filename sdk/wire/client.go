package wire

import (
	"context"
	"fmt"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc"

	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/internal/remote"
	pb "github.com/firn-cr/firn/sdk/proto/pluginpb"
)

// Client calls one plugin. Its methods may be called concurrently. Errors are
// those of package sdk where the plugin's were.
type Client struct {
	plugin pb.PluginClient
}

// NewClient returns a client on a connection, which stays the caller's.
func NewClient(conn grpc.ClientConnInterface) *Client {
	return &Client{plugin: pb.NewPluginClient(conn)}
}

// Describe asks what the plugin is, and checks the answer.
func (c *Client) Describe(ctx context.Context) (*Info, error) {
	m, err := c.plugin.Describe(ctx, &pb.DescribeRequest{})
	if err != nil {
		return nil, remote.FromStatus(err)
	}
	return infoFromWire(m)
}

// OpenConfig is what a plugin is told about a session.
type OpenConfig struct {
	// ArenaSize and SegmentSize are the geometry of the plugin's arena, in
	// bytes. Zero: records travel by messages.
	ArenaSize   uint64
	SegmentSize uint32
	// Deferred tells that the host keeps records until after the thaw.
	Deferred bool
	// Restore tells that the session is a restore. The image's descriptor must
	// have been passed to the plugin.
	Restore bool
	// Blocks are the plugin's records in the image, in order.
	Blocks []Block
	// Options are the flags of the command line.
	Options map[string]string
	// LogLevel is the level of the plugin's log; NoLevel leaves it as it is.
	LogLevel hclog.Level
}

// Block is a range of an image that holds packed records of one plugin.
type Block struct{ Offset, Length uint64 }

// Open starts a session. [Client.ServeHost] must be running soon after.
func (c *Client) Open(ctx context.Context, cfg OpenConfig) error {
	req := &pb.OpenRequest{Options: cfg.Options, LogLevel: int32(cfg.LogLevel)}
	if cfg.ArenaSize > 0 {
		req.Arena = &pb.Arena{Size: cfg.ArenaSize, SegmentSize: cfg.SegmentSize, Deferred: cfg.Deferred}
	}
	if cfg.Restore {
		req.Image = &pb.ImageView{}
		for _, b := range cfg.Blocks {
			req.Image.Blocks = append(req.Image.Blocks, &pb.ImageBlock{Offset: b.Offset, Length: b.Length})
		}
	}
	_, err := c.plugin.Open(ctx, req)
	return remote.FromStatus(err)
}

// Round is the argument of a phase.
type Round struct {
	Tree                *sdk.Tree
	Resources, Attended []sdk.Resource
	// Frozen is for PhaseCheck and PhaseThawed, Preview for PhaseCheck.
	Frozen, Preview bool
	// Again tells in PhaseCheck that the check goes on with more resources.
	Again bool
	// Held is what the plugin holds, with objects and, in a restore, processes.
	Held []sdk.HeldFile
	// ImageFD and PluginFD are numbers of descriptors in the restored tasks.
	ImageFD, PluginFD int
}

// Result is the answer of a phase.
type Result struct {
	// Findings are those of PhaseCheck and PhaseCheckImage.
	Findings []sdk.Finding
	// Provided are the descriptors of PhaseRestoreObjects.
	Provided []Provided
	// Held is what resources hold, from PhaseCheck.
	Held []sdk.HeldFile
	// Estimate is that of PhasePrepare.
	Estimate sdk.PrepareResponse
}

// Provided is the descriptor of an object in the plugin's process.
type Provided struct {
	Object uint64
	FD     int
}

// Run executes one phase.
func (c *Client) Run(ctx context.Context, p Phase, r Round) (Result, error) {
	m, err := c.plugin.Run(ctx, &pb.RunRequest{
		Phase: pb.Phase(p), Tree: treeToWire(r.Tree),
		Resources: resourcesToWire(r.Resources), Attended: resourcesToWire(r.Attended),
		Frozen: r.Frozen, Preview: r.Preview, Again: r.Again, Held: heldToWire(r.Held), ImageFd: int32(r.ImageFD), PluginFd: int32(r.PluginFD),
	})
	if err != nil {
		return Result{}, remote.FromStatus(err)
	}
	res := Result{Estimate: sdk.PrepareResponse{RecordBytes: m.GetRecordBytes(), BulkBytes: m.GetBulkBytes()}}
	if res.Findings, err = findingsFromWire(m.GetFindings()); err != nil {
		return Result{}, err
	}
	if res.Provided, err = providedFromWire(m.GetProvided()); err != nil {
		return Result{}, err
	}
	if res.Held, err = heldFromWire(m.GetHeld()); err != nil {
		return Result{}, err
	}
	if res.Estimate.RecordBytes < 0 || res.Estimate.BulkBytes < 0 {
		return Result{}, fmt.Errorf("estimate of %d and %d bytes: %w", res.Estimate.RecordBytes, res.Estimate.BulkBytes, sdk.ErrCorrupt)
	}
	return res, nil
}

// Close ends the session; the plugin releases everything that it held for it.
func (c *Client) Close(ctx context.Context) error {
	_, err := c.plugin.Close(ctx, &pb.CloseRequest{})
	return remote.FromStatus(err)
}
