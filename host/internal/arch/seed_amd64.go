package arch

const (
	seedMachine = 62 // EM_X86_64
	seedSyscall = 5  // offset of the system call instruction
)

var seedCode = []byte{
	0xb8, 0x22, 0x00, 0x00, 0x00, // 0 mov eax, 34 pause
	0x0f, 0x05, //                   5 syscall
	0xeb, 0xf7, //                   7 jmp 0
}
