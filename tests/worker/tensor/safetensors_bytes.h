#pragma once

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>

namespace emoe::worker::testing {

// A safetensors file from a header as text and any data, right or wrong.
inline std::string safetensors_bytes(const std::string& header, const std::string& data) {
  const uint64_t length = header.size();
  return std::string(reinterpret_cast<const char*>(&length), sizeof(length)) + header + data;
}

inline void write_bytes(const std::filesystem::path& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary | std::ios::trunc)
      .write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
}

}  // namespace emoe::worker::testing
