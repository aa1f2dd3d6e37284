/* The parts of taskstate.c; taskstate_dump.c has the functions. */
#ifndef TASKSTATE_H
#define TASKSTATE_H

#include <stdio.h>
#include <time.h>

enum { PENDING = 3 };

extern FILE *out;

void set_settings(void);
void set_altstack(void);
void set_limits(void);
void become_nobody(void);
void start_threads(void);
void note_timer(timer_t id, const char *name);

void dump_ids(void);
void dump_actions(void);
void dump_mask(const char *who);
void dump_timers(void);
void dump_limits(void);
void dump_credentials(void);
void dump_scheduling(void);
void dump_settings(void);
void dump_threads(void);
void dump_rseq(void);
void dump_pending(int final);

#endif
