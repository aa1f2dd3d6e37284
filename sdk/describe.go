package sdk

import (
	"errors"
	"fmt"
	"path"
	"regexp"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"

	"github.com/firn-cr/firn/sdk/internal/protocol"
)

// protocolAgrees fails to compile if the two constants differ.
var _ = [1]struct{}{}[APIVersion-protocol.APIVersion]

// namePattern is what the name of a plugin looks like.
var namePattern = regexp.MustCompile(`^[a-z][a-z0-9-]{0,31}$`)

// Validate tells what is wrong with a description. Serve calls it, and so does
// the host with the description of every plugin it starts.
func (d *Description) Validate() error {
	if !namePattern.MatchString(d.Name) || d.Name == "firn" {
		return fmt.Errorf("plugin name %q: want lower case letters, digits and dashes, and not \"firn\"", d.Name)
	}
	if d.Version == "" {
		return fmt.Errorf("plugin %s has no version", d.Name)
	}
	for i := range d.Claims {
		if err := d.Claims[i].Validate(); err != nil {
			return fmt.Errorf("claim %d: %w", i, err)
		}
	}
	for i := range d.Attends {
		if err := d.Attends[i].Validate(); err != nil {
			return fmt.Errorf("attended claim %d: %w", i, err)
		}
	}
	seen := make(map[uint32]bool, len(d.Records))
	for _, r := range d.Records {
		if seen[r.Kind] {
			return fmt.Errorf("record kind %d is declared twice", r.Kind)
		}
		seen[r.Kind] = true
	}
	return nil
}

// Validate tells what is wrong with a claim: fields that its kind does not
// have, numbers out of range, patterns that cannot match.
func (c *Claim) Validate() error {
	file, vma := c.Kind == KindFile, c.Kind == KindVMA
	switch {
	case c.Kind < KindTask || c.Kind > KindNamespace:
		return fmt.Errorf("unknown kind %d", c.Kind)
	case !file && (c.Type != "" || c.Socket != nil || c.FS != ""):
		return fmt.Errorf("%s claim with a field that only files have", c.Kind)
	case !file && !vma && (c.Device != nil || c.Path != "" || c.Anon != ""):
		return fmt.Errorf("%s claim with a device, path or anonymous inode", c.Kind)
	case c.Kind != KindNamespace && c.Namespace != "":
		return fmt.Errorf("%s claim with a namespace", c.Kind)
	}
	return errors.Join(c.Device.validate(), c.Socket.validate(), checkPattern(c.Path))
}

func (d *Device) validate() error {
	if d != nil && (d.Major < 0 || d.Minor < Any) {
		return fmt.Errorf("device %d:%d", d.Major, d.Minor)
	}
	return nil
}

func (s *Socket) validate() error {
	if s != nil && (s.Family < 0 || s.Type < Any || s.Protocol < Any) {
		return fmt.Errorf("socket family %d, type %d, protocol %d", s.Family, s.Type, s.Protocol)
	}
	return nil
}

// descriptorSet serializes the files of all messages with their imports, every
// file behind what it imports.
func descriptorSet(records []RecordType) ([]byte, error) {
	set := &descriptorpb.FileDescriptorSet{}
	seen := map[string]bool{}
	for _, r := range records {
		if r.Message != nil {
			addFile(set, seen, r.Message.ProtoReflect().Descriptor().ParentFile())
		}
	}
	if len(set.File) == 0 {
		return nil, nil
	}
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(set)
	if err != nil {
		return nil, fmt.Errorf("descriptors of records: %w", err)
	}
	return b, nil
}

func addFile(set *descriptorpb.FileDescriptorSet, seen map[string]bool, f protoreflect.FileDescriptor) {
	if seen[f.Path()] {
		return
	}
	seen[f.Path()] = true
	imports := f.Imports()
	for i := range imports.Len() {
		addFile(set, seen, imports.Get(i).FileDescriptor)
	}
	set.File = append(set.File, protodesc.ToFileDescriptorProto(f))
}

// checkPattern checks the syntax of a path pattern: absolute, every component
// valid for path.Match.
func checkPattern(pattern string) error {
	if pattern == "" {
		return nil
	}
	if !strings.HasPrefix(pattern, "/") {
		return fmt.Errorf("path pattern %q is not absolute", pattern)
	}
	for _, component := range strings.Split(pattern[1:], "/") {
		if _, err := path.Match(component, ""); err != nil {
			return fmt.Errorf("path pattern %q: %w", pattern, err)
		}
	}
	return nil
}
