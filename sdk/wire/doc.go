// Package wire is the host's end of the protocol between host and plugin: a
// client that speaks the types of package sdk. It is for hosts (host/dispatch)
// and for package sdktest, not for authors of plugins, whose end is sdk.Serve.
//
// docs/plugin-protocol.md specifies the protocol. What comes from a plugin is
// checked here: a plugin is another process, which may be broken.
package wire

import (
	"github.com/hashicorp/go-plugin"

	"github.com/firn-cr/firn/sdk/internal/protocol"
	"github.com/firn-cr/firn/sdk/internal/remote"
	pb "github.com/firn-cr/firn/sdk/proto/pluginpb"
)

// ServiceName is the key of the service in go-plugin's set of plugins.
const ServiceName = protocol.ServiceName

// LogLevelKey names the environment variable with the level at which a plugin
// logs until a session sets another.
const LogLevelKey = protocol.LogLevelKey

// Descriptors that a plugin inherits.
const (
	FDArena    = protocol.FDArena
	FDSubmit   = protocol.FDSubmit
	FDComplete = protocol.FDComplete
	FDLifeline = protocol.FDLifeline
	FDPassing  = protocol.FDPassing
	FDProgram  = protocol.FDProgram
)

// PassImage is the message that comes with the image's descriptor.
const PassImage = protocol.PassImage

// Handshake is the configuration of go-plugin's handshake.
func Handshake() plugin.HandshakeConfig { return protocol.Handshake() }

// EncodeError returns the message for err; nil for nil.
func EncodeError(err error) *pb.Error { return remote.Encode(err) }

// DecodeError returns the error of a message; nil for nil. errors.Is finds the
// sentinels of package sdk and errnos in it, errors.As a *tape.CallError.
func DecodeError(m *pb.Error) error { return remote.Decode(m) }
