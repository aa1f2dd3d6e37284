package sockets

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/sockets/socketspb"
	"github.com/firn-cr/firn/sdk"
)

// summarize tells what each socket is that will be carried: its link says
// nothing to a reader of the report.
func (s *survey) summarize() {
	for i := range s.items {
		it := &s.items[i]
		switch m := it.msg.(type) {
		case *socketspb.Inet:
			s.report.Add(it.res, sdk.LevelOK, "ok, "+inetSummary(m), "")
		case *socketspb.Netlink:
			s.report.Add(it.res, sdk.LevelOK, fmt.Sprintf("ok, %s, number %d, %d groups",
				netlinkName(it.kindOf().protocol), m.GetPort(), len(m.GetGroups())), "")
		case *socketspb.Packet:
			s.report.Add(it.res, sdk.LevelOK, fmt.Sprintf("ok, packet socket, protocol %#x, device %q", m.GetProtocol(), m.GetDevice()), "")
		case *socketspb.Unix:
			s.report.Add(it.res, sdk.LevelOK, "ok, "+unixSummary(m, it.queue), "")
		}
	}
}

func inetSummary(m *socketspb.Inet) string {
	name := protocolName(kindOf(m.GetSocket()))
	switch {
	case m.GetListening():
		return fmt.Sprintf("%s listener %s", name, addrPort(m.GetLocal()))
	case m.GetRemote() != nil:
		return fmt.Sprintf("%s %s->%s", name, addrPort(m.GetLocal()), addrPort(m.GetRemote()))
	case m.GetLocal() != nil:
		return fmt.Sprintf("%s %s", name, addrPort(m.GetLocal()))
	case m.GetEnded():
		return name + " connection that has ended"
	}
	return name + ", not bound"
}

func unixSummary(m *socketspb.Unix, queue []*socketspb.Message) string {
	types := map[int32]string{unix.SOCK_STREAM: "stream", unix.SOCK_DGRAM: "datagram", unix.SOCK_SEQPACKET: "seqpacket"}
	parts := []string{"unix " + types[m.GetSocket().GetType()]}
	if m.GetListening() {
		parts[0] += " listener"
	}
	if len(m.GetName()) > 0 {
		parts[0] += " " + printName(m.GetName())
	}
	switch {
	case m.GetWaitsFor() != 0:
		parts = append(parts, "waits to be accepted within the tree")
	case m.GetPeer() != 0:
		parts = append(parts, "connected within the tree")
	case m.GetOrphan():
		parts = append(parts, "its peer has closed")
	case len(m.GetOutside()) > 0:
		parts = append(parts, "connected to "+printName(m.GetOutside()))
	}
	if n := len(queue); n > 0 {
		bytes := 0
		for _, q := range queue {
			bytes += len(q.GetData())
		}
		parts = append(parts, fmt.Sprintf("%d bytes queued", bytes))
	}
	return strings.Join(parts, ", ")
}
