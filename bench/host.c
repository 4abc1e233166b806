/* Opens a shared library as Python opens an extension module, and runs its main():
 * host LIBRARY [ARG]... */
#include <Python.h>
#include <dlfcn.h>
#include <stdio.h>

int main(int argc, char **argv) {
  void *library = argc > 1 ? dlopen(argv[1], RTLD_NOW | RTLD_LOCAL) : NULL;
  if (library == NULL) {
    fprintf(stderr, "%s\n",
            argc > 1 ? dlerror() : "usage: host LIBRARY [ARG]...");
    return 2;
  }
  int (*library_main)(int, char **);
  *(void **)&library_main = dlsym(library, "main");
  (void)Py_GetVersion(); /* so that libpython is linked */
  return library_main(argc - 1, argv + 1);
}
