// A process with two parts.
//
//   process [FOLDER] [global|local LIBRARY]...
//
// loads the libraries in this order, and takes from them those parts that are not
// in the process already. Both parts then use pyhold, beside each other and within
// each other, and Python ends. Prints how many copies of pyhold there were: "2
// cores, 2 layers". With PROCESS_ABIFLAGS set, that is what sys.abiflags says.
#include <Python.h>
//
#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>

#include "part.h"

#ifdef HAS_PART_A  // and is linked with a library that has the other
static Part *a = part_a(), *b = part_b();
#else
static Part *a, *b;
#endif

static void* part_of(void* library, const char* name) {
  auto* get = reinterpret_cast<Part* (*)()>(dlsym(library, name));
  return get != nullptr ? get() : nullptr;
}

static int CallA() { return a->call(nullptr); }
static int CallB() { return b->call(nullptr); }

static bool Expect(const char* what, int wrong) {
  if (wrong != 0) std::printf("%s: %d; ", what, wrong);
  return wrong == 0;
}

int main(int argc, char** argv) {
  Py_Initialize();
  if (const char* flags = std::getenv("PROCESS_ABIFLAGS"))
    PySys_SetObject("abiflags", PyUnicode_FromString(flags));
  for (int i = 1; i + 1 < argc; i += 2) {
    bool global = std::strcmp(argv[i], "global") == 0;
    void* library =
        dlopen(argv[i + 1], RTLD_NOW | (global ? RTLD_GLOBAL : RTLD_LOCAL));
    if (library == nullptr) {
      std::printf("%s\n", dlerror());
      return 2;
    }
    if (a == nullptr) a = static_cast<Part*>(part_of(library, "part_a"));
    if (b == nullptr) b = static_cast<Part*>(part_of(library, "part_b"));
  }
  a->start(true);
  b->start(false);
  bool ok = true;
  PyThreadState* main_state = PyEval_SaveThread();
  std::thread([&] {
    ok &= Expect("a", CallA());
    ok &= Expect("b", CallB());
    ok &= Expect("b in a", a->call(CallB));
    ok &= Expect("a in b", b->call(CallA));
  }).join();
  PyEval_RestoreThread(main_state);
  int cores = 1 + (a->core != b->core), layers = 1 + (a->layer != b->layer);
  ok &= Expect("error codes", b->sees_codes_of_the_other != (cores == 1));
  ok &= Expect("Py_FinalizeEx", Py_FinalizeEx());
  std::printf("ABI %d and %d, %d cores, %d layers\n", a->abi_number,
              b->abi_number, cores, layers);
  return ok ? 0 : 1;
}
