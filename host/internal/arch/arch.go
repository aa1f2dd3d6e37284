// Package arch holds everything that depends on the processor: registers and
// extended state, the restart of interrupted system calls, the machine code
// that Firn places in a task, and the frames that lead the task back to its own
// work when nobody is left to do it.
//
// Files without a suffix are the same everywhere; the others come in pairs
// (NAME_amd64.go, NAME_arm64.go). The functions that call ptrace must be called
// on the thread that traces the task.
//
// # How a task finds back by itself
//
// Whatever is placed in a task during a checkpoint ends in rt_sigreturn with a
// frame that holds the task's registers, extended state and signal mask. If the
// host is alive, it stops the task before that and puts the registers back
// itself; if it died, the kernel does the same from the frame.
package arch

// Gadget is a system call instruction in code that the task has anyway (the
// vdso), together with what follows it up to a return. See [Gadgets].
type Gadget struct {
	// Off is the offset of the instruction in the image.
	Off uint64
	// Ret is the distance from the stack pointer at the instruction to the
	// word that the return takes its address from.
	Ret int64
	// Low is the distance to the lowest word that is read on the way there;
	// it is 0 or negative.
	Low int64
}

// maxEpilogue bounds the stack range of a gadget in bytes: others are not used.
const maxEpilogue = 512

func alignUp[T ~int | ~uint64](v, to T) T { return (v + to - 1) / to * to }
