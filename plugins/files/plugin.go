package files

import (
	"maps"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/files/filespb"
	"github.com/firn-cr/firn/sdk"
)

// Kinds of records. Never reuse a number.
const (
	kindNamed    uint32 = 1
	kindDevice   uint32 = 2
	kindPipe     uint32 = 3
	kindPipeData uint32 = 4
	kindPipeEnd  uint32 = 5
	kindEventfd  uint32 = 6
	kindEpoll    uint32 = 7
	kindSignalfd uint32 = 8
	kindTimerfd  uint32 = 9
	kindGhost    uint32 = 10
	kindContent  uint32 = 11
	kindInotify  uint32 = 20
	kindFanotify uint32 = 21
	kindPidfd    uint32 = 22

	kindNamespace uint32 = 23
	kindExternal  uint32 = 24

	kindPty      uint32 = 40
	kindTtyEnd   uint32 = 41
	kindTerminal uint32 = 42
)

// devices are the character devices that are carried, by their minor number
// (major 1, "mem") with the name that every system has for them. All but the last
// have no state.
var devices = map[int]string{
	3:         "/dev/null",
	5:         "/dev/zero",
	7:         "/dev/full",
	8:         "/dev/random",
	9:         "/dev/urandom",
	kmsgMinor: "/dev/kmsg",
}

const devMajor = 1

// anonymous are the names of the anonymous inodes that the plugin carries.
const (
	anonEventfd  = "[eventfd]"
	anonEpoll    = "[eventpoll]"
	anonSignalfd = "[signalfd]"
	anonTimerfd  = "[timerfd]"
	anonInotify  = "inotify" // without brackets, unlike all others
	anonFanotify = "[fanotify]"
	anonPidfd    = "[pidfd]"
)

// plugin carries files.
type plugin struct {
	mu sync.Mutex
	// frozen is what was found while the tree stood still; the dump needs it.
	frozen *survey
	// known remembers what was looked for in other processes before the freeze.
	known *outsiders
	// traces are names that this process made.
	traces traces
	// carried are files that wait for their names.
	carried []*carriedFile
	// made are the restored descriptors of this process, by object.
	made map[uint64]int
	// resized is the process group to be told that its terminal has another size.
	resized sdk.TaskID
}

// New returns the plugin.
func New() sdk.Plugin { return &plugin{} }

// Describe implements [sdk.Plugin].
func (*plugin) Describe() sdk.Description {
	claims := []sdk.Claim{
		{Kind: sdk.KindFile, Type: sdk.TypeRegular},
		{Kind: sdk.KindFile, Type: sdk.TypeDirectory},
		{Kind: sdk.KindFile, Type: sdk.TypeSymlink},
		{Kind: sdk.KindFile, Type: sdk.TypeFIFO},
		// Files of sockets that were opened with O_PATH; sockets have no path.
		{Kind: sdk.KindFile, Type: sdk.TypeSocket, Path: "/**"},
	}
	for _, minor := range slices.Sorted(maps.Keys(devices)) {
		claims = append(claims, sdk.Claim{
			Kind: sdk.KindFile, Type: sdk.TypeChar, Device: &sdk.Device{Major: devMajor, Minor: minor},
		})
	}
	claims = append(claims, terminalClaims()...)
	for _, name := range []string{anonEventfd, anonEpoll, anonSignalfd, anonTimerfd, anonInotify, anonFanotify, anonPidfd} {
		claims = append(claims, sdk.Claim{Kind: sdk.KindFile, Anon: name})
	}
	return sdk.Description{
		Name:    "files",
		Version: "0.1.0",
		Summary: "files, directories, pipes, FIFOs, memory files, plain devices, terminals, eventfd, epoll, signalfd, timerfd, inotify, fanotify, pidfd, namespaces",
		Claims:  claims,
		Records: []sdk.RecordType{
			{Kind: kindNamed, Version: 1, Message: &filespb.Named{}},
			{Kind: kindDevice, Version: 1, Message: &filespb.Device{}},
			{Kind: kindPipe, Version: 1, Message: &filespb.Pipe{}},
			{Kind: kindPipeData, Version: 1, Message: &filespb.PipeData{}},
			{Kind: kindPipeEnd, Version: 1, Message: &filespb.PipeEnd{}},
			{Kind: kindEventfd, Version: 1, Message: &filespb.Eventfd{}},
			{Kind: kindEpoll, Version: 1, Message: &filespb.Epoll{}},
			{Kind: kindSignalfd, Version: 1, Message: &filespb.Signalfd{}},
			{Kind: kindTimerfd, Version: 1, Message: &filespb.Timerfd{}},
			{Kind: kindGhost, Version: 1, Message: &filespb.Ghost{}},
			{Kind: kindContent, Version: 1, Name: "content"},
			{Kind: kindInotify, Version: 1, Message: &filespb.Inotify{}},
			{Kind: kindFanotify, Version: 1, Message: &filespb.Fanotify{}},
			{Kind: kindPidfd, Version: 1, Message: &filespb.Pidfd{}},
			{Kind: kindNamespace, Version: 1, Message: &filespb.Namespace{}},
			{Kind: kindExternal, Version: 1, Message: &filespb.External{}},
			{Kind: kindPty, Version: 1, Message: &filespb.Pty{}},
			{Kind: kindTtyEnd, Version: 1, Message: &filespb.TtyEnd{}},
			{Kind: kindTerminal, Version: 1, Message: &filespb.Terminal{}},
		},
		Capabilities: []string{"CAP_SYS_PTRACE"},
	}
}

// isDevice tells whether a device number is one of [devices].
func isDevice(rdev uint64) (name string, ok bool) {
	if unix.Major(rdev) != devMajor {
		return "", false
	}
	name, ok = devices[int(unix.Minor(rdev))]
	return name, ok
}
