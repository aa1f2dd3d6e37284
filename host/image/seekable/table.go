package seekable

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// The table, all numbers little endian:
//
//	u32 0x184D2A5E  magic of a skippable frame
//	u32 size of what follows
//	    for every frame: u32 compressed size, u32 size of its content
//	u32 number of frames
//	u8  descriptor: 0, for no checksums beside those of the frames
//	u32 0x8F92EAB1
const (
	skippableMagic = 0x184D2A5E
	tableMagic     = 0x8F92EAB1
	tableHeader    = 8
	tableEntry     = 8
	tableFooter    = 9
)

// frameMagic begins every frame.
var frameMagic = []byte{0x28, 0xB5, 0x2F, 0xFD}

// frame is where one frame and its content are.
type frame struct {
	offset, size       int64 // in the file
	content, contained int64 // in the content
}

func encodeTable(frames []frame) []byte {
	size := len(frames)*tableEntry + tableFooter
	b := make([]byte, 0, tableHeader+size)
	b = binary.LittleEndian.AppendUint32(b, skippableMagic)
	b = binary.LittleEndian.AppendUint32(b, uint32(size))
	for _, f := range frames {
		b = binary.LittleEndian.AppendUint32(b, uint32(f.size))
		b = binary.LittleEndian.AppendUint32(b, uint32(f.contained))
	}
	b = binary.LittleEndian.AppendUint32(b, uint32(len(frames)))
	b = append(b, 0)
	return binary.LittleEndian.AppendUint32(b, tableMagic)
}

var errTable = errors.New("the table of frames is damaged or missing")

// readTable reads the table of a file. The frames fill the file up to the table.
func readTable(r io.ReaderAt, size int64) ([]frame, error) {
	footer := make([]byte, tableFooter)
	if size < tableHeader+tableFooter {
		return nil, errTable
	}
	if _, err := r.ReadAt(footer, size-tableFooter); err != nil {
		return nil, err
	}
	count := int64(binary.LittleEndian.Uint32(footer))
	length := tableHeader + count*tableEntry + tableFooter
	if binary.LittleEndian.Uint32(footer[5:]) != tableMagic || footer[4] != 0 || length > size {
		return nil, errTable
	}
	b := make([]byte, length)
	if _, err := r.ReadAt(b, size-length); err != nil {
		return nil, err
	}
	if binary.LittleEndian.Uint32(b) != skippableMagic || int64(binary.LittleEndian.Uint32(b[4:])) != length-tableHeader {
		return nil, errTable
	}
	frames := make([]frame, count)
	var at, content int64
	for i := range frames {
		e := b[tableHeader+i*tableEntry:]
		f := frame{at, int64(binary.LittleEndian.Uint32(e)), content, int64(binary.LittleEndian.Uint32(e[4:]))}
		if f.contained > maxContent {
			return nil, fmt.Errorf("a frame of %d bytes: %w", f.contained, errTable)
		}
		at += f.size
		content += f.contained
		frames[i] = f
	}
	if at != size-length {
		return nil, errTable
	}
	return frames, nil
}
