// pyhold/pep788.h's functions for bench.cc, which has CPython's under the same
// names.
#ifndef PYHOLD_BENCH_PEP788_H_
#define PYHOLD_BENCH_PEP788_H_

namespace pep788 {

void Open();  // attached; makes the view and the guard that the next two use
void* EnsureFromView();
void* Ensure();
void Release(void* token);
void Close();

}  // namespace pep788

#endif  // PYHOLD_BENCH_PEP788_H_
