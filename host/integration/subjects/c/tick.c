/*
 * The smallest subject: it ticks. With -DBUILD=N the program file differs,
 * which is how the tests replace a program under an image.
 */
#include "subject.h"

#ifndef BUILD
#define BUILD 0
#endif

const volatile int build = BUILD;

int main(void)
{
	subject_open();
	say("ready");
	for (long n = 0;; n++) {
		say("tick %ld", n);
		pause_ms(10);
		if (asked("break"))
			bad("asked to break, build %d", build);
	}
}
