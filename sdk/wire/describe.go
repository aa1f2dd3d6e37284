package wire

import (
	"fmt"
	"math"
	"slices"

	"github.com/firn-cr/firn/sdk"
	pb "github.com/firn-cr/firn/sdk/proto/pluginpb"
)

// maxDeclared bounds every list of a description.
const maxDeclared = 4096

// Info is what a plugin tells about itself, as it comes over the wire.
type Info struct {
	// Description has no messages in its record types; their names are in
	// Messages.
	sdk.Description
	// APIVersion is the version of the protocol that the plugin speaks.
	APIVersion uint32
	// Phases are those that the plugin implements.
	Phases []Phase
	// Messages has the full name of the message of each record kind that is
	// not opaque.
	Messages map[uint32]string
	// Descriptors is a serialized FileDescriptorSet of all messages, or empty.
	Descriptors []byte
}

// Has tells whether the plugin implements a phase.
func (i *Info) Has(p Phase) bool { return slices.Contains(i.Phases, p) }

func infoFromWire(m *pb.DescribeResponse) (*Info, error) {
	if m.GetApiVersion() != sdk.APIVersion {
		return nil, fmt.Errorf("plugin speaks version %d of the protocol, this host %d: %w", m.GetApiVersion(), sdk.APIVersion, sdk.ErrVersion)
	}
	for _, n := range []int{len(m.GetClaims()), len(m.GetAttends()), len(m.GetAfter()), len(m.GetRecords()), len(m.GetCapabilities())} {
		if n > maxDeclared {
			return nil, fmt.Errorf("description with a list of %d entries: %w", n, sdk.ErrCorrupt)
		}
	}
	info := &Info{
		Description: sdk.Description{
			Name: m.GetName(), Version: m.GetVersion(), Summary: m.GetSummary(),
			After: m.GetAfter(), Capabilities: m.GetCapabilities(),
		},
		APIVersion: m.GetApiVersion(), Messages: map[uint32]string{}, Descriptors: m.GetDescriptors(),
	}
	var err error
	if info.Claims, err = claimsFromWire(m.GetClaims()); err != nil {
		return nil, err
	}
	if info.Attends, err = claimsFromWire(m.GetAttends()); err != nil {
		return nil, err
	}
	for _, r := range m.GetRecords() {
		if r.GetVersion() > math.MaxUint16 {
			return nil, fmt.Errorf("record kind %d has version %d: %w", r.GetKind(), r.GetVersion(), sdk.ErrCorrupt)
		}
		info.Records = append(info.Records, sdk.RecordType{
			Kind: r.GetKind(), Version: uint16(r.GetVersion()), Name: r.GetName(), Optional: r.GetOptional(),
		})
		if r.GetMessage() != "" {
			info.Messages[r.GetKind()] = r.GetMessage()
		}
	}
	for _, p := range m.GetPhases() {
		info.Phases = append(info.Phases, Phase(p))
	}
	if err := info.Validate(); err != nil {
		return nil, fmt.Errorf("description: %w: %w", err, sdk.ErrCorrupt)
	}
	return info, nil
}

func claimsFromWire(ms []*pb.Claim) ([]sdk.Claim, error) {
	var out []sdk.Claim
	for _, m := range ms {
		if m.GetKind() > math.MaxUint8 {
			return nil, fmt.Errorf("claim of kind %d: %w", m.GetKind(), sdk.ErrCorrupt)
		}
		c := sdk.Claim{
			Kind: sdk.Kind(m.GetKind()), Type: sdk.FileType(m.GetType()), Anon: m.GetAnon(),
			Path: m.GetPath(), FS: m.GetFs(), Namespace: m.GetNamespace(),
		}
		if d := m.GetDevice(); d != nil {
			c.Device = &sdk.Device{Major: int(d.GetMajor()), Minor: int(d.GetMinor())}
		}
		if s := m.GetSocket(); s != nil {
			c.Socket = &sdk.Socket{Family: int(s.GetFamily()), Type: int(s.GetType()), Protocol: int(s.GetProtocol())}
		}
		out = append(out, c)
	}
	return out, nil
}
