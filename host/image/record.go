package image

import (
	"iter"

	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/hbuf"
)

// packRecord makes the packed form of one record.
func packRecord(kind uint32, version uint16, object, sequence uint64, payload []byte) []byte {
	h := hbuf.Header{Kind: kind, Version: version, Object: object, Seq: sequence}
	return hbuf.AppendRecord(nil, h, payload)
}

// Block is a run of packed records in an image.
type Block struct {
	// Offset of the first record header, in the file.
	Offset int64
	// Length in bytes.
	Length int64
}

// Blocks returns where the packed records of a plugin are, in order. It is
// empty for a plugin that wrote none.
func (i *Image) Blocks(plugin string) []Block {
	s := i.byName[plugin]
	if s == nil {
		return nil
	}
	var blocks []Block
	for _, n := range s.records {
		e := i.blocks[n]
		blocks = append(blocks, Block{int64(e.offset) + headerSize, int64(e.length)})
	}
	return blocks
}

// Records yields the records of a plugin in the order of emission. Each block
// is read and checked when its first record is due. Payloads stay valid. An
// error ends the sequence.
func (i *Image) Records(plugin string) iter.Seq2[sdk.Record, error] {
	return func(yield func(sdk.Record, error) bool) {
		s := i.byName[plugin]
		if s == nil {
			return
		}
		for _, n := range s.records {
			body, err := i.readBlock(i.blocks[n])
			if err != nil {
				yield(sdk.Record{}, err)
				return
			}
			off := i.blocks[n].offset + headerSize
			for r, err := range hbuf.Records(body) {
				if err != nil {
					yield(sdk.Record{}, i.corrupt(blockRecords, s.number, off, err))
					return
				}
				if !yield(sdkRecord(r), nil) {
					return
				}
			}
		}
	}
}

func sdkRecord(r hbuf.Record) sdk.Record {
	rec := sdk.Record{Kind: r.Kind, Version: r.Version, Object: r.Object, Payload: r.Payload}
	if r.IsBulk() {
		rec.Bulk, rec.BulkOffset, rec.BulkLen = true, int64(r.Bulk), int64(r.Length)
	}
	return rec
}
