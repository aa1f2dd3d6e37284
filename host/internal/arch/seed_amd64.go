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

var initCode = []byte{
	0x48, 0x89, 0xe7, //             00 mov rdi, rsp
	0xbe, 0x01, 0x00, 0x00, 0x00, // 03 mov esi, 1
	0x31, 0xd2, //                   08 xor edx, edx      no timeout
	0x45, 0x31, 0xd2, //             0a xor r10d, r10d    no signal mask
	0xb8, 0x0f, 0x01, 0x00, 0x00, // 0d mov eax, 271      ppoll
	0x0f, 0x05, //                   12 syscall
	0x83, 0xf8, 0x01, //             14 cmp eax, 1
	0x75, 0xe7, //                   17 jne 00            interrupted
	0x31, 0xff, //                   19 xor edi, edi
	0xb8, 0xe7, 0x00, 0x00, 0x00, // 1b mov eax, 231      exit_group
	0x0f, 0x05, //                   20 syscall
}
