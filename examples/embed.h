/* What every example needs: a Python inside the program, and a way to fail.
 *
 * The standard library must be the one of the libpython that the program is
 * linked with. PYTHON_BIN_PATH names that Python's interpreter; the build and
 * its tests set it. Without it, CPython looks for `python3` on the PATH. */
#ifndef PYHOLD_EXAMPLES_EMBED_H_
#define PYHOLD_EXAMPLES_EMBED_H_

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdio.h>
#include <stdlib.h>

/* Start Python; the caller is attached afterwards, as after Py_Initialize().
 * Returns NULL, or why it could not be started (a static string). */
static inline const char *try_start_python(void) {
  PyConfig config;
  PyConfig_InitPythonConfig(&config);
  config.parse_argv = 0;
  PyStatus status = PyStatus_Ok();
  const char *interpreter = getenv("PYTHON_BIN_PATH");
  if (interpreter != NULL && *interpreter != '\0')
    status =
        PyConfig_SetBytesString(&config, &config.program_name, interpreter);
  if (!PyStatus_Exception(status)) status = Py_InitializeFromConfig(&config);
  PyConfig_Clear(&config);
  if (!PyStatus_Exception(status)) return NULL;
  return status.err_msg != NULL ? status.err_msg : "no reason given";
}

/* End the program with status 1 unless `it_is_so`. Anything may run on other
 * threads: nothing is cleaned up. */
static inline void expect(int it_is_so, const char *what) {
  if (it_is_so) return;
  fprintf(stderr, "This did not hold: %s\n", what);
  _Exit(1);
}

static inline void start_python(void) {
  const char *error = try_start_python();
  if (error == NULL) return;
  fprintf(stderr, "Python does not start: %s\n", error);
  _Exit(1);
}

/* Run Python code; the caller is attached. */
static inline void run_python(const char *code) {
  expect(PyRun_SimpleString(code) == 0, code);
}

#endif /* PYHOLD_EXAMPLES_EMBED_H_ */
