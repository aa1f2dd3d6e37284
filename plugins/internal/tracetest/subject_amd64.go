package tracetest

import (
	"encoding/binary"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"
	"unsafe"
)

// The program of a subject: one segment, readable, writable and executable.
//
//	loadAddr            ELF header, program header, code
//	loadAddr + slotSize one slot per thread for the data of tapes
const (
	loadAddr   = 0x400000
	codeOffset = 64 + 56
	gadget     = loadAddr + codeOffset + 5 // the syscall instruction
	slotSize   = 4 << 20
	maxThreads = 16
)

// code is
//
//	mov  $34, %eax    // pause
//	syscall
//	jmp  -9
var code = []byte{0xb8, 34, 0, 0, 0, 0x0f, 0x05, 0xeb, 0xf7}

// program is a static ELF file of one segment (elf(5)).
func program() []byte {
	le := binary.LittleEndian
	b := make([]byte, codeOffset, codeOffset+len(code))
	copy(b, "\x7fELF\x02\x01\x01")
	le.PutUint16(b[16:], 2)  // ET_EXEC
	le.PutUint16(b[18:], 62) // EM_X86_64
	le.PutUint32(b[20:], 1)
	le.PutUint64(b[24:], loadAddr+codeOffset) // entry
	le.PutUint64(b[32:], 64)                  // program headers
	le.PutUint16(b[52:], 64)
	le.PutUint16(b[54:], 56)
	le.PutUint16(b[56:], 1)
	ph := b[64:]
	le.PutUint32(ph, 1)     // PT_LOAD
	le.PutUint32(ph[4:], 7) // rwx
	le.PutUint64(ph[16:], loadAddr)
	le.PutUint64(ph[24:], loadAddr)
	le.PutUint64(ph[32:], uint64(codeOffset+len(code)))
	le.PutUint64(ph[40:], (maxThreads+1)*slotSize)
	le.PutUint64(ph[48:], 0x1000)
	return append(b, code...)
}

// startProgram starts a process of the program.
func startProgram(t testing.TB) int {
	t.Helper()
	path := filepath.Join(t.TempDir(), "subject")
	// Were another test to fork while the file is open for writing, its child
	// would keep it open and this one could not be executed.
	syscall.ForkLock.Lock()
	err := os.WriteFile(path, program(), 0o755)
	syscall.ForkLock.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	handleIgnored()
	cmd := exec.Command(path)
	cmd.Env = []string{}
	if err := cmd.Start(); err != nil {
		t.Fatalf("start subject: %v", err)
	}
	pid := cmd.Process.Pid
	// It is the tracer that waits for it.
	if err := cmd.Process.Release(); err != nil {
		t.Fatal(err)
	}
	return pid
}

// handleIgnored makes handled what this process was started with ignored: a
// child inherits the latter but not the former, and starts with defaults. The
// runtime does not care for real-time signals: these get their default here.
func handleIgnored() {
	for sig := syscall.Signal(1); sig < 32; sig++ {
		if signal.Ignored(sig) {
			signal.Notify(make(chan os.Signal, 1), sig)
		}
	}
	const ignore = 1 // SIG_IGN
	for sig := uintptr(32); sig <= 64; sig++ {
		var action, initial [4]uint64 // struct kernel_sigaction: handler, flags, restorer, mask
		_, _, errno := syscall.RawSyscall6(syscall.SYS_RT_SIGACTION, sig, 0, uintptr(unsafe.Pointer(&action)), 8, 0, 0)
		if errno == 0 && action[0] == ignore {
			_, _, _ = syscall.RawSyscall6(syscall.SYS_RT_SIGACTION, sig, uintptr(unsafe.Pointer(&initial)), 0, 8, 0, 0)
		}
	}
}
