/* first: every file of the core includes this one before all others.
 *
 * Python.h must come before the C library's headers: pyconfig.h names a version
 * of POSIX, and so do they, if nobody has. Where the two were built for different
 * versions, the second definition is a warning in each file.
 *
 * Only the port calls CPython, all the same. */
#ifndef PYHOLD_SRC_FIRST_H_
#define PYHOLD_SRC_FIRST_H_

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#ifndef PYHOLD_FAKE_PORT
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#endif

/* Functions that the core's files share are called ph_..., and pyhold_... are the
 * public ones. Each header that declares some of the former stands between these
 * two, so that they are hidden whatever flags the core is compiled with: else
 * those of two copies in one process would get into each other. */
#if defined(__GNUC__)
#define PH_HIDDEN_BEGIN _Pragma("GCC visibility push(hidden)")
#define PH_HIDDEN_END _Pragma("GCC visibility pop")
#else
#define PH_HIDDEN_BEGIN
#define PH_HIDDEN_END
#endif

#endif /* PYHOLD_SRC_FIRST_H_ */
