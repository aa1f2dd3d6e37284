package sockets

import (
	"errors"
	"iter"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/sockets/socketspb"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/sdktest"
)

// TestCorruptImages: whatever the records say, a restore ends in an error that
// says so.
func TestCorruptImages(t *testing.T) {
	stream := &socketspb.Socket{Family: unix.AF_UNIX, Type: unix.SOCK_STREAM, Flags: unix.O_RDWR}
	dgram := &socketspb.Socket{Family: unix.AF_UNIX, Type: unix.SOCK_DGRAM, Flags: unix.O_RDWR}
	udp := &socketspb.Socket{Family: unix.AF_INET, Type: unix.SOCK_DGRAM, Protocol: unix.IPPROTO_UDP}
	tests := map[string]func(*sdktest.Image){
		"unknown kind":  func(i *sdktest.Image) { i.AddRaw(t, 4711, 1, 1, nil) },
		"not a message": func(i *sdktest.Image) { i.AddRaw(t, kindInet, 1, 1, []byte{0xff}) },
		"family of inet": func(i *sdktest.Image) {
			i.Add(t, kindInet, 1, 1, &socketspb.Inet{Socket: &socketspb.Socket{Family: 99}})
		},
		"family of unix": func(i *sdktest.Image) { i.Add(t, kindUnix, 1, 1, &socketspb.Unix{Socket: udp}) },
		"address of another family": func(i *sdktest.Image) {
			i.Add(t, kindInet, 1, 1, &socketspb.Inet{Socket: udp, Local: &socketspb.InetAddress{Ip: make([]byte, 16), Port: 1}})
		},
		"port": func(i *sdktest.Image) {
			i.Add(t, kindInet, 1, 1, &socketspb.Inet{Socket: udp, Local: &socketspb.InetAddress{Ip: make([]byte, 4), Port: 1 << 20}})
		},
		"socket twice": func(i *sdktest.Image) {
			i.Add(t, kindUnix, 1, 1, &socketspb.Unix{Socket: stream})
			i.Add(t, kindUnix, 1, 1, &socketspb.Unix{Socket: stream})
		},
		"no peer": func(i *sdktest.Image) { i.Add(t, kindUnix, 1, 1, &socketspb.Unix{Socket: stream, Peer: 2}) },
		"peer of another": func(i *sdktest.Image) {
			i.Add(t, kindUnix, 1, 1, &socketspb.Unix{Socket: stream, Peer: 2})
			i.Add(t, kindUnix, 1, 2, &socketspb.Unix{Socket: stream})
		},
		"its own peer": func(i *sdktest.Image) { i.Add(t, kindUnix, 1, 1, &socketspb.Unix{Socket: stream, Peer: 1}) },
		"message for nobody": func(i *sdktest.Image) {
			i.Add(t, kindMessage, 1, 1, &socketspb.Message{Data: []byte("x")})
		},
		"message that nobody can send": func(i *sdktest.Image) {
			i.Add(t, kindUnix, 1, 1, &socketspb.Unix{Socket: dgram})
			i.Add(t, kindMessage, 1, 1, &socketspb.Message{Data: []byte("x")})
		},
		"message from no socket": func(i *sdktest.Image) {
			i.Add(t, kindUnix, 1, 1, &socketspb.Unix{Socket: dgram, Name: []byte("\x00firn corrupt")})
			i.Add(t, kindMessage, 1, 1, &socketspb.Message{Data: []byte("x"), Sender: 7})
		},
	}
	h := sdktest.New(t, New(), sdktest.Config{Timeout: 5 * time.Second})
	for name, add := range tests {
		t.Run(name, func(t *testing.T) {
			img := sdktest.NewImage(t)
			add(img)
			s, err := h.Restore(img)
			if !errors.Is(err, sdk.ErrCorrupt) && !errors.Is(err, sdk.ErrVersion) {
				t.Errorf("restored: %v", err)
			}
			s.Close()
		})
	}
}

// records is an image in memory.
type records []sdk.Record

func (r records) All() iter.Seq2[sdk.Record, error] {
	return func(yield func(sdk.Record, error) bool) {
		for _, rec := range r {
			if !yield(rec, nil) {
				return
			}
		}
	}
}

func (r records) Object(uint64) iter.Seq2[sdk.Record, error] { return r.All() }
func (r records) ReadBulk(sdk.Record, []byte, int64) error   { return nil }

// FuzzReadImage: no payload makes the decoders panic.
func FuzzReadImage(f *testing.F) {
	for kind := kindInet; kind <= kindMessage; kind++ {
		f.Add(kind, uint64(1), []byte{10, 4, 8, 1, 16, 1})
	}
	f.Fuzz(func(t *testing.T, kind uint32, object uint64, payload []byte) {
		im, err := readImage(records{
			{Kind: kindUnix, Object: 1, Payload: []byte{10, 4, 8, 1, 16, 1}}, {Kind: kind, Object: object, Payload: payload},
		})
		if err != nil {
			return
		}
		for _, r := range im.inet {
			_ = inetSummary(r.msg)
			if _, err := sockaddr(int(r.msg.GetSocket().GetFamily()), r.msg.GetLocal()); err != nil && !errors.Is(err, sdk.ErrCorrupt) {
				t.Error(err)
			}
		}
		for _, r := range im.unix {
			_ = unixSummary(r.msg, r.queue)
			_ = isPair(r.object, r.msg, r.msg)
		}
	})
}
