package files

import (
	"bytes"
	"encoding/binary"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/files/filespb"
	"github.com/firn-cr/firn/sdk/tape"
)

// How often a queue is read until it must be empty, and how much at a time. A
// pseudo-terminal holds some 16 KiB in each direction: 4095 bytes in the line
// discipline, and what is on its way to it (pty_common_install, pty.c).
const (
	outputReads = 24
	inputReads  = 3
	readSize    = 4096
)

// rawLimit is how much input may wait to be read without canonical mode: less
// than the largest VMIN.
const rawLimit = 254

// Characters that stop and start output while input is put back: bytes that
// occur in no UTF-8.
const (
	stopChar  = 0xff
	startChar = 0xfe
)

// queueTape takes everything out of the two queues of a pseudo-terminal and
// puts it back. It has no branches, and what it reads is known only after it
// has run; so that nothing is lost if the host dies meanwhile, it is one tape
// that does both, small enough to run in one piece:
//
//	open the slave; do not block; no packet mode
//	read the master until it is empty, and then, without canonical mode, the slave
//	set the mode that the input is in, but no echo, no signals, no special characters
//	write the input; wait until it has arrived, which a thread of the kernel sees to
//	write the output
//	put back the modes and flags; close
//
// A write of what a read that failed has got fails, too.
type queueTape struct {
	tape          tape.Tape
	peer          tape.Result
	writable      tape.Result
	output, input reads
}

// reads are the reads of one queue.
type reads struct {
	results []tape.Result
	buffers []tape.Ref
}

// read returns what was read, and whether the queue was empty afterwards.
func (r *reads) read(out *tape.Outcome) (data []byte, empty bool) {
	for i, res := range r.results {
		n, err := out.Value(res)
		if err != nil || n == 0 {
			return data, true
		}
		data = append(data, out.Bytes(r.buffers[i])[:min(n, readSize)]...)
	}
	return data, false
}

// newQueueTape makes the tape for a process that has the master as descriptor
// master, and in which the next file to be opened gets the number peer.
func newQueueTape(t *terminal, master, peer int, q queues) *queueTape {
	qt := &queueTape{}
	m := t.pty
	tp := &qt.tape
	ioctl := func(fd, request, arg tape.Arg) { tp.Try(unix.SYS_IOCTL, fd, request, arg) }
	set := func(t *unix.Termios) {
		ioctl(tape.Imm(master), tape.Imm(unix.TCSETS2), tp.Bytes(termiosBytes(t)).Arg())
	}
	number := func(v uint32) tape.Arg { return tp.Bytes(binary.NativeEndian.AppendUint32(nil, v)).Arg() }
	flags := t.master.file().Flags

	if m.GetLocked() {
		ioctl(tape.Imm(master), tape.Imm(unix.TIOCSPTLCK), number(0))
	}
	qt.peer = tp.Call(unix.SYS_IOCTL, tape.Imm(master), tape.Imm(unix.TIOCGPTPEER),
		tape.Imm(unix.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC))
	tp.Try(unix.SYS_FCNTL, tape.Imm(master), tape.Imm(unix.F_SETFL), tape.Imm(flags|unix.O_NONBLOCK))
	if m.GetPacket() {
		ioctl(tape.Imm(master), tape.Imm(unix.TIOCPKT), number(0))
	}
	qt.output = readQueue(tp, tape.Imm(master), outputReads)
	qt.writable = qt.poll(peer, unix.POLLOUT, 0)
	if !q.writable {
		// Full or stopped, by a character or by tcflow(3): this starts both.
		ioctl(qt.peer.Arg(), tape.Imm(unix.TCXONC), tape.Imm(unix.TCOOFF))
		ioctl(qt.peer.Arg(), tape.Imm(unix.TCXONC), tape.Imm(unix.TCOON))
	}
	set(neutral(m.GetTermios(), 0))
	qt.input = readQueue(tp, qt.peer.Arg(), inputReads)

	qt.putBackInput(master, peer, m, q, set)
	qt.output.writeTo(tp, qt.peer.Arg())

	set(termios(m.GetTermios()))
	if m.GetPacket() {
		ioctl(tape.Imm(master), tape.Imm(unix.TIOCPKT), number(1))
	}
	tp.Try(unix.SYS_FCNTL, tape.Imm(master), tape.Imm(unix.F_SETFL), tape.Imm(flags))
	tp.Try(unix.SYS_CLOSE, qt.peer.Arg())
	if m.GetLocked() {
		ioctl(tape.Imm(master), tape.Imm(unix.TIOCSPTLCK), number(1))
	}
	return qt
}

// putBackInput writes the input and waits until it has arrived at the line
// discipline: only then the mode may change. A poll waits for that by itself,
// but only where it finds nothing to read (n_tty_poll). So what is not in lines
// must be less than VMIN. Lines are to be read at once; a character in front of
// them stops output, one behind starts it again, and that can be waited for.
func (qt *queueTape) putBackInput(master, peer int, m *filespb.Pty, q queues, set func(*unix.Termios)) {
	mode := neutral(m.GetTermios(), m.GetTermios().GetLflag()&unix.ICANON)
	mode.Cc[unix.VMIN] = rawLimit + 1
	if !q.lines {
		set(mode)
		qt.input.writeTo(&qt.tape, tape.Imm(master))
		qt.poll(peer, unix.POLLIN, 0)
		return
	}
	mode.Cc[unix.VSTOP], mode.Cc[unix.VSTART] = stopChar, startChar
	set(mode)
	signal := func(c byte) {
		qt.tape.Try(unix.SYS_WRITE, tape.Imm(master), qt.tape.Bytes([]byte{c}).Arg(), tape.Imm(1))
	}
	signal(stopChar)
	qt.poll(peer, unix.POLLIN, 0)
	qt.input.writeTo(&qt.tape, tape.Imm(master))
	signal(startChar)
	qt.poll(peer, unix.POLLOUT, arrivalTime)
}

// arrivalTime bounds the wait for the kernel's own thread that brings input to
// the line discipline.
const arrivalTime = 3 // seconds

func (qt *queueTape) run(tid int) []tape.Run { return []tape.Run{{TID: tid, Tape: &qt.tape}} }

// poll waits for an event of a descriptor: ppoll(2), which leaves the restart
// block alone.
func (qt *queueTape) poll(fd int, events int16, seconds int64) tape.Result {
	p := unix.PollFd{Fd: int32(fd), Events: events}
	fds := qt.tape.Bytes(bytesOf(&p))
	limit := unix.Timespec{Sec: seconds}
	return qt.tape.Try(unix.SYS_PPOLL, fds.Arg(), tape.Imm(1), qt.tape.Bytes(bytesOf(&limit)).Arg(), tape.Imm(0), tape.Imm(8))
}

func readQueue(tp *tape.Tape, fd tape.Arg, times int) reads {
	var r reads
	for range times {
		b := tp.Buffer(readSize)
		r.buffers = append(r.buffers, b)
		r.results = append(r.results, tp.Try(unix.SYS_READ, fd, b.Arg(), tape.Imm(readSize)))
	}
	return r
}

func (r *reads) writeTo(tp *tape.Tape, fd tape.Arg) {
	for i, n := range r.results {
		tp.Try(unix.SYS_WRITE, fd, r.buffers[i].Arg(), n.Arg())
	}
}

// neutral is a mode in which a terminal takes input as it is, with ICANON in
// lflag but for what ends lines, and passes output on as it is.
//
// IXON is set whatever it was: the kernel starts stopped output when it is taken
// away.
func neutral(m *filespb.Termios, lflag uint32) *unix.Termios {
	t := termios(m)
	t.Iflag, t.Oflag, t.Lflag = unix.IXON, 0, lflag
	clear(t.Cc[:])
	t.Cc[unix.VMIN] = 1
	if lflag&unix.ICANON != 0 {
		t.Cc[unix.VEOL], t.Cc[unix.VEOL2] = m.GetCc()[unix.VEOL], m.GetCc()[unix.VEOL2]
	}
	return t
}

// putBackExactly tells whether the tape has put back the input as it was: it
// knows neither VEOF nor the quoting of characters.
func putBackExactly(m *filespb.Pty) bool {
	if m.GetTermios().GetLflag()&unix.ICANON == 0 {
		return true
	}
	ends := func(c byte) bool { return endsLine(m.GetTermios(), c) }
	ours := func(text []byte) bool {
		return slices.Contains(text, stopChar) || slices.Contains(text, startChar)
	}
	for _, l := range m.GetLines() {
		text := l.GetText()
		if l.GetEof() || ours(text) || slices.IndexFunc(text, ends) != len(text)-1 {
			return false
		}
	}
	return !ours(m.GetInput()) && !slices.ContainsFunc(m.GetInput(), ends)
}

func termiosBytes(t *unix.Termios) []byte { return bytesOf(t) }

// bytesOf is the memory of a structure that the kernel reads.
func bytesOf[T any](v *T) []byte {
	return bytes.Clone(unsafe.Slice((*byte)(unsafe.Pointer(v)), unsafe.Sizeof(*v)))
}
