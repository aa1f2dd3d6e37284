/*
 * A process that cannot be stopped, for it waits for its vfork child; and some
 * children of it that can. Prints the number of the vfork child's process.
 */
#include <stdio.h>
#include <sys/types.h>
#include <unistd.h>

int main(void)
{
	for (int i = 0; i < 6; i++)
		if (fork() == 0)
			for (;;)
				pause();
	if (vfork() == 0) {
		char line[32];
		int n = snprintf(line, sizeof line, "%d\n", (int)getpid());
		if (write(1, line, n) != n)
			_exit(1);
		for (;;)
			pause();
	}
	for (;;)
		pause();
}
