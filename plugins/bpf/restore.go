package bpf

import (
	"context"
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/bpf/bpfpb"
	"github.com/firn-cr/firn/sdk"
)

// saved is an open file of a map in an image.
type saved struct {
	object  uint64
	msg     *bpfpb.Map // nil for a handle
	entries []*bpfpb.Entries
	handle  uint64
}

// load reads and checks the records.
func load(req *sdk.RestoreRequest) ([]*saved, error) {
	var all []*saved
	byObject := map[uint64]*saved{}
	for _, r := range req.Resources {
		s := &saved{object: r.Object}
		for rec, err := range req.Records.Object(r.Object) {
			if err == nil {
				err = s.add(rec)
			}
			if err != nil {
				return nil, err
			}
		}
		all = append(all, s)
		byObject[r.Object] = s
	}
	for _, s := range all {
		if first := byObject[s.handle]; s.msg == nil && (first == nil || first.msg == nil) {
			return nil, fmt.Errorf("object %d has no map: %w", s.object, sdk.ErrCorrupt)
		}
	}
	return all, nil
}

func (s *saved) add(r sdk.Record) error {
	corrupt := func(err error) error {
		return &sdk.CorruptError{What: "record", Kind: r.Kind, Object: r.Object, Err: err}
	}
	switch r.Kind {
	case kindMap:
		s.msg = &bpfpb.Map{}
		if err := r.Decode(s.msg); err != nil {
			return err
		}
		if !carried[ebpf.MapType(s.msg.GetType())] || s.msg.GetKeySize() == 0 || s.msg.GetValueSize() == 0 {
			return corrupt(fmt.Errorf("map of type %d", s.msg.GetType()))
		}
	case kindEntries:
		e := &bpfpb.Entries{}
		if err := r.Decode(e); err != nil {
			return err
		}
		if s.msg == nil {
			return corrupt(errors.New("no map for it"))
		}
		n, k := len(e.GetKeys())/int(s.msg.GetKeySize()), len(e.GetKeys())%int(s.msg.GetKeySize())
		if k != 0 || len(e.GetValues()) != n*int(s.msg.GetValueSize()) {
			return corrupt(fmt.Errorf("keys of %d bytes, values of %d", len(e.GetKeys()), len(e.GetValues())))
		}
		s.entries = append(s.entries, e)
	case kindHandle:
		h := &bpfpb.Handle{}
		if err := r.Decode(h); err != nil {
			return err
		}
		s.handle = h.GetMap()
	}
	return nil
}

// CheckImage implements [sdk.ImageChecker].
func (*plugin) CheckImage(_ context.Context, req *sdk.RestoreRequest) ([]sdk.Finding, error) {
	_, err := load(req)
	return nil, err
}

// RestoreObjects implements [sdk.ObjectRestorer].
func (*plugin) RestoreObjects(_ context.Context, req *sdk.RestoreRequest) (err error) {
	all, err := load(req)
	if err != nil {
		return err
	}
	made := map[uint64]*ebpf.Map{}
	defer func() {
		for _, m := range made {
			err = errors.Join(err, m.Close())
		}
	}()
	for _, s := range all {
		if s.msg == nil {
			continue
		}
		m, err := s.create()
		if err != nil {
			return fmt.Errorf("restore BPF map %q: %w", s.msg.GetName(), err)
		}
		made[s.object] = m
		if err := provide(req, s.object, m); err != nil {
			return err
		}
	}
	for _, s := range all {
		if s.msg != nil {
			continue
		}
		if err := provideHandle(req, s.object, made[s.handle]); err != nil {
			return fmt.Errorf("restore open file %d of a BPF map: %w", s.object, err)
		}
	}
	return nil
}

// create makes a map with its entries.
func (s *saved) create() (*ebpf.Map, error) {
	m, err := ebpf.NewMap(&ebpf.MapSpec{
		Name: s.msg.GetName(), Type: ebpf.MapType(s.msg.GetType()), KeySize: s.msg.GetKeySize(), ValueSize: s.msg.GetValueSize(),
		MaxEntries: s.msg.GetMaxEntries(), Flags: s.msg.GetFlags(), MapExtra: s.msg.GetExtra(),
	})
	if err != nil {
		return nil, err
	}
	if err := s.fill(m); err != nil {
		return nil, errors.Join(err, m.Close())
	}
	return m, nil
}

func (s *saved) fill(m *ebpf.Map) error {
	k, v := int(s.msg.GetKeySize()), int(s.msg.GetValueSize())
	for _, e := range s.entries {
		for i := range len(e.GetKeys()) / k {
			if err := m.Put(e.GetKeys()[i*k:(i+1)*k], e.GetValues()[i*v:(i+1)*v]); err != nil {
				return fmt.Errorf("put entry: %w", err)
			}
		}
	}
	if s.msg.GetFrozen() {
		if err := m.Freeze(); err != nil {
			return fmt.Errorf("freeze: %w", err)
		}
	}
	return nil
}

// provideHandle opens a map once more.
func provideHandle(req *sdk.RestoreRequest, object uint64, m *ebpf.Map) error {
	info, err := m.Info()
	if err != nil {
		return err
	}
	id, _ := info.ID()
	again, err := ebpf.NewMapFromID(id)
	if err != nil {
		return err
	}
	return errors.Join(provide(req, object, again), again.Close())
}

// provide hands a descriptor of a map to the host.
func provide(req *sdk.RestoreRequest, object uint64, m *ebpf.Map) error {
	fd, err := unix.FcntlInt(uintptr(m.FD()), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("duplicate descriptor: %w", err)
	}
	return req.Provide(object, fd)
}
