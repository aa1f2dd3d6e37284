package mm

import (
	"errors"
	"iter"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/firn-cr/firn/plugins/mm/mmpb"
	"github.com/firn-cr/firn/sdk"
)

// recordList is an image without page data.
type recordList []sdk.Record

func (l recordList) All() iter.Seq2[sdk.Record, error] {
	return func(yield func(sdk.Record, error) bool) {
		for _, r := range l {
			if !yield(r, nil) {
				return
			}
		}
	}
}

func (recordList) Object(uint64) iter.Seq2[sdk.Record, error] { return nil }
func (recordList) ReadBulk(sdk.Record, []byte, int64) error   { return errors.ErrUnsupported }

func record(kind uint32, object uint64, m proto.Message) sdk.Record {
	b, _ := proto.Marshal(m)
	return sdk.Record{Kind: kind, Version: recordVersion, Object: object, Payload: b}
}

// goodImage is a small image of one process.
func goodImage() recordList {
	p := pageSize
	return recordList{
		record(kindFile, 0, &mmpb.MappedFile{Id: 1, Path: "/bin/x"}),
		record(kindShared, 0, &mmpb.SharedMemory{Id: 1, Size: 4 * p}),
		record(kindSpace, 7, &mmpb.AddressSpace{PageSize: uint32(p), Fields: &mmpb.Fields{}, Exe: 1,
			Vdso: &mmpb.Vdso{Start: 100 * p, Parts: []*mmpb.VdsoPart{{Name: nameVdso, Size: p}}}}),
		record(kindMappings, 7, &mmpb.MappingList{Mappings: []*mmpb.Mapping{
			{Start: 2 * p, End: 6 * p, Kind: mmpb.Kind_KIND_ANONYMOUS, Prot: 3},
			{Start: 6 * p, End: 8 * p, Kind: mmpb.Kind_KIND_FILE, Source: 1, Prot: 5},
			{Start: 9 * p, End: 13 * p, Kind: mmpb.Kind_KIND_SHARED, Source: 1, Flags: 1 << mmpb.Flag_FLAG_SHARED},
		}}),
		record(kindGuards, 7, &mmpb.Guards{Runs: encodeRuns([]run{pages(3, 4)})}),
		record(kindPages, 1<<63, &mmpb.Pages{Task: 7, Runs: encodeRuns([]run{pages(2, 3), pages(5, 7)})}),
		{Kind: kindPageData, Version: recordVersion, Object: 1 << 63, Bulk: true, BulkOffset: 4096, BulkLen: int64(3 * p)},
		record(kindPages, 1<<63|1, &mmpb.Pages{Shared: 1, Runs: encodeRuns([]run{pages(1, 2)})}),
		{Kind: kindPageData, Version: recordVersion, Object: 1<<63 | 1, Bulk: true, BulkOffset: 4096, BulkLen: int64(p)},
	}
}

func TestReadImage(t *testing.T) {
	img, err := readImage(goodImage())
	if err != nil {
		t.Fatal(err)
	}
	sp := img.spaces[7]
	if len(sp.mappings) != 3 || len(sp.chunks) != 1 || len(sp.guards) != 1 || img.shared[1].whole == nil {
		t.Errorf("%+v", sp)
	}
	if loads := img.loadsOf(sp); len(loads) != 2 || loads[1].runs[0] != pages(10, 11) {
		t.Errorf("loads %v", loads)
	}
}

func TestReadImageRefuses(t *testing.T) {
	p := pageSize
	mapping := func(m *mmpb.Mapping) sdk.Record {
		return record(kindMappings, 7, &mmpb.MappingList{Mappings: []*mmpb.Mapping{m}})
	}
	for name, damage := range map[string]func(l recordList) recordList{
		"no space":         func(l recordList) recordList { return append(l[:2:2], l[3:]...) },
		"no file":          func(l recordList) recordList { return l[1:] },
		"file twice":       func(l recordList) recordList { return append(l, l[0]) },
		"shared twice":     func(l recordList) recordList { return append(l, l[1]) },
		"space twice":      func(l recordList) recordList { return append(l, l[2]) },
		"mappings twice":   func(l recordList) recordList { return append(l, l[3]) },
		"pages twice":      func(l recordList) recordList { return append(l, l[5]) },
		"data twice":       func(l recordList) recordList { return append(l, l[6]) },
		"data missing":     func(l recordList) recordList { return l[:len(l)-1] },
		"list missing":     func(l recordList) recordList { return append(l[:5:5], l[6:]...) },
		"other list":       func(l recordList) recordList { l[5].Object++; return l },
		"too little data":  func(l recordList) recordList { l[6].BulkLen--; return l },
		"data in a record": func(l recordList) recordList { l[6].Bulk = false; return l },
		"task is no task":  func(l recordList) recordList { l[4].Object = 1 << 40; return l },
		"damaged":          func(l recordList) recordList { l[2].Payload = []byte{0xff}; return l },
		"path": func(l recordList) recordList {
			l[0] = record(kindFile, 0, &mmpb.MappedFile{Id: 1, Path: "x"})
			return l
		},
		"guard outside": func(l recordList) recordList {
			l[4] = record(kindGuards, 7, &mmpb.Guards{Runs: encodeRuns([]run{pages(8, 9)})})
			return l
		},
		"pages outside": func(l recordList) recordList {
			l[5] = record(kindPages, 1<<63, &mmpb.Pages{Task: 7, Runs: encodeRuns([]run{pages(6, 9)})})
			return l
		},
		"pages of nobody": func(l recordList) recordList {
			l[5] = record(kindPages, 1<<63, &mmpb.Pages{Task: 8, Runs: encodeRuns([]run{pages(2, 5)})})
			return l
		},
		"shared outside": func(l recordList) recordList {
			l[7] = record(kindPages, 1<<63|1, &mmpb.Pages{Shared: 1, Runs: encodeRuns([]run{pages(4, 5)})})
			return l
		},
		"shared of nobody": func(l recordList) recordList {
			l[7] = record(kindPages, 1<<63|1, &mmpb.Pages{Shared: 2, Runs: encodeRuns([]run{pages(1, 2)})})
			return l
		},
		"empty mapping": func(l recordList) recordList {
			return append(l, mapping(&mmpb.Mapping{Start: 20 * p, End: 20 * p, Kind: 1}))
		},
		"unaligned mapping": func(l recordList) recordList {
			return append(l, mapping(&mmpb.Mapping{Start: 20*p + 1, End: 21 * p, Kind: 1}))
		},
		"high mapping": func(l recordList) recordList {
			return append(l, mapping(&mmpb.Mapping{Start: 20 * p, End: 1 << 63, Kind: 1}))
		},
		"unknown kind": func(l recordList) recordList {
			return append(l, mapping(&mmpb.Mapping{Start: 20 * p, End: 21 * p, Kind: 9}))
		},
		"unknown flag": func(l recordList) recordList {
			return append(l, mapping(&mmpb.Mapping{Start: 20 * p, End: 21 * p, Kind: 1, Flags: 1 << 60}))
		},
		"unknown source": func(l recordList) recordList {
			return append(l, mapping(&mmpb.Mapping{Start: 20 * p, End: 21 * p, Kind: 2, Source: 5}))
		},
		"behind the object": func(l recordList) recordList {
			return append(l, mapping(&mmpb.Mapping{Start: 20 * p, End: 22 * p, Kind: 3, Source: 1, Offset: 3 * p, Flags: 1 << mmpb.Flag_FLAG_SHARED}))
		},
		"name": func(l recordList) recordList {
			return append(l, mapping(&mmpb.Mapping{Start: 20 * p, End: 21 * p, Kind: 1, Name: "a\x00b"}))
		},
	} {
		if _, err := readImage(damage(goodImage())); !errors.Is(err, sdk.ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
	other := goodImage()
	other[2] = record(kindSpace, 7, &mmpb.AddressSpace{PageSize: 1 << 16, Fields: &mmpb.Fields{}, Exe: 1})
	if _, err := readImage(other); !errors.Is(err, sdk.ErrUnsupported) {
		t.Errorf("other page size: %v", err)
	}
}

// FuzzReadImage replaces one record of an image; what is accepted must be fit
// for building a script.
func FuzzReadImage(f *testing.F) {
	for i, r := range goodImage() {
		f.Add(uint8(i), r.Kind, r.Object, r.Payload, r.BulkLen)
	}
	f.Fuzz(func(t *testing.T, at uint8, kind uint32, object uint64, payload []byte, bulk int64) {
		l := goodImage()
		l[int(at)%len(l)] = sdk.Record{Kind: kind, Version: recordVersion, Object: object, Payload: payload,
			Bulk: kind == kindPageData, BulkLen: bulk}
		img, err := readImage(l)
		if err != nil {
			return
		}
		for _, sp := range img.order {
			b := &builder{img: img, sp: sp, script: newScript(), objects: map[uint32]int{}}
			if len(sp.mappings) > 100 || len(sp.record.Auxv) > maxAuxv {
				continue
			}
			if _, err := b.scratch(sdk.AddrRange{Start: 1 << 61, End: 1<<61 + 1}, nil); err != nil {
				continue
			}
			b.loads = img.loadsOf(sp)
			b.filled = filledBytes(sp.mappings, allRuns(b.loads))
			if runBytes(allRuns(b.loads)) > 1<<30 {
				continue
			}
			b.mapAll()
			b.fill()
			b.finishAll()
			checkTapes(t, b.script)
		}
	})
}
