package files

import (
	"errors"
	"iter"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/files/filespb"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/sdktest"
)

// TestCorruptImages: whatever the records say, a restore ends in an error that
// says so, and leaves no descriptor behind.
func TestCorruptImages(t *testing.T) {
	rw := &filespb.Description{Flags: unix.O_RDWR}
	ghost := &filespb.Ghost{Memory: true, Mode: 0o600, Size: 10, Extents: []*filespb.Extent{{Offset: 8, Length: 4}}}
	tests := map[string]func(*sdktest.Image){
		"content without a file": func(i *sdktest.Image) { i.AddBulk(t, kindContent, 1, 1, []byte("x")) },
		"content of another length": func(i *sdktest.Image) {
			i.Add(t, kindGhost, 1, 1, ghost)
			i.AddBulk(t, kindContent, 1, 1, []byte("12345"))
		},
		"content behind the end": func(i *sdktest.Image) {
			i.Add(t, kindGhost, 1, 1, ghost)
			i.AddBulk(t, kindContent, 1, 1, []byte("1234"))
		},
		"content missing": func(i *sdktest.Image) { i.Add(t, kindGhost, 1, 1, ghost) },
		"file twice": func(i *sdktest.Image) {
			i.Add(t, kindGhost, 1, 1, &filespb.Ghost{Memory: true})
			i.Add(t, kindGhost, 1, 1, &filespb.Ghost{Memory: true})
		},
		"negative size": func(i *sdktest.Image) { i.Add(t, kindGhost, 1, 1, &filespb.Ghost{Memory: true, Size: -1}) },
		"no such file":  func(i *sdktest.Image) { i.Add(t, kindNamed, 1, 2, &filespb.Named{Ghost: 1, Description: rw}) },
		"pipe twice": func(i *sdktest.Image) {
			i.Add(t, kindPipe, 1, 1, &filespb.Pipe{Id: 1})
			i.Add(t, kindPipe, 1, 1, &filespb.Pipe{Id: 1})
		},
		"end without a pipe":  func(i *sdktest.Image) { i.Add(t, kindPipeEnd, 1, 1, &filespb.PipeEnd{Pipe: 3}) },
		"data without a pipe": func(i *sdktest.Image) { i.Add(t, kindPipeData, 1, 1, &filespb.PipeData{Pipe: 3}) },
		"more than a pipe holds": func(i *sdktest.Image) {
			i.Add(t, kindPipe, 1, 1, &filespb.Pipe{Id: 1, Size: 4096})
			i.Add(t, kindPipeEnd, 1, 1, &filespb.PipeEnd{Pipe: 1})
			i.Add(t, kindPipeData, 1, 1, &filespb.PipeData{Pipe: 1, Data: make([]byte, 10000)})
		},
		"not a message":  func(i *sdktest.Image) { i.AddRaw(t, kindEventfd, 1, 1, []byte{0xff}) },
		"negative timer": func(i *sdktest.Image) { i.Add(t, kindTimerfd, 1, 1, &filespb.Timerfd{Interval: -1, Description: rw}) },
		"terminal without control characters": func(i *sdktest.Image) {
			i.Add(t, kindPty, 1, 1, &filespb.Pty{Index: 1000000})
		},
		"terminal twice": func(i *sdktest.Image) {
			i.Add(t, kindPty, 1, 1, &filespb.Pty{Index: 4000, Termios: someMode()})
			i.Add(t, kindPty, 1, 2, &filespb.Pty{Index: 4000, Termios: someMode()})
		},
		"more input than a terminal holds": func(i *sdktest.Image) {
			i.Add(t, kindPty, 1, 1, &filespb.Pty{Index: 4000, Termios: someMode(), Input: make([]byte, 5000)})
		},
		"master without a terminal": func(i *sdktest.Image) {
			i.Add(t, kindTtyEnd, 1, 1, &filespb.TtyEnd{Kind: filespb.TtyEnd_KIND_MASTER, Index: 7, Description: rw})
		},
		"no terminal outside": func(i *sdktest.Image) {
			i.Add(t, kindTtyEnd, 1, 1, &filespb.TtyEnd{Kind: filespb.TtyEnd_KIND_OUTSIDE, Description: rw})
		},
		"end of no kind": func(i *sdktest.Image) { i.Add(t, kindTtyEnd, 1, 1, &filespb.TtyEnd{Description: rw}) },
		"two masters": func(i *sdktest.Image) {
			i.Add(t, kindPty, 1, 1, &filespb.Pty{Index: 150, Termios: someMode()})
			for n := range uint64(2) {
				i.Add(t, kindTtyEnd, 1, 1+n, &filespb.TtyEnd{Kind: filespb.TtyEnd_KIND_MASTER, Index: 150, Description: rw})
			}
		},
		"session of nobody": func(i *sdktest.Image) {
			i.Add(t, kindPty, 1, 1, &filespb.Pty{Index: 151, Termios: someMode(), Session: &filespb.TtySession{Leader: 4711}})
		},
		"/dev/tty of no session": func(i *sdktest.Image) {
			i.Add(t, kindPty, 1, 1, &filespb.Pty{Index: 152, Termios: someMode()})
			i.Add(t, kindTtyEnd, 1, 1, &filespb.TtyEnd{Kind: filespb.TtyEnd_KIND_CURRENT, Index: 152, Description: rw})
		},
		"unknown kind":     func(i *sdktest.Image) { i.AddRaw(t, 4711, 1, 1, nil) },
		"no stateless dev": func(i *sdktest.Image) { i.Add(t, kindDevice, 1, 1, &filespb.Device{Rdev: unix.Mkdev(8, 0)}) },
	}
	h := sdktest.New(t, New(), sdktest.Config{Timeout: 5 * time.Second})
	for name, add := range tests {
		t.Run(name, func(t *testing.T) {
			img := sdktest.NewImage(t)
			add(img)
			s, err := h.Restore(img)
			if !errors.Is(err, sdk.ErrCorrupt) && !errors.Is(err, sdk.ErrVersion) && !errors.Is(err, sdk.ErrUnsupported) {
				t.Errorf("restored: %v", err)
			}
			s.Close()
		})
	}
}

// oneRecord is an image with one record after a few that are fine.
type oneRecord []sdk.Record

func (r oneRecord) All() iter.Seq2[sdk.Record, error] {
	return func(yield func(sdk.Record, error) bool) {
		for _, rec := range r {
			if !yield(rec, nil) {
				return
			}
		}
	}
}

func (r oneRecord) Object(uint64) iter.Seq2[sdk.Record, error] { return r.All() }
func (r oneRecord) ReadBulk(sdk.Record, []byte, int64) error   { return nil }

// FuzzReadImage: no payload makes the decoders panic.
func FuzzReadImage(f *testing.F) {
	for kind := kindNamed; kind <= kindContent; kind++ {
		f.Add(kind, uint64(1), []byte{8, 1, 16, 1}, false)
	}
	for kind := kindPty; kind <= kindTerminal; kind++ {
		f.Add(kind, uint64(1), []byte{8, 1, 16, 1}, false)
	}
	f.Fuzz(func(t *testing.T, kind uint32, object uint64, payload []byte, bulk bool) {
		rec := sdk.Record{Kind: kind, Version: 1, Object: object, Payload: payload, Bulk: bulk, BulkLen: 1}
		im, err := readImage(oneRecord{{Kind: kindPipe, Payload: []byte{8, 1}}, {Kind: kindGhost, Object: 1}, rec})
		if err != nil {
			return
		}
		for _, n := range im.named {
			policies(nil).checkNamed(n.msg)
		}
		l := &linker{tree: sdktest.Tree(1), byTask: map[sdk.TaskID]*linkTape{}}
		for _, e := range im.epolls {
			_ = l.epoll(e.object, e.msg)
		}
	})
}
