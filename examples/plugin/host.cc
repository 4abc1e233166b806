// A host that loads a plugin, lets it work, and unloads it, three times, while Python
// stays up. The plugin was built in two ways:
//
//   embedded.so   with a copy of pyhold in it: it stays in memory
//   sharing.so    linked with libpyhold.so.1: only that stays, and the plugin goes
//
// host EMBEDDED SHARING
#include <dlfcn.h>

#include <cstdio>

#include "examples/embed.h"
#include "examples/plugin/plugin.h"

namespace {

template <typename Function>
Function* Find(void* library, const char* name) {
  void* found = dlsym(library, name);
  expect(found != nullptr, name);
  return reinterpret_cast<Function*>(found);
}

bool IsLoaded(const char* path) {
  void* library = dlopen(path, RTLD_NOW | RTLD_NOLOAD);
  if (library != nullptr) dlclose(library);
  return library != nullptr;
}

void LoadAndUnload(const char* path, bool stays) {
  PyObject* main = PyImport_AddModule("__main__");  // borrowed
  PyObject* callback = PyObject_GetAttrString(main, "callback");
  const Py_ssize_t references = Py_REFCNT(callback);
  for (int round = 1; round <= 3; ++round) {
    run_python("calls = 0");
    void* library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    expect(library != nullptr, path);
    const int beginning =
        Find<decltype(plugin_begin)>(library, "plugin_begin")(callback);
    run_python("while calls < 10: pass");
    Find<decltype(plugin_end)>(library, "plugin_end")();
    dlclose(library);
    expect(IsLoaded(path) == stays, path);
    expect(beginning == (stays ? round : 1), "statics stay with the library");
  }
  expect(Py_REFCNT(callback) == references,
         "the plugin has given the callback back");
  Py_DECREF(callback);
}

}  // namespace

int main(int argc, char** argv) {
  expect(argc == 3, "usage: host EMBEDDED SHARING");
  start_python();
  run_python(
      "def callback():\n"
      "  global calls\n"
      "  calls += 1");
  LoadAndUnload(argv[1], /*stays=*/true);
  LoadAndUnload(argv[2], /*stays=*/false);
  expect(Py_FinalizeEx() == 0, "Python ends without an error");
  std::puts("Each began and ended three times. One stayed, one went.");
}
