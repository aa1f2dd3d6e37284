package sdk

import (
	"context"
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/firn-cr/firn/sdk/hbuf"
)

// emitter writes records of the declared kinds into the session's producer.
type emitter struct {
	producer *hbuf.Producer
	types    map[uint32]RecordType
}

func (ses *session) emitter() Emitter {
	return &emitter{producer: ses.producer, types: ses.server.versions}
}

// Emit implements [Emitter]. The message is marshaled into the record's
// buffer, with its map entries in order, so that equal messages are equal
// bytes.
func (e *emitter) Emit(ctx context.Context, kind uint32, object uint64, m proto.Message) error {
	t, err := e.declared(kind)
	if err != nil {
		return err
	}
	if t.Message != nil {
		want, got := t.Message.ProtoReflect().Descriptor(), m.ProtoReflect().Descriptor()
		if want.FullName() != got.FullName() {
			return fmt.Errorf("emit record kind %d: message %s, declared is %s", kind, got.FullName(), want.FullName())
		}
	}
	return e.put(ctx, t, object, proto.Size(m), func(b []byte) (int, error) {
		out, err := proto.MarshalOptions{Deterministic: true}.MarshalAppend(b[:0], m)
		return len(out), err
	})
}

// EmitRaw implements [Emitter].
func (e *emitter) EmitRaw(ctx context.Context, kind uint32, object uint64, payload []byte) error {
	t, err := e.declared(kind)
	if err != nil {
		return err
	}
	return e.put(ctx, t, object, len(payload), func(b []byte) (int, error) { return copy(b, payload), nil })
}

// put reserves a buffer, fills it and commits it. fill returns how much it
// wrote, which must be size.
func (e *emitter) put(ctx context.Context, t RecordType, object uint64, size int, fill func([]byte) (int, error)) error {
	if size > hbuf.MaxRecord {
		return fmt.Errorf("emit record kind %d of object %d: %d bytes, limit is %d: %w", t.Kind, object, size, hbuf.MaxRecord, ErrUnsupported)
	}
	buf, err := e.producer.Get(ctx, size)
	if err != nil {
		return fmt.Errorf("emit record kind %d of object %d: %w", t.Kind, object, err)
	}
	n, err := fill(buf.Payload())
	if err == nil && n != size {
		err = fmt.Errorf("message changed while it was marshaled: %d bytes became %d", size, n)
	}
	if err != nil {
		buf.Put()
		return fmt.Errorf("emit record kind %d of object %d: %w", t.Kind, object, err)
	}
	if err := buf.Commit(ctx, t.Kind, t.Version, object); err != nil {
		return fmt.Errorf("emit record kind %d of object %d: %w", t.Kind, object, err)
	}
	return nil
}

// Bulk implements [Emitter].
func (e *emitter) Bulk(ctx context.Context, size int) (*hbuf.Buf, error) {
	buf, err := e.producer.GetBulk(ctx, size)
	if err != nil {
		return nil, fmt.Errorf("reserve bulk record: %w", err)
	}
	return buf, nil
}

func (e *emitter) declared(kind uint32) (RecordType, error) {
	t, ok := e.types[kind]
	if !ok {
		return t, fmt.Errorf("emit record kind %d: the plugin's description does not declare it", kind)
	}
	return t, nil
}
