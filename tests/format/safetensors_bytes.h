#pragma once

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>

namespace emoe::testing {

// A safetensors file from a header as text and any data, right or wrong.
inline std::string safetensors_bytes(const std::string& header, const std::string& data) {
  const uint64_t length = header.size();
  return std::string(reinterpret_cast<const char*>(&length), sizeof(length)) + header + data;
}

// An entry of a header, each part as it is to stand there.
inline std::string entry(const std::string& name, const std::string& dtype,
                         const std::string& shape, const std::string& offsets) {
  return "\"" + name + "\":{\"dtype\":\"" + dtype + "\",\"shape\":" + shape +
         ",\"data_offsets\":" + offsets + "}";
}

// A file of one tensor "a" whose bytes are all 1.
inline std::string one_tensor(const std::string& dtype, const std::string& shape,
                              const std::string& offsets, size_t data_bytes) {
  return safetensors_bytes("{" + entry("a", dtype, shape, offsets) + "}",
                           std::string(data_bytes, '\1'));
}

inline void write_bytes(const std::filesystem::path& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary | std::ios::trunc)
      .write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
}

}  // namespace emoe::testing
