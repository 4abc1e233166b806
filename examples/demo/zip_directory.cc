#include "examples/demo/zip_directory.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <system_error>
#include <utility>

namespace {

// All numbers in a ZIP file are little-endian.
std::uint32_t Get16(const char* at) {
  auto byte = reinterpret_cast<const unsigned char*>(at);
  return byte[0] | byte[1] << 8;
}
std::uint32_t Get32(const char* at) { return Get16(at) | Get16(at + 2) << 16; }

constexpr std::uint32_t kEndSignature = 0x06054b50;
constexpr std::uint32_t kHeaderSignature = 0x02014b50;
constexpr std::size_t kEndSize = 22;     // and a comment
constexpr std::size_t kHeaderSize = 46;  // and a name, extras, a comment
constexpr std::size_t kMaxComment = 0xffff;

std::string ReadAt(std::ifstream& file, std::uint64_t offset,
                   std::size_t size) {
  std::string data(size, '\0');
  file.seekg(static_cast<std::streamoff>(offset));
  file.read(&data[0], static_cast<std::streamsize>(size));
  if (!file) data.clear();
  return data;
}

}  // namespace

std::string ReadZipDirectory(const std::string& path,
                             std::vector<ZipMember>* members) {
  members->clear();
  std::error_code error;
  if (!std::filesystem::is_regular_file(path, error))
    return error ? error.message() : "not a regular file";
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  if (!file) return std::strerror(errno);
  const auto file_size = static_cast<std::uint64_t>(file.tellg());
  if (file_size < kEndSize) return "not a ZIP file (too short)";

  // The end record comes last, but for a comment whose length it gives.
  const auto tail_size = static_cast<std::size_t>(
      std::min<std::uint64_t>(file_size, kEndSize + kMaxComment));
  const std::string tail = ReadAt(file, file_size - tail_size, tail_size);
  if (tail.empty()) return "cannot be read";
  std::size_t at = tail_size - kEndSize;
  while (Get32(&tail[at]) != kEndSignature ||
         at + kEndSize + Get16(&tail[at + 20]) != tail_size) {
    if (at-- == 0)
      return "not a ZIP file, or its end is missing (no end of central "
             "directory)";
  }
  const char* end = &tail[at];
  const std::uint64_t end_offset = file_size - tail_size + at;
  const std::uint32_t count = Get16(end + 10);
  const std::uint64_t size = Get32(end + 12);
  const std::uint64_t offset = Get32(end + 16);
  if (count == 0xffff || size == 0xffffffff || offset == 0xffffffff)
    return "a ZIP64 file, which this demo does not read";
  if (Get16(end + 4) != 0 || Get16(end + 6) != 0 || Get16(end + 8) != count)
    return "a ZIP file of several volumes, which this demo does not read";
  // Its offset may be smaller than it is: something may stand before the ZIP.
  if (offset + size > end_offset)
    return "broken: the central directory is not where the end says";

  const std::string directory =
      ReadAt(file, end_offset - size, static_cast<std::size_t>(size));
  if (directory.size() != size) return "cannot be read";
  std::size_t next = 0;
  for (std::uint32_t i = 0; i < count; ++i) {
    const std::string which = "broken: entry " + std::to_string(i + 1) +
                              " of " + std::to_string(count) +
                              " in the central directory is damaged";
    if (directory.size() - next < kHeaderSize) return which;
    const char* header = &directory[next];
    if (Get32(header) != kHeaderSignature) return which;
    const std::size_t name_size = Get16(header + 28);
    const std::size_t rest = Get16(header + 30) + Get16(header + 32);
    if (directory.size() - next - kHeaderSize < name_size + rest) return which;
    ZipMember member;
    member.name.assign(header + kHeaderSize, name_size);
    member.crc32 = Get32(header + 16);
    member.size = Get32(header + 24);
    if (Get32(header + 20) == 0xffffffff || member.size == 0xffffffff ||
        Get32(header + 42) == 0xffffffff)
      return "a ZIP64 file, which this demo does not read";
    if (Get16(header + 8) & 1) return "has an encrypted member: " + member.name;
    members->push_back(std::move(member));
    next += kHeaderSize + name_size + rest;
  }
  if (next != directory.size())
    return "broken: the central directory has more than its " +
           std::to_string(count) + " entries";
  return "";
}

std::uint32_t Crc32(const void* data, std::size_t size) {
  static const auto table = [] {
    std::array<std::uint32_t, 256> t;
    for (std::uint32_t i = 0; i < 256; ++i) {
      std::uint32_t c = i;
      for (int bit = 0; bit < 8; ++bit) c = (c & 1 ? 0xedb88320 : 0) ^ c >> 1;
      t[i] = c;
    }
    return t;
  }();
  std::uint32_t crc = 0xffffffff;
  auto byte = static_cast<const unsigned char*>(data);
  for (std::size_t i = 0; i < size; ++i)
    crc = table[(crc ^ byte[i]) & 0xff] ^ crc >> 8;
  return ~crc;
}
