package tracetest

import (
	"context"
	"fmt"
	"iter"

	"google.golang.org/protobuf/proto"

	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/hbuf"
)

// Records keeps records in memory: what a dump has emitted, a restore can read.
type Records struct {
	list []sdk.Record
}

// Emit implements sdk.Emitter.
func (r *Records) Emit(_ context.Context, kind uint32, object uint64, m proto.Message) error {
	b, err := proto.Marshal(m)
	if err != nil {
		return err
	}
	r.list = append(r.list, sdk.Record{Kind: kind, Version: 1, Object: object, Payload: b})
	return nil
}

// EmitRaw implements sdk.Emitter.
func (r *Records) EmitRaw(_ context.Context, kind uint32, object uint64, payload []byte) error {
	r.list = append(r.list, sdk.Record{Kind: kind, Version: 1, Object: object, Payload: append([]byte(nil), payload...)})
	return nil
}

// Bulk implements sdk.Emitter; there is no room for bulk records.
func (r *Records) Bulk(context.Context, int) (*hbuf.Buf, error) {
	return nil, fmt.Errorf("bulk record: %w", sdk.ErrUnsupported)
}

// All implements sdk.Records.
func (r *Records) All() iter.Seq2[sdk.Record, error] {
	return func(yield func(sdk.Record, error) bool) {
		for _, rec := range r.list {
			if !yield(rec, nil) {
				return
			}
		}
	}
}

// Object implements sdk.Records.
func (r *Records) Object(object uint64) iter.Seq2[sdk.Record, error] {
	return func(yield func(sdk.Record, error) bool) {
		for _, rec := range r.list {
			if rec.Object == object && !yield(rec, nil) {
				return
			}
		}
	}
}

// ReadBulk implements sdk.Records.
func (r *Records) ReadBulk(sdk.Record, []byte, int64) error {
	return fmt.Errorf("bulk record: %w", sdk.ErrUnsupported)
}
