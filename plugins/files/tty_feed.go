package files

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/files/filespb"
)

// Special characters while canonical input is written: the next one is taken as
// it is (Ctrl-V), the input so far is a line (Ctrl-D).
const (
	quoteChar = 0x16
	eofChar   = 0x04
)

// feedTime bounds waiting for a terminal to take what is written to it.
const feedTime = 10 * time.Second

// feedInput puts input into the queue of a slave, which is empty. The mode of
// the terminal is not what it shall be afterwards. slave must not block.
func feedInput(master, slave int, m *filespb.Pty) error {
	if len(m.GetLines())+len(m.GetInput()) == 0 {
		return nil
	}
	if m.GetTermios().GetLflag()&unix.ICANON == 0 {
		return feedRaw(master, slave, m)
	}
	mode := neutral(m.GetTermios(), unix.ICANON|unix.IEXTEN)
	mode.Cc[unix.VLNEXT], mode.Cc[unix.VEOF] = quoteChar, eofChar
	mode.Cc[unix.VSTOP], mode.Cc[unix.VSTART] = stopChar, startChar
	if err := setMode(master, mode); err != nil {
		return err
	}
	if err := writeAll(master, []byte{stopChar}); err != nil {
		return err
	}
	pollEvents(slave, unix.POLLIN) // waits until the character has arrived
	var text []byte
	quote := func(b []byte) {
		for _, c := range b {
			text = append(text, quoteChar, c)
		}
	}
	for _, l := range m.GetLines() {
		if l.GetEof() || len(l.GetText()) == 0 {
			quote(l.GetText())
			text = append(text, eofChar)
			continue
		}
		end := len(l.GetText()) - 1
		quote(l.GetText()[:end])
		text = append(text, l.GetText()[end])
	}
	quote(m.GetInput())
	if err := writeAll(master, append(text, startChar)); err != nil {
		return err
	}
	// Started output is writable: then everything before has arrived.
	return waitEvents(slave, unix.POLLOUT)
}

// feedRaw puts input into the queue of a slave without canonical mode.
func feedRaw(master, slave int, m *filespb.Pty) error {
	mode := neutral(m.GetTermios(), 0)
	mode.Iflag = 0
	if err := setMode(master, mode); err != nil {
		return err
	}
	if err := writeAll(master, m.GetInput()); err != nil {
		return err
	}
	for end := time.Now().Add(feedTime); ; time.Sleep(100 * time.Microsecond) {
		n, err := unix.IoctlGetInt(slave, unix.TIOCINQ)
		if err != nil {
			return fmt.Errorf("FIONREAD: %w", err)
		}
		if n == len(m.GetInput()) {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("%d of %d bytes of input have arrived: %w", n, len(m.GetInput()), unix.ETIMEDOUT)
		}
	}
}

// refillInput replaces what waits to be read on a slave by the input of a
// record, of a terminal that has the mode of the record.
func refillInput(master, slave int, m *filespb.Pty) error {
	if m.GetLocked() {
		if err := unix.IoctlSetPointerInt(master, unix.TIOCSPTLCK, 0); err != nil {
			return err
		}
		defer func() { _ = unix.IoctlSetPointerInt(master, unix.TIOCSPTLCK, 1) }()
	}
	peer, err := openPeer(master, unix.O_RDWR)
	if err != nil {
		return err
	}
	defer unix.Close(peer)
	if m.GetPacket() {
		if err := unix.IoctlSetPointerInt(master, unix.TIOCPKT, 0); err != nil {
			return err
		}
		defer func() { _ = unix.IoctlSetPointerInt(master, unix.TIOCPKT, 1) }()
	}
	err = setMode(master, neutral(m.GetTermios(), 0))
	for buf := make([]byte, readSize); err == nil; {
		var n int
		if n, err = unix.Read(peer, buf); n == 0 {
			break
		}
	}
	if errors.Is(err, unix.EAGAIN) {
		err = feedInput(master, peer, m)
	}
	return errors.Join(err, setMode(master, termios(m.GetTermios())))
}

// feedOutput puts output into the queue of a master, which is empty. The mode
// of the terminal must not change it.
func feedOutput(slave int, m *filespb.Pty) error { return writeAll(slave, m.GetOutput()) }

func setMode(fd int, t *unix.Termios) error {
	if err := unix.IoctlSetTermios(fd, unix.TCSETS2, t); err != nil {
		return fmt.Errorf("TCSETS2: %w", err)
	}
	return nil
}

// writeAll writes to an end of a terminal, which may block or not.
func writeAll(fd int, b []byte) error {
	for len(b) > 0 {
		if err := waitEvents(fd, unix.POLLOUT); err != nil {
			return err
		}
		n, err := unix.Write(fd, b[:min(len(b), 256)])
		if err != nil && !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("write: %w", err)
		}
		b = b[max(n, 0):]
	}
	return nil
}

// waitEvents waits until a terminal has an event.
func waitEvents(fd int, events int16) error {
	p := []unix.PollFd{{Fd: int32(fd), Events: events}}
	for end := time.Now().Add(feedTime); ; {
		n, err := unix.Poll(p, int(time.Until(end).Milliseconds()))
		switch {
		case err != nil && !errors.Is(err, unix.EINTR):
			return fmt.Errorf("poll: %w", err)
		case n > 0 && p[0].Revents&events != 0:
			return nil
		case n > 0 || time.Now().After(end):
			return fmt.Errorf("the terminal does not take what is written to it: %w", unix.ETIMEDOUT)
		}
	}
}
