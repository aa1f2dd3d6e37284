package arch

import "fmt"

// CallBlockSize is the size of the block that [PlaceCall] needs for extended
// state of the given size, at any address.
func CallBlockSize(xstate int) int {
	return alignUp(maxEpilogue+16+frameSize(xstate), 64)
}

// PlaceCall fills block, which will lie at address addr of the task, and
// returns the registers with which the task executes one system call at the
// gadget in its vdso. If nobody intervenes, the task runs on through the
// gadget's epilogue and return to sigreturn, the address of code that calls
// rt_sigreturn, and from there back to orig with xstate and mask, with the
// restart of an interrupted system call prepared as by [Regs.Restored].
//
// The block must lie where no signal handler writes: below the red zone of the
// task's stack, with the handlers' frames below it.
//
//	addr ... words that the epilogue pops ... frame ... extended state
//	         ^ rsp = rbp                      ^ return address
func PlaceCall(block []byte, addr uint64, g Gadget, vdso, sigreturn uint64, orig Regs, xstate []byte, mask uint64, nr int, args [6]uint64) (Regs, error) {
	if g.Low > 0 || g.Ret < g.Low || g.Ret-g.Low > maxEpilogue {
		return Regs{}, fmt.Errorf("place call: gadget %+v uses too much stack", g)
	}
	frame := alignUp(addr+uint64(g.Ret-g.Low), 16)
	off := int(frame - addr)
	if off > len(block) {
		return Regs{}, fmt.Errorf("place call: block of %d bytes is too small", len(block))
	}
	clear(block[:off])
	if _, err := putFrame(block[off:], frame, sigreturn, orig.Restored(), xstate, mask); err != nil {
		return Regs{}, fmt.Errorf("place call: %w", err)
	}
	r := orig
	r.SetCall(vdso+g.Off, nr, args)
	r.Rsp = frame - uint64(g.Ret)
	r.Rbp = r.Rsp
	return r, nil
}
