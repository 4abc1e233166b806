// The central directory of a ZIP file, read without Python: what the demo
// checks Python's reads against.
#ifndef PYHOLD_EXAMPLES_DEMO_ZIP_DIRECTORY_H_
#define PYHOLD_EXAMPLES_DEMO_ZIP_DIRECTORY_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

struct ZipMember {
  std::string name;  // as stored: its encoding is not looked at
  std::uint32_t crc32 = 0;
  std::uint32_t size = 0;  // when read
};

// All members, folders included, in the directory's order, which is also that
// of zipfile.ZipFile.infolist(). Returns "", or what is wrong with the file;
// `*members` is then unspecified. ZIP64, several volumes and encryption are
// refused.
std::string ReadZipDirectory(const std::string& path,
                             std::vector<ZipMember>* members);

// The checksum that ZIP files use.
std::uint32_t Crc32(const void* data, std::size_t size);

#endif  // PYHOLD_EXAMPLES_DEMO_ZIP_DIRECTORY_H_
