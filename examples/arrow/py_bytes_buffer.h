#ifndef PYHOLD_EXAMPLES_ARROW_PY_BYTES_BUFFER_H_
#define PYHOLD_EXAMPLES_ARROW_PY_BYTES_BUFFER_H_

#include "pyhold/pyhold.h"
//
#include <arrow/buffer.h>

#include <cstdint>
#include <utility>

// The memory of a Python bytes object, without a copy. Like every Arrow buffer
// it may end on any thread at any time, also after Python has ended.
class PYHOLD_HIDDEN PyBytesBuffer final : public arrow::Buffer {
 public:
  // Requires: `bytes` owns a bytes object. Attached: not needed.
  explicit PyBytesBuffer(pyhold::ObjectRef bytes)
      : arrow::Buffer(
            reinterpret_cast<uint8_t*>(PyBytes_AS_STRING(bytes.get())),
            PyBytes_GET_SIZE(bytes.get())),
        bytes_(std::move(bytes)) {}

 private:
  const pyhold::ObjectRef bytes_;
};

#endif  // PYHOLD_EXAMPLES_ARROW_PY_BYTES_BUFFER_H_
