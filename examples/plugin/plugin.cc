// A plugin that its host loads and unloads while Python stays up.
//
// dlclose() does not unload a library with an embedded copy of pyhold once that has met
// Python: see docs/linking.md. Its static destructors do not run, and the next dlopen()
// finds its statics as they were. So this plugin keeps everything in one object, which
// plugin_begin() makes and plugin_end() destroys.
#define PY_SSIZE_T_CLEAN
#include <Python.h>
//
#include "examples/plugin/plugin.h"

#include <atomic>
#include <cstdlib>
#include <thread>

#include "pyhold/object_ref.h"
#include "pyhold/pyhold.h"

namespace {

class Plugin {
 public:
  // Attached.
  explicit Plugin(PyObject* callback)
      : view_(pyhold::InterpreterView::Current()),
        callback_(pyhold::ObjectRef::Borrow(view_, callback)) {
    if (callback_) thread_ = std::thread([this] { Run(); });
  }

  // Attached.
  ~Plugin() {
    stop_ = true;
    // The thread may need the GIL to finish its call. And what was deferred has code of
    // this library to run.
    pyhold::ThreadStateDetachGuard detached;
    if (thread_.joinable()) thread_.join();
    if (view_ && pyhold_deferred_wait(view_.raw(), /*timeout_ms=*/-1) != 0)
      std::abort();  // it was called attached
  }

  bool ok() const { return bool(callback_); }

 private:
  void Run() {
    while (!stop_) {
      pyhold_status status = callback_.WithObject([](PyObject* callback) {
        PyObject* result = PyObject_CallNoArgs(callback);
        if (result == nullptr) PyErr_WriteUnraisable(callback);
        Py_XDECREF(result);
      });
      if (status == PYHOLD_EFINALIZING) return;  // the host forgot plugin_end()
    }
  }

  const pyhold::InterpreterView view_;
  const pyhold::ObjectRef callback_;
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

Plugin* plugin;
int beginnings;  // stays as it is, where the library stays

}  // namespace

int plugin_begin(PyObject* callback) {
  if (plugin != nullptr) return 0;
  plugin = new Plugin(callback);
  if (plugin->ok()) return ++beginnings;
  plugin_end();
  return 0;
}

void plugin_end() {
  delete plugin;
  plugin = nullptr;
}
