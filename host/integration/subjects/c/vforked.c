/*
 * A process that waits for its vfork child, which waits for a file. The parent
 * cannot be stopped before.
 */
#include "subject.h"

int main(void)
{
	subject_open();
	say("ready");
	pid_t pid = vfork();
	if (pid == 0) {
		for (long n = 0; !asked("leave"); n++) {
			say("tick %ld", n);
			pause_ms(10);
		}
		_exit(9);
	}
	int status;
	if (waitpid(pid, &status, 0) != pid || status != 9 << 8)
		bad("the child ended with status %x", status);
	say("left");
	return 0;
}
