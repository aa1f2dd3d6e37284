package dispatch

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"

	"github.com/firn-cr/firn/sdk"
	pb "github.com/firn-cr/firn/sdk/proto/pluginpb"
	"github.com/firn-cr/firn/sdk/sdktest"
	"github.com/firn-cr/firn/sdk/tape"
)

// foreign is a plugin that knows docs/plugin-protocol.md and nothing of the
// SDK or of go-plugin, as one in another language would.
type foreign struct {
	pb.UnimplementedPluginServer
	stream  chan pb.Plugin_ServicesServer
	closed  chan struct{}
	image   int // descriptor
	blocks  []*pb.ImageBlock
	options map[string]string
}

// serveForeign is the main function of the foreign plugin.
func serveForeign() {
	path := filepath.Join(os.Getenv("PLUGIN_UNIX_SOCKET_DIR"), "foreign")
	l, err := net.Listen("unix", path)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	s := grpc.NewServer()
	pb.RegisterPluginServer(s, &foreign{stream: make(chan pb.Plugin_ServicesServer, 1), closed: make(chan struct{})})
	go func() {
		_, _ = unix.Read(6, make([]byte, 1))
		os.Exit(0)
	}()
	fmt.Printf("1|1|unix|%s|grpc\n", path)
	fmt.Fprintln(os.Stderr, `{"@level":"info","@message":"serving","language":"none"}`)
	_ = s.Serve(l)
	os.Exit(0)
}

func (f *foreign) Describe(context.Context, *pb.DescribeRequest) (*pb.DescribeResponse, error) {
	return &pb.DescribeResponse{
		Name: "foreign", Version: "0.0.1", ApiVersion: 1, Claims: []*pb.Claim{{Kind: 1}},
		Records: []*pb.RecordType{{Kind: 3, Version: 1, Name: "blob"}},
		Phases:  []pb.Phase{pb.Phase_PHASE_DUMP, pb.Phase_PHASE_RESTORE_TASKS},
	}, nil
}

func (f *foreign) Open(_ context.Context, req *pb.OpenRequest) (*pb.OpenResponse, error) {
	f.options = req.GetOptions()
	if req.GetImage() == nil {
		return &pb.OpenResponse{}, nil
	}
	data, control := make([]byte, 64), make([]byte, unix.CmsgSpace(4))
	n, cn, _, _, err := unix.Recvmsg(7, data, control, 0)
	if err != nil || string(data[:n]) != "firn image v1" {
		return nil, fmt.Errorf("message %q: %w", data[:n], err)
	}
	messages, err := unix.ParseSocketControlMessage(control[:cn])
	if err != nil {
		return nil, err
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		return nil, err
	}
	f.image, f.blocks = fds[0], req.GetImage().GetBlocks()
	return &pb.OpenResponse{}, nil
}

func (f *foreign) Services(stream pb.Plugin_ServicesServer) error {
	f.stream <- stream
	<-f.closed
	return nil
}

func (f *foreign) Close(context.Context, *pb.CloseRequest) (*pb.CloseResponse, error) {
	close(f.closed)
	return &pb.CloseResponse{}, nil
}

func (f *foreign) Run(_ context.Context, req *pb.RunRequest) (*pb.RunResponse, error) {
	if req.GetPhase() == pb.Phase_PHASE_RESTORE_TASKS {
		return &pb.RunResponse{}, f.restore()
	}
	if f.options["fail"] == "true" {
		return nil, errors.New("a status without a detail")
	}
	stream := <-f.stream
	segment := append(foreignRecord(0, 8, []byte("small"), false), foreignRecord(1, 9, bytes.Repeat([]byte("bulk"), 5000), true)...)
	for _, call := range []*pb.ServiceCall{
		{Call: &pb.ServiceCall_Progress{Progress: &pb.Progress{Done: 1, Total: 2}}},
		{Id: 77, Call: &pb.ServiceCall_Submit{Submit: &pb.Submit{Segment: segment}}},
		{Id: 78, Call: &pb.ServiceCall_RunTapes{RunTapes: &pb.RunTapes{Runs: []*pb.TapeRun{{Tid: 4, Calls: foreignCall(39)}}}}},
		{Id: 79, Call: &pb.ServiceCall_Flush{Flush: &pb.Flush{Written: true}}},
	} {
		if err := stream.Send(call); err != nil {
			return nil, err
		}
		if call.GetId() == 0 {
			continue
		}
		reply, err := stream.Recv()
		if err != nil {
			return nil, err
		}
		if reply.GetId() != call.GetId() || reply.GetError() != nil {
			return nil, fmt.Errorf("reply %v", reply)
		}
		if o := reply.GetOutcomes(); o != nil && o.GetOutcomes()[0].GetResults()[0] != 4711 {
			return nil, fmt.Errorf("outcome %v", o)
		}
	}
	return &pb.RunResponse{}, nil
}

// foreignRecord packs a record whose payload follows the header.
func foreignRecord(seq, object uint64, payload []byte, bulk bool) []byte {
	table := crc32.MakeTable(crc32.Castagnoli)
	b := make([]byte, 64+(len(payload)+63)/64*64)
	copy(b, "FREC")
	binary.LittleEndian.PutUint16(b[4:], 1)
	if bulk {
		binary.LittleEndian.PutUint16(b[6:], 1)
	}
	binary.LittleEndian.PutUint32(b[8:], 3)
	binary.LittleEndian.PutUint16(b[12:], 1)
	binary.LittleEndian.PutUint64(b[16:], object)
	binary.LittleEndian.PutUint64(b[24:], uint64(len(payload)))
	binary.LittleEndian.PutUint32(b[32:], crc32.Checksum(payload, table))
	binary.LittleEndian.PutUint64(b[40:], seq)
	binary.LittleEndian.PutUint32(b[60:], crc32.Checksum(b[:60], table))
	copy(b[64:], payload)
	return b
}

// foreignCall packs a call of a tape without arguments.
func foreignCall(nr uint32) []byte {
	b := make([]byte, 64)
	binary.LittleEndian.PutUint32(b, nr)
	return b
}

// restore reads the records back.
func (f *foreign) restore() error {
	var packed []byte
	for _, b := range f.blocks {
		block := make([]byte, b.GetLength())
		if _, err := unix.Pread(f.image, block, int64(b.GetOffset())); err != nil {
			return err
		}
		packed = append(packed, block...)
	}
	if len(packed) != 64+64+64 || string(packed[64:69]) != "small" {
		return fmt.Errorf("%d bytes of records", len(packed))
	}
	bulk := make([]byte, binary.LittleEndian.Uint64(packed[128+24:]))
	if _, err := unix.Pread(f.image, bulk, int64(binary.LittleEndian.Uint64(packed[128+48:]))); err != nil {
		return err
	}
	if !bytes.Equal(bulk, bytes.Repeat([]byte("bulk"), 5000)) {
		return io.ErrUnexpectedEOF
	}
	return nil
}

func TestForeignPlugin(t *testing.T) {
	text, log := newLog()
	img := sdktest.NewImage(t)
	host := &sdktest.Host{Tapes: func(tape.Run) tape.Outcome { return tape.Outcome{Results: []int64{4711}} }}
	for _, arena := range []*ArenaOptions{nil, {}} {
		img = sdktest.NewImage(t)
		p := start(t, Options{Log: log, Arena: arena}, "foreign").Get("foreign")
		open(t, p, SessionConfig{Host: host, Sink: img})
		if err := p.Dump(t.Context(), Round{}); err != nil {
			t.Fatal(err)
		}
		if err := p.Drain(t.Context()); err != nil {
			t.Error(err)
		}
		if err := p.Abort(t.Context()); err != nil { // it has no such phase
			t.Error(err)
		}
	}
	text.wait(t, "foreign: serving: language=none")
	p := start(t, Options{}, "foreign").Get("foreign")
	open(t, p, SessionConfig{Host: host, Image: img.File(), Blocks: img.Blocks()})
	if err := p.RestoreTasks(t.Context(), Round{}); err != nil {
		t.Error(err)
	}
	p = start(t, Options{}, "foreign").Get("foreign")
	open(t, p, SessionConfig{Host: host, Options: map[string]string{"fail": "true"}})
	if err := p.Dump(t.Context(), Round{Tree: &sdk.Tree{}}); err == nil || err.Error() != "plugin foreign: dump: a status without a detail" {
		t.Errorf("got %v", err)
	}
}
