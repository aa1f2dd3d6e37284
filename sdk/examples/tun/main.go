// Command firn-plugin-tun carries tun and tap devices that a program has made by
// /dev/net/tun, as VPNs and virtual machines do: an example of a plugin for a kernel
// object that firn refuses without it, in a module of its own.
//
// A restore makes the device again, with its name, modes, MTU and addresses. Packets
// that waited in it, routes that lead through it, and programs that filter or steer
// (TUNATTACHFILTER, TUNSETSTEERINGEBPF) are not carried.
package main

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"example.com/firn-plugin-tun/tunpb"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/openfile"
)

// kindHandle is the record of an open description. Never reuse a number.
const kindHandle = 1

const devicePath = "/dev/net/tun"

type plugin struct{}

// Describe has no side effects and always returns the same.
func (plugin) Describe() sdk.Description {
	return sdk.Description{
		Name:    "tun",
		Version: "1.0.0",
		Summary: "tun and tap devices",
		// 10:200 in Documentation/admin-guide/devices.txt.
		Claims:       []sdk.Claim{{Kind: sdk.KindFile, Type: sdk.TypeChar, Device: &sdk.Device{Major: 10, Minor: 200}}},
		Records:      []sdk.RecordType{{Kind: kindHandle, Version: 1, Message: &tunpb.Handle{}}},
		Capabilities: []string{"CAP_SYS_PTRACE", "CAP_NET_ADMIN", "CAP_DAC_OVERRIDE"},
	}
}

// Check tells what cannot be carried, and what will be different.
func (plugin) Check(_ context.Context, req *sdk.CheckRequest) ([]sdk.Finding, error) {
	var report openfile.Report
	access := openfile.NewAccess(req.Tree)
	defer access.Close()
	for i := range req.Resources {
		r := &req.Resources[i]
		fd, err := access.Dup(r)
		if err != nil && !req.Frozen && openfile.Gone(err) {
			continue // a tree that runs may close what it likes
		}
		if err != nil {
			return nil, err
		}
		h, err := readHandle(fd)
		unix.Close(fd)
		switch {
		case errors.Is(err, sdk.ErrUnsupported):
			report.Block(r, "tun device: "+err.Error(), "")
		case err != nil:
			return nil, fmt.Errorf("%s: %w", r.File.Subject(), err)
		case h.GetDevice() == "":
			report.Add(r, sdk.LevelOK, "ok, not attached to a device", "")
		default:
			report.Add(r, sdk.LevelOK, "ok, device "+h.GetDevice(), "")
			report.Note(r, "device "+h.GetDevice()+": packets in it, and routes through it that the kernel did not make itself, are not carried")
		}
	}
	return report.Findings(), nil
}

// DumpFile is called for each description. f.FD is a duplicate in this process.
func (plugin) DumpFile(ctx context.Context, f *sdk.FileDump) error {
	h, err := readHandle(f.FD)
	if err != nil {
		return err
	}
	h.OpenFlags = f.Resource.File.Flags
	return f.Records.Emit(ctx, kindHandle, f.Resource.Object, h)
}

// CheckImage tells which names of devices are taken.
func (plugin) CheckImage(_ context.Context, req *sdk.RestoreRequest) ([]sdk.Finding, error) {
	var report openfile.Report
	for i := range req.Resources {
		r := &req.Resources[i]
		h, err := handleOf(req.Records, r.Object)
		if err != nil {
			return nil, err
		}
		if text := taken(h); text != "" {
			report.Block(r, text, "ip link delete "+h.GetDevice())
		}
	}
	return report.Findings(), nil
}

// RestoreFile returns a descriptor of this process; the host installs it.
func (plugin) RestoreFile(_ context.Context, f *sdk.FileRestore) (int, error) {
	h, err := handleOf(f.Records, f.Resource.Object)
	if err != nil {
		return -1, err
	}
	fd, err := unix.Open(devicePath, int(h.GetOpenFlags())&^unix.O_ASYNC|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open %s: %w", devicePath, err)
	}
	if h.GetDevice() != "" {
		err = attach(fd, h)
	}
	if err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("device %s: %w", h.GetDevice(), err)
	}
	return fd, nil
}

// handleOf reads the record of an object.
func handleOf(records sdk.Records, object uint64) (*tunpb.Handle, error) {
	var h *tunpb.Handle
	for rec, err := range records.Object(object) {
		if err != nil {
			return nil, err
		}
		if h != nil {
			return nil, fmt.Errorf("second record of object %d: %w", object, sdk.ErrCorrupt)
		}
		h = &tunpb.Handle{}
		if err := rec.Decode(h); err != nil {
			return nil, err
		}
	}
	if h == nil || len(h.GetDevice()) >= unix.IFNAMSIZ {
		return nil, fmt.Errorf("record of object %d: %w", object, sdk.ErrCorrupt)
	}
	return h, nil
}

func main() { sdk.Serve(plugin{}) }
