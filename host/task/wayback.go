package task

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"sync"

	"github.com/firn-cr/firn/host/internal/arch"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/procfs"
)

const pageSize = 4096

// findWayBack looks a process over. threads are its stopped threads.
func findWayBack(p *Process, frameLen int) (*wayBack, error) {
	tid := p.Threads[0].TID
	maps, err := procfs.Maps(int(tid))
	if err != nil {
		return nil, err
	}
	mem, err := os.OpenFile(fmt.Sprintf("/proc/%d/mem", tid), os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	w := &wayBack{pid: p.PID, mem: mem}
	if err := w.find(p, maps, frameLen); err != nil {
		mem.Close()
		return nil, err
	}
	return w, nil
}

func (w *wayBack) find(p *Process, maps []procfs.Mapping, frameLen int) error {
	if err := w.findGadget(maps); err != nil {
		return err
	}
	if err := w.findRoom(p, maps, uint64(frameLen)); err != nil {
		return err
	}
	return w.findSigreturn(maps)
}

func (w *wayBack) findGadget(maps []procfs.Mapping) error {
	for _, m := range maps {
		if m.Path != "[vdso]" {
			continue
		}
		code := make([]byte, m.End-m.Start)
		if _, err := w.mem.ReadAt(code, int64(m.Start)); err != nil {
			return fmt.Errorf("read vdso: %w", err)
		}
		gadgets := arch.Gadgets(code)
		if len(gadgets) == 0 {
			return fmt.Errorf("no usable system call instruction in the vdso: %w", sdk.ErrKernel)
		}
		w.vdso, w.gadget = m.Start, gadgets[0]
		return nil
	}
	return fmt.Errorf("process %d has no vdso: %w", w.pid, sdk.ErrUnsupported)
}

// sigreturns caches where in a file's mapping the sequence is.
var sigreturns sync.Map // textKey -> int64 offset from the mapping's start, -1 if none

type textKey struct {
	dev, ino, off, len uint64
}

// findSigreturn looks for the sequence in mappings of files: the C library has
// it as the restorer of every signal handler, Go's runtime likewise.
func (w *wayBack) findSigreturn(maps []procfs.Mapping) error {
	for _, m := range maps {
		if m.Ino == 0 || len(m.Perm) < 3 || m.Perm[0] != 'r' || m.Perm[2] != 'x' {
			continue
		}
		off, err := w.searchText(m)
		if err != nil {
			return err
		}
		if off >= 0 {
			w.sigreturn = m.Start + uint64(off)
			return w.confirm()
		}
	}
	return w.patchSigreturn(maps)
}

func (w *wayBack) searchText(m procfs.Mapping) (int64, error) {
	key := textKey{m.Dev, m.Ino, m.Offset, m.End - m.Start}
	if v, ok := sigreturns.Load(key); ok {
		return v.(int64), nil
	}
	const window = 64 << 10
	need := len(arch.SigreturnCode())
	buf := make([]byte, window+need)
	for at := m.Start; at < m.End; at += window {
		n := min(uint64(len(buf)), m.End-at)
		if _, err := w.mem.ReadAt(buf[:n], int64(at)); err != nil {
			return -1, nil // beyond the end of the file: nothing to find there
		}
		if i := arch.FindSigreturn(buf[:n]); i >= 0 {
			off := int64(at-m.Start) + int64(i)
			sigreturns.Store(key, off)
			return off, nil
		}
	}
	sigreturns.Store(key, int64(-1))
	return -1, nil
}

// confirm reads the sequence in this very process: the cache may be about a
// file that was written to since.
func (w *wayBack) confirm() error {
	code := make([]byte, 16)
	if _, err := w.mem.ReadAt(code, int64(w.sigreturn)); err != nil {
		return fmt.Errorf("read text: %w", err)
	}
	if arch.FindSigreturn(code) != 0 {
		return fmt.Errorf("text of process %d changed while it was read: %w", w.pid, sdk.ErrUnsupported)
	}
	return nil
}

// patchSigreturn serves programs that have no such sequence (some written in
// assembly): it is put into the zero padding behind the program's text, whose
// page the kernel copies for this process. Nothing executes or reads it, and
// it is taken out again.
func (w *wayBack) patchSigreturn(maps []procfs.Mapping) error {
	code := arch.SigreturnCode()
	for _, m := range maps {
		if m.Ino == 0 || len(m.Perm) < 4 || m.Perm[0] != 'r' || m.Perm[2] != 'x' || m.Perm[3] != 'p' {
			continue
		}
		tail := make([]byte, 4*len(code))
		at := m.End - uint64(len(tail))
		if _, err := w.mem.ReadAt(tail, int64(at)); err != nil || !zero(tail) {
			continue
		}
		at = m.End - uint64(len(code))
		if _, err := w.mem.WriteAt(code, int64(at)); err != nil {
			return fmt.Errorf("write into the padding of the text: %w", err)
		}
		w.sigreturn, w.patched = at, make([]byte, len(code))
		return nil
	}
	return fmt.Errorf("process %d has neither a signal return nor padding for one in its text: %w", w.pid, sdk.ErrUnsupported)
}

func zero(b []byte) bool { return len(bytes.Trim(b, "\x00")) == 0 }

// findRoom finds memory for a frame that cannot be in use: pages at the low
// end of the main stack that were never touched, or the part of that stack
// below the stack pointer and its red zone. The stack of any other thread will
// not do: a goroutine's lies in the heap, with other objects right below it.
func (w *wayBack) findRoom(p *Process, maps []procfs.Mapping, need uint64) error {
	need = (need + pageSize - 1) &^ (pageSize - 1)
	for _, m := range maps {
		if m.Path != "[stack]" || m.End-m.Start < need {
			continue
		}
		low := sdk.AddrRange{Start: m.Start, End: m.Start + need}
		free, err := w.isUnused(p.Threads[0].TID, low, m.End)
		if err != nil {
			return err
		}
		if free || w.isBelow(p, m, low.End) {
			w.room = low
			return nil
		}
	}
	return fmt.Errorf("no unused memory for a frame in the stack of process %d: %w", w.pid, sdk.ErrUnsupported)
}

// redZone is memory below the stack pointer that a function may use without
// moving it (System V ABI, 128 bytes on x86-64); the rest is margin.
const redZone = 512

// isBelow tells whether the main thread's own stack pointer is in the mapping
// and the memory up to end lies below everything it uses. A thread that runs
// on another stack at the moment (an alternate signal stack, a coroutine) may
// have left frames anywhere.
func (w *wayBack) isBelow(p *Process, m procfs.Mapping, end uint64) bool {
	main := p.Threads[0]
	if main.TID != p.PID {
		return false
	}
	sp := main.Regs.SP()
	return sp > m.Start && sp <= m.End && end+redZone <= sp
}

// isUnused tells whether a range at the low end of a stack was never touched.
// A range that an earlier checkpoint used holds zeros, and above it the stack
// was never touched.
func (w *wayBack) isUnused(tid HostPID, low sdk.AddrRange, end uint64) (bool, error) {
	if ok, err := neverTouched(tid, low); ok || err != nil {
		return ok, err
	}
	const above = 8 * pageSize
	if low.End+above > end {
		return false, nil
	}
	if ok, err := neverTouched(tid, sdk.AddrRange{Start: low.End, End: low.End + above}); !ok || err != nil {
		return false, err
	}
	content := make([]byte, low.Len())
	if _, err := w.mem.ReadAt(content, int64(low.Start)); err != nil {
		return false, fmt.Errorf("read stack: %w", err)
	}
	return zero(content), nil
}

// neverTouched asks pagemap (proc_pid_pagemap(5)) whether no page of the range
// was ever present or swapped.
func neverTouched(tid HostPID, r sdk.AddrRange) (bool, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/pagemap", tid))
	if err != nil {
		return false, err
	}
	defer f.Close()
	entries := make([]byte, 8*r.Len()/pageSize)
	if _, err := f.ReadAt(entries, int64(r.Start/pageSize*8)); err != nil {
		return false, fmt.Errorf("read pagemap: %w", err)
	}
	const presentOrSwapped = 3 << 62
	for i := 0; i < len(entries); i += 8 {
		if binary.LittleEndian.Uint64(entries[i:])&presentOrSwapped != 0 {
			return false, nil
		}
	}
	return true, nil
}
