#include "examples/arrow/tables.h"

#include <arrow/api.h>
#include <arrow/csv/api.h>
#include <arrow/io/api.h>
#include <parquet/arrow/reader.h>
#include <parquet/arrow/writer.h>

#include <utility>

namespace {

// What cannot fail here, as it needs memory only.
void Must(const arrow::Status& status) {
  if (!status.ok()) status.Abort();
}

arrow::Result<std::shared_ptr<arrow::csv::TableReader>> CsvReader(
    ArrowFile file) {
  auto options = arrow::csv::ReadOptions::Defaults();
  options.use_threads = true;
  options.block_size = 1 << 14;
  return arrow::csv::TableReader::Make(arrow::io::default_io_context(),
                                       std::move(file), options,
                                       arrow::csv::ParseOptions::Defaults(),
                                       arrow::csv::ConvertOptions::Defaults());
}

std::string Written(
    const std::shared_ptr<arrow::io::BufferOutputStream>& sink) {
  return sink->Finish().ValueOrDie()->ToString();
}

}  // namespace

ArrowTable MakeTable(int64_t rows) {
  arrow::Int64Builder ids;
  arrow::DoubleBuilder numbers;
  arrow::StringBuilder names;
  for (int64_t i = 0; i < rows; ++i) {
    Must(ids.Append(i));
    Must(numbers.Append(static_cast<double>(i * 7919 % 10007) / 8));
    Must(names.Append("name " + std::to_string(i * i % 9973)));
  }
  return arrow::Table::Make(arrow::schema({
                                arrow::field("id", arrow::int64()),
                                arrow::field("number", arrow::float64()),
                                arrow::field("name", arrow::utf8()),
                            }),
                            {
                                ids.Finish().ValueOrDie(),
                                numbers.Finish().ValueOrDie(),
                                names.Finish().ValueOrDie(),
                            });
}

std::string ToCsv(const ArrowTable& table) {
  auto sink = arrow::io::BufferOutputStream::Create().ValueOrDie();
  Must(arrow::csv::WriteCSV(*table, arrow::csv::WriteOptions::Defaults(),
                            sink.get()));
  return Written(sink);
}

std::string ToParquet(const ArrowTable& table) {
  auto sink = arrow::io::BufferOutputStream::Create().ValueOrDie();
  Must(parquet::arrow::WriteTable(*table, arrow::default_memory_pool(), sink,
                                  /*chunk_size=*/table->num_rows() / 64 + 1));
  return Written(sink);
}

arrow::Future<ArrowTable> ReadCsvAsync(ArrowFile file) {
  auto reader = CsvReader(std::move(file));
  if (!reader.ok()) return reader.status();
  return (*reader)->ReadAsync();
}

arrow::Result<ArrowTable> ReadCsv(ArrowFile file) {
  ARROW_ASSIGN_OR_RAISE(auto reader, CsvReader(std::move(file)));
  return reader->Read();
}

arrow::Result<ArrowTable> ReadParquet(ArrowFile file) {
  parquet::ArrowReaderProperties properties(/*use_threads=*/true);
  properties.set_pre_buffer(true);
  // Else neighbours are fetched by one read.
  auto cache = arrow::io::CacheOptions::Defaults();
  cache.hole_size_limit = 0;
  cache.range_size_limit = 1;
  properties.set_cache_options(cache);
  parquet::arrow::FileReaderBuilder builder;
  ARROW_RETURN_NOT_OK(builder.Open(std::move(file)));
  builder.properties(properties);
  ARROW_ASSIGN_OR_RAISE(auto reader, builder.Build());
  return reader->ReadTable();
}
