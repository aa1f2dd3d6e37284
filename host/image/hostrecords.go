package image

import (
	"errors"
	"fmt"
	"slices"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/types/descriptorpb"

	"github.com/firn-cr/firn/host/image/imagepb"
	"github.com/firn-cr/firn/host/pidns"
	"github.com/firn-cr/firn/sdk"
)

// Kinds of the host's own records, in the stream [HostStream]. Never reuse a
// number.
const (
	KindTree      uint32 = 1 // imagepb.HostTree; first and once
	KindThread    uint32 = 2 // imagepb.HostThread
	KindFile      uint32 = 3 // imagepb.HostFile
	KindNamespace uint32 = 4 // imagepb.HostNamespace
)

// hostVersion is the version of all host records.
const hostVersion = 1

// Object is a resource that has an identity of its own, and the plugin that
// owns it.
type Object struct {
	Plugin   string
	Resource sdk.Resource // KindFile or KindNamespace
}

// HostRecords are what the host saves of a tree: everything that belongs to
// no plugin.
type HostRecords struct {
	Tree *imagepb.HostTree
	// Threads are in the order of the tree.
	Threads []*imagepb.HostThread
	Objects []Object
	// PIDs are the PID namespaces that [Image.HostRecords] finds in the tree; nil
	// if it has none of its own.
	PIDs *pidns.Map
}

// hostPlugin declares the host's record types, for the host's stream block.
func hostPlugin() *imagepb.Plugin {
	file := protodesc.ToFileDescriptorProto(imagepb.File_host_image_imagepb_image_proto)
	set, err := proto.Marshal(&descriptorpb.FileDescriptorSet{File: []*descriptorpb.FileDescriptorProto{file}})
	if err != nil { // cannot happen: the message is generated
		set = nil
	}
	p := &imagepb.Plugin{Name: HostStream, Descriptors: set}
	for kind, m := range map[uint32]proto.Message{
		KindTree: &imagepb.HostTree{}, KindThread: &imagepb.HostThread{},
		KindFile: &imagepb.HostFile{}, KindNamespace: &imagepb.HostNamespace{},
	} {
		p.Records = append(p.Records, &imagepb.RecordType{
			Kind: kind, Version: hostVersion, Message: string(m.ProtoReflect().Descriptor().FullName()),
		})
	}
	return p
}

// WriteHostRecords writes the host's records into its stream.
func (w *Writer) WriteHostRecords(r *HostRecords) error {
	s := w.Stream(HostStream)
	if err := s.Append(KindTree, hostVersion, uint64(r.Tree.GetRoot()), r.Tree); err != nil {
		return err
	}
	for _, t := range r.Threads {
		if err := s.Append(KindThread, hostVersion, uint64(t.Id), t); err != nil {
			return err
		}
	}
	for _, o := range r.Objects {
		var kind uint32
		var m proto.Message
		switch {
		case o.Resource.Kind == sdk.KindFile && o.Resource.File != nil:
			kind, m = KindFile, fileToProto(o)
		case o.Resource.Kind == sdk.KindNamespace && o.Resource.Namespace != nil:
			kind, m = KindNamespace, namespaceToProto(o)
		default:
			return s.wrap(fmt.Errorf("object %d is a %s, not a file or namespace", o.Resource.Object, o.Resource.Kind))
		}
		if err := s.Append(kind, hostVersion, o.Resource.Object, m); err != nil {
			return err
		}
	}
	return nil
}

// HostRecords reads the host's records and checks that they agree with each
// other: parents precede children, every thread and object belongs to a
// process of the tree, no identity occurs twice.
func (i *Image) HostRecords() (*HostRecords, error) {
	r := &HostRecords{}
	for rec, err := range i.Records(HostStream) {
		if err != nil {
			return nil, err
		}
		if err := r.add(rec); err != nil {
			return nil, fmt.Errorf("image %s: host records: %w", i.path, err)
		}
	}
	if err := r.check(); err != nil {
		err = &sdk.CorruptError{What: "host record", Kind: KindTree, Err: err}
		return nil, fmt.Errorf("image %s: host records: %w", i.path, err)
	}
	return r, nil
}

func (r *HostRecords) add(rec sdk.Record) error {
	if rec.Version > hostVersion || rec.Kind < KindTree || rec.Kind > KindNamespace {
		return fmt.Errorf("record kind %d version %d: %w", rec.Kind, rec.Version, sdk.ErrVersion)
	}
	if rec.Bulk {
		return &sdk.CorruptError{What: "host record", Kind: rec.Kind, Object: rec.Object, Err: errors.New("is a bulk record")}
	}
	switch rec.Kind {
	case KindTree:
		if r.Tree != nil {
			return &sdk.CorruptError{What: "host record", Kind: rec.Kind, Object: rec.Object, Err: errors.New("second tree")}
		}
		r.Tree = &imagepb.HostTree{}
		// No process is described by less than eight bytes.
		err := unmarshal(rec.Payload, r.Tree, map[protowire.Number]uint64{2: uint64(len(rec.Payload) / 8)})
		if err != nil {
			return &sdk.CorruptError{What: "host record", Kind: rec.Kind, Object: rec.Object, Err: err}
		}
	case KindThread:
		t := &imagepb.HostThread{}
		r.Threads = append(r.Threads, t)
		return rec.Decode(t)
	case KindFile:
		m := &imagepb.HostFile{}
		if err := rec.Decode(m); err != nil {
			return err
		}
		r.Objects = append(r.Objects, fileFromProto(m))
	case KindNamespace:
		m := &imagepb.HostNamespace{}
		if err := rec.Decode(m); err != nil {
			return err
		}
		r.Objects = append(r.Objects, namespaceFromProto(m))
	}
	return nil
}

// check compares the records with each other.
func (r *HostRecords) check() (err error) {
	if err := checkTree(r.Tree); err != nil {
		return err
	}
	if r.PIDs, err = pidns.FromImage(r.Tree); err != nil {
		return err
	}
	if err := checkUserNamespaces(r); err != nil {
		return err
	}
	owner := map[uint32]uint32{} // thread -> process
	process := map[uint32]bool{} // all of them
	for _, p := range r.Tree.Processes {
		process[p.Id] = true
		for _, t := range p.Threads {
			owner[t] = p.Id
		}
	}
	for _, t := range r.Threads {
		if p, ok := owner[t.Id]; !ok || p != t.Process {
			return fmt.Errorf("thread %d of process %d is not in the tree, or is there twice", t.Id, t.Process)
		}
		delete(owner, t.Id)
	}
	for t := range owner {
		return fmt.Errorf("thread %d has no registers", t)
	}
	objects := map[uint64]bool{}
	slots := map[sdk.FDRef]bool{}
	for _, o := range r.Objects {
		if objects[o.Resource.Object] {
			return fmt.Errorf("object %d occurs twice", o.Resource.Object)
		}
		objects[o.Resource.Object] = true
		if err := checkObject(o, process, slots); err != nil {
			return fmt.Errorf("object %d: %w", o.Resource.Object, err)
		}
	}
	return nil
}

// checkObject checks that an object belongs to processes of the tree and that
// no other has its descriptors, which it adds to slots.
func checkObject(o Object, process map[uint32]bool, slots map[sdk.FDRef]bool) error {
	if err := checkName(o.Plugin); err != nil {
		return err
	}
	tasks := []sdk.TaskID{o.Resource.Task}
	if f := o.Resource.File; f != nil {
		for _, ref := range f.Refs {
			slot := sdk.FDRef{Task: ref.Task, FD: ref.FD}
			if ref.FD < 0 || slots[slot] {
				return fmt.Errorf("descriptor %d of process %d is taken or not valid", ref.FD, ref.Task)
			}
			slots[slot] = true
			tasks = append(tasks, ref.Task)
		}
	}
	if n := o.Resource.Namespace; n != nil {
		tasks = append(tasks, n.Tasks...)
	}
	for _, t := range tasks {
		if !process[uint32(t)] {
			return fmt.Errorf("process %d is not in the tree", t)
		}
	}
	return nil
}

// checkProcess checks what a process says of itself.
func checkProcess(p *imagepb.HostProcess) error {
	switch {
	case p.State < imagepb.State_STATE_RUNNING || p.State > imagepb.State_STATE_ZOMBIE:
		return fmt.Errorf("process %d has state %d", p.Id, p.State)
	case (p.State == imagepb.State_STATE_ZOMBIE) != (len(p.Threads) == 0) || slices.Contains(p.Threads[min(1, len(p.Threads)):], p.Id):
		return fmt.Errorf("process %d has wrong threads", p.Id)
	case len(p.Threads) > 0 && p.Threads[0] != p.Id && p.ExitStatus&^0xff00 != 0:
		return fmt.Errorf("the main thread of process %d has ended with status %#x, which is not one of exit(2)", p.Id, p.ExitStatus)
	case p.ReservedEnd < p.ReservedStart:
		return fmt.Errorf("process %d has a reserved range that ends before it starts", p.Id)
	}
	return nil
}

func checkTree(t *imagepb.HostTree) error {
	if t == nil {
		return errors.New("there is no tree")
	}
	seen := map[uint32]bool{} // processes and threads share the numbers
	known := map[uint32]bool{}
	if t.OwnPidNamespace && len(t.PidNamespaces) > 0 && t.PidNamespaces[0].Init == 0 {
		known[uint32(pidns.InitID)] = true // an init of Firn's
	}
	for n, p := range t.Processes {
		if p.Id == 0 || known[p.Id] {
			return fmt.Errorf("process %d occurs twice", p.Id)
		}
		if (n == 0) != (p.Id == t.Root) || (n == 0) != (p.Parent == 0) || n > 0 && !known[p.Parent] {
			return fmt.Errorf("process %d with parent %d is out of order", p.Id, p.Parent)
		}
		if err := checkProcess(p); err != nil {
			return err
		}
		known[p.Id] = true
		threads := p.Threads
		if len(threads) == 0 || threads[0] != p.Id {
			threads = append([]uint32{p.Id}, threads...) // has ended, but has its number
		}
		for _, id := range threads {
			if id == 0 || seen[id] {
				return fmt.Errorf("thread %d occurs twice", id)
			}
			seen[id] = true
		}
	}
	if len(t.Processes) == 0 {
		return errors.New("the tree is empty")
	}
	return nil
}
