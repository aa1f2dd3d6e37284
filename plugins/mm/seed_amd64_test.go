package mm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/tape"
)

// seed is a task in which tapes are run, call by call, under ptrace: a slow
// stand-in for the host's. One goroutine with a thread of its own traces.
type seed struct {
	pid      int
	reserved sdk.AddrRange
	work     chan func()
	mem      *os.File
	files    int // descriptors that are open
	once     sync.Once
}

// Numbers of the descriptors that a seed is started with.
const (
	seedImageFD  = 3
	seedPluginFD = 4
)

// seedReserved is the range that belongs to the seed's tracer: one page of
// code, and behind it the data of tapes.
var seedReserved = sdk.AddrRange{Start: 0x10_0000_0000, End: 0x10_0000_0000 + tape.MaxData + 8192}

// seedProgram is an ELF file whose code is one system call.
func seedProgram() []byte {
	le := binary.LittleEndian
	b := make([]byte, 64+56)
	copy(b, "\x7fELF\x02\x01\x01")
	le.PutUint16(b[16:], 2)              // ET_EXEC
	le.PutUint16(b[18:], 62)             // EM_X86_64
	le.PutUint32(b[20:], 1)              // version
	le.PutUint64(b[24:], 0x400000+64+56) // entry
	le.PutUint64(b[32:], 64)
	le.PutUint16(b[52:], 64)
	le.PutUint16(b[54:], 56)
	le.PutUint16(b[56:], 1)
	le.PutUint32(b[64:], 1) // PT_LOAD
	le.PutUint32(b[68:], 5) // r-x
	le.PutUint64(b[80:], 0x400000)
	le.PutUint64(b[88:], 0x400000)
	le.PutUint64(b[96:], uint64(len(b)+4))
	le.PutUint64(b[104:], uint64(len(b)+4))
	le.PutUint64(b[112:], 4096)
	return append(b, 0x0f, 0x05, 0xeb, 0xfc) // syscall; jmp back
}

// startSeed starts a seed with the image as a descriptor.
func startSeed(t testing.TB, image *os.File) *seed {
	t.Helper()
	path := filepath.Join(t.TempDir(), "seed")
	if err := os.WriteFile(path, seedProgram(), 0o700); err != nil {
		t.Fatal(err)
	}
	s := &seed{reserved: seedReserved, work: make(chan func())}
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		started <- s.start(path, image)
		for f := range s.work {
			f()
		}
	}()
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	s.files = openFiles(t, s.pid)
	t.Cleanup(s.end)
	return s
}

// end kills the seed, once.
func (s *seed) end() {
	s.once.Do(func() {
		s.do(func() {
			_ = unix.Kill(s.pid, unix.SIGKILL)
			_, _ = unix.Wait4(s.pid, nil, unix.WALL, nil)
		})
		close(s.work)
		s.mem.Close()
	})
}

// do runs f on the tracer's thread.
func (s *seed) do(f func()) {
	done := make(chan struct{})
	s.work <- func() { defer close(done); f() }
	<-done
}

func (s *seed) start(path string, image *os.File) error {
	self, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		return err
	}
	plugin := os.NewFile(uintptr(self), "plugin")
	defer plugin.Close()
	cmd := exec.Command(path)
	cmd.ExtraFiles = []*os.File{image, plugin}
	cmd.SysProcAttr = &syscall.SysProcAttr{Ptrace: true, Pdeathsig: unix.SIGKILL}
	if err := cmd.Start(); err != nil {
		return err
	}
	s.pid = cmd.Process.Pid
	if err := s.await(); err != nil {
		return err
	}
	if err := unix.PtraceSetOptions(s.pid, unix.PTRACE_O_EXITKILL|unix.PTRACE_O_TRACESYSGOOD); err != nil {
		return err
	}
	if s.mem, err = os.OpenFile(fmt.Sprintf("/proc/%d/mem", s.pid), os.O_RDWR, 0); err != nil {
		return err
	}
	at, err := s.call(0x400000+64+56, unix.SYS_MMAP, [6]uint64{s.reserved.Start, s.reserved.Len(),
		unix.PROT_READ | unix.PROT_WRITE | unix.PROT_EXEC, unix.MAP_SHARED | unix.MAP_ANONYMOUS | unix.MAP_FIXED, ^uint64(0), 0})
	if err != nil || at != int64(s.reserved.Start) {
		return fmt.Errorf("map the range of the tracer: %x: %w", at, err)
	}
	_, err = s.mem.WriteAt([]byte{0x0f, 0x05}, int64(s.reserved.Start))
	return err
}

func (s *seed) await() error {
	var ws unix.WaitStatus
	if _, err := unix.Wait4(s.pid, &ws, unix.WALL, nil); err != nil {
		return err
	}
	if !ws.Stopped() {
		return fmt.Errorf("seed ended: %x", uint32(ws))
	}
	return nil
}

// call makes one system call in the seed; the instruction is at gadget.
func (s *seed) call(gadget uint64, nr int, args [6]uint64) (int64, error) {
	var regs unix.PtraceRegs
	if err := unix.PtraceGetRegs(s.pid, &regs); err != nil {
		return 0, err
	}
	regs.Rip, regs.Rax, regs.Orig_rax = gadget, uint64(nr), ^uint64(0)
	regs.Rdi, regs.Rsi, regs.Rdx, regs.R10, regs.R8, regs.R9 = args[0], args[1], args[2], args[3], args[4], args[5]
	if err := unix.PtraceSetRegs(s.pid, &regs); err != nil {
		return 0, err
	}
	for range 2 { // into the call and out of it
		if err := unix.PtraceSyscall(s.pid, 0); err != nil {
			return 0, err
		}
		if err := s.await(); err != nil {
			return 0, err
		}
	}
	err := unix.PtraceGetRegs(s.pid, &regs)
	return int64(regs.Rax), err
}

// run runs a tape. Use it as sdktest.Host.Tapes.
func (s *seed) run(t *tape.Tape) (o tape.Outcome) {
	s.do(func() { o = s.runHere(t) })
	return o
}

func (s *seed) runHere(t *tape.Tape) (o tape.Outcome) {
	data := s.reserved.Start + 4096
	if _, err := s.mem.WriteAt(t.Data, int64(data)); err != nil {
		o.Err = err
		return o
	}
	for i, c := range t.Calls {
		var args [6]uint64
		for n, a := range c.Args {
			switch a.Kind {
			case tape.ArgData:
				args[n] = data + a.Value
			case tape.ArgResult:
				args[n] = uint64(o.Results[a.Value])
			default:
				args[n] = a.Value
			}
		}
		ret, err := s.call(s.reserved.Start, c.Nr, args)
		if err != nil {
			o.Err = errors.Join(errors.New("ptrace"), err)
			return o
		}
		o.Results = append(o.Results, ret)
		if ret < 0 && ret >= -4095 && !c.AllowError {
			o.Err = &tape.CallError{Index: i, Nr: c.Nr, Errno: syscall.Errno(-ret)}
			return o
		}
	}
	o.Data = make([]byte, len(t.Data))
	if _, err := s.mem.ReadAt(o.Data, int64(data)); err != nil {
		o.Err = err
	}
	return o
}
