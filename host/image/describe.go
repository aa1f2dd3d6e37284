package image

import (
	"encoding/json"
	"fmt"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/firn-cr/firn/host/image/imagepb"
	"github.com/firn-cr/firn/sdk"
)

// Descriptions turns the records of one plugin into text by what the image
// itself says of them: the plugin need not be there.
type Descriptions struct {
	kinds map[uint32]*imagepb.RecordType
	types map[uint32]protoreflect.MessageDescriptor
}

// Descriptions returns the descriptions of a plugin's records.
func (i *Image) Descriptions(plugin string) (*Descriptions, error) {
	s := i.byName[plugin]
	if s == nil {
		return nil, fmt.Errorf("image %s: plugin %s: %w", i.path, plugin, ErrNoStream)
	}
	d, err := newDescriptions(s.start)
	if err != nil {
		return nil, i.corrupt(blockStream, s.number, i.streamStart(s), err)
	}
	return d, nil
}

// streamStart is the offset of a stream's first block.
func (i *Image) streamStart(s *stream) uint64 {
	for _, e := range i.blocks {
		if e.stream == s.number {
			return e.offset
		}
	}
	return 0
}

func newDescriptions(start *imagepb.StreamStart) (*Descriptions, error) {
	set := &descriptorpb.FileDescriptorSet{}
	if err := proto.Unmarshal(start.Descriptors, set); err != nil {
		return nil, fmt.Errorf("descriptors: %w", err)
	}
	files, err := protodesc.NewFiles(set)
	if err != nil {
		return nil, fmt.Errorf("descriptors: %w", err)
	}
	d := &Descriptions{kinds: map[uint32]*imagepb.RecordType{}, types: map[uint32]protoreflect.MessageDescriptor{}}
	for _, t := range start.Records {
		if d.kinds[t.Kind] != nil {
			return nil, fmt.Errorf("record kind %d is declared twice", t.Kind)
		}
		d.kinds[t.Kind] = t
		if t.Message == "" {
			continue
		}
		if d.types[t.Kind], err = findMessage(files, t.Message); err != nil {
			return nil, fmt.Errorf("record kind %d: %w", t.Kind, err)
		}
	}
	return d, nil
}

func findMessage(files *protoregistry.Files, name string) (protoreflect.MessageDescriptor, error) {
	desc, err := files.FindDescriptorByName(protoreflect.FullName(name))
	if err != nil {
		return nil, fmt.Errorf("message %s: %w", name, err)
	}
	m, ok := desc.(protoreflect.MessageDescriptor)
	if !ok {
		return nil, fmt.Errorf("%s is not a message", name)
	}
	return m, nil
}

// Describe returns the name of a record's type and its payload as JSON. Bulk
// payloads are described by their place and length, opaque ones as base64.
func (d *Descriptions) Describe(r sdk.Record) (name string, text []byte, err error) {
	name = d.Name(r.Kind)
	if r.Bulk {
		text, err = json.Marshal(map[string]int64{"bulk_offset": r.BulkOffset, "bulk_length": r.BulkLen})
		return name, text, err
	}
	desc := d.types[r.Kind]
	if desc == nil {
		text, err = json.Marshal(map[string][]byte{"opaque": r.Payload})
		return name, text, err
	}
	m := dynamicpb.NewMessage(desc)
	if err := r.Decode(m); err != nil {
		return name, nil, err
	}
	text, err = protojson.MarshalOptions{UseProtoNames: true, AllowPartial: true}.Marshal(m)
	if err != nil {
		return name, nil, &sdk.CorruptError{What: "record", Kind: r.Kind, Object: r.Object, Err: err}
	}
	return name, text, nil
}

// Describe returns the name of a record's type and its payload as JSON. To
// describe many records of one plugin, use [Image.Descriptions].
func (i *Image) Describe(plugin string, r sdk.Record) (name string, text []byte, err error) {
	d, err := i.Descriptions(plugin)
	if err != nil {
		return "", nil, err
	}
	return d.Describe(r)
}

// Name returns the name of a record type.
func (d *Descriptions) Name(kind uint32) string {
	switch t := d.kinds[kind]; {
	case t != nil && t.Name != "":
		return t.Name
	case t != nil && t.Message != "":
		return string(protoreflect.FullName(t.Message).Name())
	}
	return fmt.Sprintf("kind %d", kind)
}
