#pragma once

#include <filesystem>
#include <limits>
#include <string>
#include <string_view>

#include "base/file.h"
#include "base/status.h"

namespace emoe {

// What the reader of a user's file takes it for.
enum class InputKind { text, safetensors, sentencepiece };

constexpr size_t kFrontBytes = 512;  // that stand_in() looks at

// What a file is instead of what its reader wants, by its first bytes: "is a git-LFS pointer, …".
// Empty where there is nothing to say, the reader sees the rest. The one place that knows what
// clones, downloads and editors leave in place of a file.
[[nodiscard]] std::string stand_in(std::string_view front, InputKind kind);

// FileReader::open() and read_file() for a file that a user hands over: DATA_LOSS "FILE: …" where
// it is a stand-in.
[[nodiscard]] Result<FileReader> open_input(const std::filesystem::path& path, InputKind kind);
[[nodiscard]] Result<std::string> read_input(const std::filesystem::path& path, InputKind kind,
                                             size_t most = std::numeric_limits<size_t>::max());

// Why a path that a user wrote leads nowhere, where more can be said than that it does: a link to
// nothing on its way, a file in place of a folder, the ~ of a shell, an address. Empty otherwise.
[[nodiscard]] std::string why_not_there(const std::filesystem::path& path);

// True where the folder has an entry of this name, a link to nothing included: a reader that takes
// that for an absent file would blame something else.
[[nodiscard]] bool has_entry(const std::filesystem::path& path);

}  // namespace emoe
