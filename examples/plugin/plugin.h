/* What the plugin shows its host. Both are called attached. */
#ifndef PYHOLD_EXAMPLES_PLUGIN_H_
#define PYHOLD_EXAMPLES_PLUGIN_H_

#include <Python.h>

#ifdef __cplusplus
extern "C" {
#endif

/* A thread of the plugin calls callback() again and again from here on. Returns the
 * plugin's count of its beginnings, or 0: it could not begin. */
__attribute__((visibility("default"))) int plugin_begin(PyObject *callback);

/* When this returns, the plugin has no thread, no Python object and no work that
 * waits. So the host may unload it, or begin it again. */
__attribute__((visibility("default"))) void plugin_end(void);

#ifdef __cplusplus
} /* extern "C" */
#endif

#endif /* PYHOLD_EXAMPLES_PLUGIN_H_ */
