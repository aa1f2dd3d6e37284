// Command firn-plugin-kmsg carries open /dev/kmsg: an example of a plugin that
// lives outside of the tree, in a module of its own. docs/writing-a-plugin.md
// explains it.
package main

import (
	"context"
	"fmt"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/firn-cr/firn/sdk"
)

// kindFlags is a record with the open flags. Never reuse a number.
const kindFlags = 1

type plugin struct{}

// Describe has no side effects and always returns the same.
func (plugin) Describe() sdk.Description {
	return sdk.Description{
		Name:    "kmsg",
		Version: "1.0.0",
		Summary: "readers and writers of /dev/kmsg",
		// More specific than the shipped claim, which has no path: this one wins.
		Claims: []sdk.Claim{{
			Kind: sdk.KindFile, Type: sdk.TypeChar, Device: &sdk.Device{Major: 1, Minor: 11}, Path: "/dev/kmsg",
		}},
		Records: []sdk.RecordType{{Kind: kindFlags, Version: 1, Message: &wrapperspb.UInt32Value{}}},
		// For duplicates of descriptors of root's programs, and to open the device.
		Capabilities: []string{"CAP_SYS_PTRACE", "CAP_SYSLOG"},
	}
}

// Check tells what will be different, or what cannot be carried at all.
func (plugin) Check(_ context.Context, req *sdk.CheckRequest) ([]sdk.Finding, error) {
	var found []sdk.Finding
	for _, r := range req.Resources {
		if r.File.Flags&unix.O_ACCMODE == unix.O_WRONLY {
			continue
		}
		found = append(found, sdk.Finding{
			Level: sdk.LevelNote, Task: r.Task, Object: r.Object,
			Subject: r.File.Subject(),
			Text:    "/dev/kmsg: messages that are unread at the restore are skipped",
		})
	}
	return found, nil
}

// DumpFile is called for each description. f.FD is a duplicate in this process.
func (plugin) DumpFile(ctx context.Context, f *sdk.FileDump) error {
	return f.Records.Emit(ctx, kindFlags, f.Resource.Object, wrapperspb.UInt32(f.Resource.File.Flags))
}

// RestoreFile returns a descriptor of this process; the host installs it.
func (plugin) RestoreFile(_ context.Context, f *sdk.FileRestore) (int, error) {
	if len(f.Own) != 1 {
		return -1, fmt.Errorf("%d records, want 1: %w", len(f.Own), sdk.ErrCorrupt)
	}
	var flags wrapperspb.UInt32Value
	if err := f.Own[0].Decode(&flags); err != nil {
		return -1, err
	}
	fd, err := unix.Open("/dev/kmsg", int(flags.Value)|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open /dev/kmsg: %w", err)
	}
	if _, err := unix.Seek(fd, 0, unix.SEEK_END); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("seek /dev/kmsg: %w", err)
	}
	return fd, nil
}

func main() { sdk.Serve(plugin{}) }
