// <nanobind/nanobind.h> as library.cc is compiled: both must agree on whether
// there is a GIL.
#ifndef PYHOLD_EXAMPLES_NANOBIND_LIBRARY_H_
#define PYHOLD_EXAMPLES_NANOBIND_LIBRARY_H_

#include <Python.h>
#ifdef Py_GIL_DISABLED
#define NB_FREE_THREADED
#endif
#include <nanobind/nanobind.h>

#endif  // PYHOLD_EXAMPLES_NANOBIND_LIBRARY_H_
