// Package protocol holds what both ends of the plugin protocol must agree on.
// docs/plugin-protocol.md specifies it.
package protocol

import (
	"strings"

	"github.com/hashicorp/go-plugin"

	pb "github.com/firn-cr/firn/sdk/proto/pluginpb"
)

// APIVersion is the version of the protocol; it is also go-plugin's protocol
// version in the handshake line.
const APIVersion = 1

// The cookie tells a plugin that a host started it. It is no secret.
const (
	CookieKey   = "FIRN_PLUGIN_COOKIE"
	CookieValue = "6f1cb1a5-firn-checkpoint-plugin"
)

// LogLevelKey names the environment variable with the level at which a plugin
// logs until a session sets another.
const LogLevelKey = "FIRN_PLUGIN_LOG"

// ServiceName is the key of the plugin in go-plugin's set.
const ServiceName = "firn"

// Descriptors that a plugin inherits.
const (
	FDArena    = 3 // memfd of the record buffer
	FDSubmit   = 4 // eventfd plugin -> host
	FDComplete = 5 // eventfd host -> plugin
	FDLifeline = 6 // pipe; EOF when the host is gone
	FDPassing  = 7 // SOCK_SEQPACKET socket over which the host passes descriptors
	FDProgram  = 8 // the plugin's own file
)

// PassImage is the message that comes with the image's descriptor.
const PassImage = "firn image v1"

// Handshake is the configuration that go-plugin compares at both ends.
func Handshake() plugin.HandshakeConfig {
	return plugin.HandshakeConfig{
		ProtocolVersion:  APIVersion,
		MagicCookieKey:   CookieKey,
		MagicCookieValue: CookieValue,
	}
}

// PhaseName returns the words for a phase: "restore memory".
func PhaseName(p pb.Phase) string {
	name := strings.TrimPrefix(p.String(), "PHASE_")
	return strings.ToLower(strings.ReplaceAll(name, "_", " "))
}
