// SafeCallIntoPython with status types of one's own: status_types.h says what
// pyhold must know of them.
#include "examples/status_types.h"

#include <cstdio>
#include <string>
#include <thread>

#include "examples/embed.h"
#include "pyhold/pyhold.h"

namespace {

// Python's int(), as a function of a thread that knows nothing of Python.
PyObject* ToInt(const std::string& text) {
  return PyLong_FromString(text.c_str(), nullptr, 10);
}

Expected<long> Parse(const pyhold::InterpreterView& view,
                     const std::string& text) {
  return pyhold::SafeCallIntoPython<Expected<void>>(view, [&] {
    PyObject* number = ToInt(text);
    if (number == nullptr) return 0L;  // the error that is set is what counts
    long value = PyLong_AsLong(number);
    Py_DECREF(number);
    return value;
  });
}

long ParseOrThrow(const pyhold::InterpreterView& view,
                  const std::string& text) {
  return pyhold::SafeCallIntoPython<Thrown>(view, [&] {
    PyObject* number = ToInt(text);
    if (number == nullptr) return 0L;
    long value = PyLong_AsLong(number);
    Py_DECREF(number);
    return value;
  });
}

}  // namespace

int main() {
  start_python();
  const pyhold::InterpreterView view = pyhold::InterpreterView::Current();
  Expected<long> good = Failure{}, bad = Failure{};
  std::string thrown;
  Py_BEGIN_ALLOW_THREADS;
  std::thread([&] {
    good = Parse(view, "42");
    bad = Parse(view, "many");
    try {
      ParseOrThrow(view, "some");
    } catch (const PythonRaised& e) {
      thrown = e.what();
    }
  }).join();
  Py_END_ALLOW_THREADS;

  expect(good && *good == 42, "a number is parsed");
  expect(!bad && bad.failure().error.has_value(), "other text is not");
  const std::string raised = "ValueError: invalid literal for int()";
  expect(bad.failure().message.compare(0, raised.size(), raised) == 0,
         "the message is Python's");
  expect(thrown.compare(0, raised.size(), raised) == 0,
         "and so is that of the C++ exception");

  // The error is the exception itself: it can be raised again.
  expect(bad.failure().error->Restore() == PYHOLD_OK, "it is raised again");
  expect(PyErr_ExceptionMatches(PyExc_ValueError), "as what it was");
  PyErr_Clear();

  expect(Py_FinalizeEx() == 0, "Python ends without an error");
  expect(Parse(view, "42").failure().refused == PYHOLD_EFINALIZING,
         "later calls are refused");
  bool refused = false;
  try {
    ParseOrThrow(view, "42");
  } catch (const PythonRefused& e) {
    refused = e.status() == PYHOLD_EFINALIZING;
  }
  expect(refused, "as a C++ exception, too");
  std::printf("Looked at: %s\nThrown:    %s\n", bad.failure().message.c_str(),
              thrown.c_str());
}
