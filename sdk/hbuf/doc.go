// Package hbuf carries records from a plugin to the host.
//
// A plugin reserves a buffer ([Producer.Get], [Producer.GetBulk]), fills it
// and commits it ([Buf.Commit]); from then on it belongs to the host, which
// writes it at once or keeps a reference and writes it after the frozen tree
// runs again ([WriteThrough], [Deferred]). A buffer that is not wanted is
// dropped ([Buf.Put]).
//
// # Records
//
// A record is a header of 64 bytes, its payload, and zeros up to a multiple of
// 64 bytes; a sequence of records is a packed segment. The same bytes travel
// through the arena, in a message of the control protocol and into the image.
// All numbers are little endian.
//
//	 0 u32 magic "FREC"      4 u16 header version (1)   6 u16 flags
//	 8 u32 kind             12 u16 record version      14 u16 zero
//	16 u64 object
//	24 u64 length of the payload
//	32 u32 CRC32C of the payload                       36 u32 zero
//	40 u64 sequence number
//	48 u64 bulk reference
//	56 u32 zero             60 u32 CRC32C of the bytes 0 to 59
//
// Flag 1 marks a bulk record: its payload lies elsewhere, and only its header
// is in the segment. The bulk reference is the offset of the payload: in the
// arena until the host wrote it, in the image from then on. Flag 2 (only in an
// arena) says that the payload has no checksum yet; the host computes it when
// it writes the payload, which may be after the thaw.
//
// Sequence numbers count the records of one producer from 0. They are given
// when a record is committed, in the order in which commits take the
// producer's lock, and that is the order of the records in packed segments.
// So there is no gap and no reordering in what arrives, however many
// goroutines commit; the records of one goroutine keep their order.
//
// # Arena
//
// The arena is a memfd that the host creates and seals against every change of
// its size ([NewConsumer]) and that the plugin inherits ([Attach]) with two
// eventfds. It is divided into segments. The first ones are the control area:
//
//	   0 u64 submissions: number of entries that the plugin published
//	  64 u64 wanted: length of a run of segments that the plugin lacks, and
//	       the completions that it had seen by then << 32
//	 128 u64 barrier: submissions that the plugin wants to be written
//	 192 u64 plugin sleeps on the completion eventfd
//	4096 u64 completions: number of entries that the host published
//	4160 u64 accepted: number of submissions that the host took over
//	4224 u64 written: number of submissions that the host wrote
//	4288 u64 host sleeps on the submission eventfd
//	4352 u64 state: 0 open, 1 closed
//	8192 submission ring, then completion ring: u64 entries
//
// A ring has as many entries as the arena has segments, rounded up to a power
// of two, and cannot overflow because every entry moves the ownership of at
// least one segment. An entry of the submission ring is a packed segment
// (first segment | length in bytes << 32); with it go the runs of segments
// that its bulk records refer to. An entry of the completion ring gives
// segments to the plugin (first segment | number of segments << 32).
//
// # Trust
//
// The plugin can change every byte of the arena at any time. So the host keeps
// the owner and the reference count of every segment, and its own positions in
// the rings, in private memory; it copies a packed segment before it looks at
// it; and it never reads back what only it may write. An index, length,
// reference, checksum or sequence number that is wrong is [ErrProtocol] and
// ends the session. Bulk payloads are not copied and may change until they are
// written: whoever changes them damages the payload and nothing else.
//
// # Locks
//
// Consumer: acceptMu, then writeMu, then mu. The [Sink] is called with writeMu
// held. Producer: mu only; nothing blocks under it.
package hbuf
