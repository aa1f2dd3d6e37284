package sdktest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/hbuf"
)

// UpdateGolden is the environment variable that makes [Golden] write files
// instead of comparing them.
const UpdateGolden = "FIRN_UPDATE_GOLDEN"

// Text renders the records of an image, one per line, with the messages that
// the plugin declares. Equal records are equal text. Replace in it what differs
// from run to run (inodes, process IDs) before comparing it.
func (h *Harness) Text(img *Image) string {
	h.t.Helper()
	messages := map[uint32]proto.Message{}
	for _, r := range h.records {
		messages[r.Kind] = r.Message
	}
	var out strings.Builder
	for _, r := range img.Records(h.t) {
		fmt.Fprintf(&out, "kind %d version %d object %d ", r.Kind, r.Version, r.Object)
		switch {
		case r.Bulk:
			fmt.Fprintf(&out, "bulk of %d bytes, CRC32C %08x\n", r.BulkLen, hbuf.Checksum(img.Bulk(h.t, r)))
		case messages[r.Kind] == nil:
			fmt.Fprintf(&out, "%q\n", r.Payload)
		default:
			text, err := messageText(r, messages[r.Kind])
			if err != nil {
				h.t.Fatalf("sdktest: %v", err)
			}
			fmt.Fprintf(&out, "%s\n", text)
		}
	}
	return out.String()
}

// messageText is a message as JSON. protojson varies its spaces from build to
// build on purpose, so they are removed.
func messageText(r sdk.Record, like proto.Message) (string, error) {
	m := like.ProtoReflect().New().Interface()
	if err := r.Decode(m); err != nil {
		return "", err
	}
	b, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
	if err != nil {
		return "", err
	}
	var out bytes.Buffer
	err = json.Compact(&out, b)
	return out.String(), err
}

// Golden compares text with a file, which is written if FIRN_UPDATE_GOLDEN is
// set.
func Golden(t testing.TB, path, text string) {
	t.Helper()
	if os.Getenv(UpdateGolden) != "" {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatalf("sdktest: %v", err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatalf("sdktest: %v", err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("sdktest: %v: run with %s=1 to write it", err, UpdateGolden)
	}
	if err != nil {
		t.Fatalf("sdktest: %v", err)
	}
	if diff := firstDifference(text, string(want)); diff != "" {
		t.Errorf("records differ from %s (%s=1 updates it):\n%s", path, UpdateGolden, diff)
	}
}

// firstDifference shows the first line in which two texts differ.
func firstDifference(got, want string) string {
	if got == want {
		return ""
	}
	g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i := range max(len(g), len(w)) {
		var a, b string
		if i < len(g) {
			a = g[i]
		}
		if i < len(w) {
			b = w[i]
		}
		if a != b {
			return fmt.Sprintf("line %d\ngot  %s\nwant %s", i+1, a, b)
		}
	}
	return "line endings"
}
