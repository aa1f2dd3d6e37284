package sdk

import (
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/known/apipb"
	"google.golang.org/protobuf/types/known/typepb"
)

// TestDescriptorsAreWhole reads the descriptors back with nothing but
// themselves: an import that is missing, or behind its importer, fails.
func TestDescriptorsAreWhole(t *testing.T) {
	b, err := descriptorSet([]RecordType{
		{Kind: 1, Message: &apipb.Api{}}, {Kind: 2, Message: &typepb.Field{}}, {Kind: 3, Name: "opaque"},
	})
	if err != nil {
		t.Fatal(err)
	}
	set := &descriptorpb.FileDescriptorSet{}
	if err := proto.Unmarshal(b, set); err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, f := range set.File {
		for _, d := range f.Dependency {
			if !seen[d] {
				t.Errorf("%s comes before its import %s", f.GetName(), d)
			}
		}
		if seen[f.GetName()] {
			t.Errorf("%s comes twice", f.GetName())
		}
		seen[f.GetName()] = true
	}
	files, err := protodesc.NewFiles(set)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"google.protobuf.Api", "google.protobuf.Field", "google.protobuf.Any"} {
		if _, err := files.FindDescriptorByName(protoreflect.FullName(name)); err != nil {
			t.Error(err)
		}
	}
}

func TestValidate(t *testing.T) {
	good := Description{Name: "files", Version: "1"}
	if err := good.Validate(); err != nil {
		t.Error(err)
	}
	for name, d := range map[string]Description{
		"host's name":   {Name: "firn", Version: "1"},
		"upper case":    {Name: "Files", Version: "1"},
		"empty name":    {Version: "1"},
		"slash":         {Name: "a/b", Version: "1"},
		"no version":    {Name: "files"},
		"kind twice":    {Name: "a", Version: "1", Records: []RecordType{{Kind: 1}, {Kind: 1}}},
		"no kind":       {Name: "a", Version: "1", Claims: []Claim{{}}},
		"type of task":  {Name: "a", Version: "1", Claims: []Claim{{Kind: KindTask, Type: TypeRegular}}},
		"path of ns":    {Name: "a", Version: "1", Claims: []Claim{{Kind: KindNamespace, Path: "/x"}}},
		"ns of file":    {Name: "a", Version: "1", Claims: []Claim{{Kind: KindFile, Namespace: "uts"}}},
		"socket of vma": {Name: "a", Version: "1", Claims: []Claim{{Kind: KindVMA, Socket: &Socket{}}}},
		"any major":     {Name: "a", Version: "1", Claims: []Claim{{Kind: KindFile, Device: &Device{Major: Any}}}},
		"any family":    {Name: "a", Version: "1", Claims: []Claim{{Kind: KindFile, Socket: &Socket{Family: Any}}}},
		"relative path": {Name: "a", Version: "1", Claims: []Claim{{Kind: KindFile, Path: "dev/x"}}},
		"bad pattern":   {Name: "a", Version: "1", Claims: []Claim{{Kind: KindFile, Path: "/dev/[x"}}},
		"bad attends":   {Name: "a", Version: "1", Attends: []Claim{{Kind: 99}}},
	} {
		if err := d.Validate(); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
}
