package sdk_test

import (
	"context"
	"fmt"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/firn-cr/firn/sdk"
)

// counter is a plugin for the files of an imaginary file system that hold one
// number each.
type counter struct{}

func (counter) Describe() sdk.Description {
	return sdk.Description{
		Name: "counter", Version: "0.1.0", Summary: "counters",
		Claims:  []sdk.Claim{{Kind: sdk.KindFile, FS: "counterfs"}},
		Records: []sdk.RecordType{{Kind: 1, Version: 1, Message: &wrapperspb.StringValue{}}},
	}
}

func (counter) DumpFile(ctx context.Context, f *sdk.FileDump) error {
	b := make([]byte, 20)
	n, err := unix.Pread(f.FD, b, 0)
	if err != nil {
		return fmt.Errorf("read counter: %w", err)
	}
	return f.Records.Emit(ctx, 1, f.Resource.Object, wrapperspb.String(string(b[:n])))
}

func (counter) RestoreFile(_ context.Context, f *sdk.FileRestore) (int, error) {
	fd, err := unix.Open(f.Resource.File.Link, int(f.Resource.File.Flags)|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open counter: %w", err)
	}
	for _, r := range f.Own {
		m := &wrapperspb.StringValue{}
		if err := r.Decode(m); err != nil {
			return -1, err
		}
		if _, err := unix.Pwrite(fd, []byte(m.Value), 0); err != nil {
			return -1, fmt.Errorf("write counter: %w", err)
		}
	}
	return fd, nil
}

// The main function of a plugin is one line.
func ExampleServe() {
	sdk.Serve(counter{})
}
