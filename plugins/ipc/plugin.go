package ipc

import (
	"github.com/firn-cr/firn/plugins/ipc/ipcpb"
	"github.com/firn-cr/firn/sdk"
)

// Kinds of records.
const (
	kindNamespace    uint32 = 1
	kindSegment      uint32 = 2
	kindPages        uint32 = 3
	kindPageData     uint32 = 4
	kindQueue        uint32 = 5
	kindMessage      uint32 = 6
	kindSemaphores   uint32 = 7
	kindMessageQueue uint32 = 8
	kindDescriptor   uint32 = 9
)

// recordVersion is the version of every kind.
const recordVersion = 1

// nsName is the name of the namespaces in /proc/PID/ns.
const nsName = "ipc"

// plugin has no state: all of a session is in its requests.
type plugin struct{}

// New returns the plugin.
func New() sdk.Plugin { return &plugin{} }

// Describe implements [sdk.Plugin].
func (*plugin) Describe() sdk.Description {
	return sdk.Description{
		Name:    "ipc",
		Version: "0.1.0",
		Summary: "IPC namespaces: System V shared memory, queues and semaphores, POSIX message queues",
		Claims: []sdk.Claim{
			{Kind: sdk.KindNamespace, Namespace: nsName},
			{Kind: sdk.KindFile, Type: sdk.TypeRegular, FS: "mqueue"},
		},
		Records: []sdk.RecordType{
			{Kind: kindNamespace, Version: recordVersion, Message: &ipcpb.Namespace{}},
			{Kind: kindSegment, Version: recordVersion, Message: &ipcpb.Segment{}},
			{Kind: kindPages, Version: recordVersion, Message: &ipcpb.Pages{}},
			{Kind: kindPageData, Version: recordVersion, Name: "page data"},
			{Kind: kindQueue, Version: recordVersion, Message: &ipcpb.Queue{}},
			{Kind: kindMessage, Version: recordVersion, Message: &ipcpb.Message{}},
			{Kind: kindSemaphores, Version: recordVersion, Message: &ipcpb.SemaphoreSet{}},
			{Kind: kindMessageQueue, Version: recordVersion, Message: &ipcpb.MessageQueue{}},
			{Kind: kindDescriptor, Version: recordVersion, Message: &ipcpb.Descriptor{}},
		},
		Capabilities: []string{"CAP_SYS_ADMIN", "CAP_IPC_OWNER", "CAP_SYS_PTRACE"},
	}
}
