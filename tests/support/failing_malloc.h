// A malloc that fails when asked to. It takes the place of the C library's in
// the whole test program, CPython included; so link it only where it is needed.
#ifndef PYHOLD_TESTS_FAILING_MALLOC_H_
#define PYHOLD_TESTS_FAILING_MALLOC_H_

// Have the nth allocation of this thread from now on fail, once; 0: none. -1:
// none, but keep the answer. Returns whether the one asked for before failed.
bool FailAllocation(int nth);

#endif  // PYHOLD_TESTS_FAILING_MALLOC_H_
