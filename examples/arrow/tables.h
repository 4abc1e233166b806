// A table to write and to read again, by those readers of Arrow's that use
// threads. Without Python.
#ifndef PYHOLD_EXAMPLES_ARROW_TABLES_H_
#define PYHOLD_EXAMPLES_ARROW_TABLES_H_

#include <arrow/io/type_fwd.h>
#include <arrow/result.h>
#include <arrow/type_fwd.h>
#include <arrow/util/future.h>

#include <cstdint>
#include <memory>
#include <string>

using ArrowFile = std::shared_ptr<arrow::io::RandomAccessFile>;
using ArrowTable = std::shared_ptr<arrow::Table>;

// Integers, floating-point numbers and strings; `rows` of each.
ArrowTable MakeTable(int64_t rows);

// The whole file. Parquet: 64 row groups, so that there is much to fetch.
std::string ToCsv(const ArrowTable& table);
std::string ToParquet(const ArrowTable& table);

// CSV: an I/O thread reads blocks of 16 KiB ahead, CPU threads parse them.
arrow::Future<ArrowTable> ReadCsvAsync(ArrowFile file);
arrow::Result<ArrowTable> ReadCsv(ArrowFile file);
// Parquet: with pre_buffer, so that all I/O threads fetch column chunks, and CPU
// threads decode them.
arrow::Result<ArrowTable> ReadParquet(ArrowFile file);

// The readers wait for their threads: call them detached.

#endif  // PYHOLD_EXAMPLES_ARROW_TABLES_H_
