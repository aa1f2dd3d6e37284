package sdktest_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/sdktest"
)

func TestGolden(t *testing.T) {
	p := &subject{dump: func(ctx context.Context, req *sdk.DumpRequest) error {
		if err := req.Records.Emit(ctx, kindText, 4, wrapperspb.String("a \"b\"\n")); err != nil {
			return err
		}
		if err := req.Records.EmitRaw(ctx, kindRaw, 5, []byte{0, 'x'}); err != nil {
			return err
		}
		b, err := req.Records.Bulk(ctx, 4096)
		if err != nil {
			return err
		}
		clear(b.Payload())
		return b.Commit(ctx, kindBulk, 1, 6)
	}}
	h := sdktest.New(t, p, sdktest.Config{})
	img, err := h.Dump()
	if err != nil {
		t.Fatal(err)
	}
	text := h.Text(img)
	want := `kind 1 version 7 object 4 "a \"b\"\n"
kind 2 version 1 object 5 "\x00x"
kind 3 version 1 object 6 bulk of 4096 bytes, CRC32C 98f94189
`
	if text != want {
		t.Errorf("got\n%s", text)
	}
	path := filepath.Join(t.TempDir(), "testdata", "x.golden")
	t.Setenv(sdktest.UpdateGolden, "1")
	sdktest.Golden(t, path, text)
	if err := os.Unsetenv(sdktest.UpdateGolden); err != nil {
		t.Fatal(err)
	}
	sdktest.Golden(t, path, text)
	fake := &recorder{TB: t}
	sdktest.Golden(fake, path, text+"more\n")
	if fake.errors != 1 {
		t.Error("a difference was not noticed")
	}
}

// recorder counts errors in place of reporting them.
type recorder struct {
	testing.TB
	errors int
}

func (r *recorder) Helper()               {}
func (r *recorder) Errorf(string, ...any) { r.errors++ }
