/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Binds what is sent to other machines to functions that any C library has. The compiler reads this
 * file first.
 *
 * A library names the version of each function of glibc that it was linked with. glibc 2.34 gave
 * new versions to the functions of libpthread and librt, because they moved to libc, and 2.38 to
 * sscanf and strtol. The functions are the same. Without this file no older glibc would load the
 * library. musl (ldso/dynlink.c) ignores versions, and looks for the names alone.
 */
#ifndef KICKBENCH_ARCH_LIBC_H
#define KICKBENCH_ARCH_LIBC_H

#include <features.h>

#ifdef __GLIBC__
#ifdef __x86_64__
#define KB_FIRST       "GLIBC_2.2.5"
#define KB_FIRST_TIMER "GLIBC_2.3.3"
#define KB_FIRST_ISO   "GLIBC_2.7"
#else
#define KB_FIRST       "GLIBC_2.17"
#define KB_FIRST_TIMER "GLIBC_2.17"
#define KB_FIRST_ISO   "GLIBC_2.17"
#endif
#define KB_BIND(name, to, version) __asm__(".symver " #name "," #to "@" version)

/* The assembler ignores names that the file does not use. */
KB_BIND(pthread_create, pthread_create, KB_FIRST);
KB_BIND(pthread_join, pthread_join, KB_FIRST);
KB_BIND(pthread_kill, pthread_kill, KB_FIRST);
KB_BIND(pthread_sigmask, pthread_sigmask, KB_FIRST);
KB_BIND(pthread_attr_setstacksize, pthread_attr_setstacksize, KB_FIRST);
KB_BIND(pthread_getcpuclockid, pthread_getcpuclockid, KB_FIRST);
KB_BIND(timer_create, timer_create, KB_FIRST_TIMER);
KB_BIND(timer_delete, timer_delete, KB_FIRST_TIMER);
KB_BIND(timer_settime, timer_settime, KB_FIRST_TIMER);
KB_BIND(__isoc23_sscanf, __isoc99_sscanf, KB_FIRST_ISO);
KB_BIND(__isoc23_strtol, strtol, KB_FIRST);
KB_BIND(__isoc23_strtoul, strtoul, KB_FIRST);
KB_BIND(__isoc23_strtoll, strtoll, KB_FIRST);
KB_BIND(__isoc23_strtoull, strtoull, KB_FIRST);
#endif
#endif
