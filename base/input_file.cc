#include "base/input_file.h"

#include <algorithm>
#include <array>

#include <absl/strings/ascii.h>
#include <absl/strings/str_cat.h>

#include "base/utf8.h"

namespace emoe {
namespace {

using namespace std::string_view_literals;

struct Beginning {
  std::string_view bytes;
  const char* reason;
  bool whole = false;  // only where the file is no longer than its front
};

constexpr char kPickle[] =
    "is a PyTorch pickle, not safetensors: load the model once and save it with "
    "safe_serialization=True";
constexpr char kWebPage[] = "is an HTML page, not the file: a web page answered its download";
constexpr char kAnswer[] = "is an error message that answered its download, not the file";

// Files that begin with text, in small letters.
constexpr std::array<Beginning, 7> kTextBeginnings{{
    {"/annex/objects/"sv,
     "is a git-annex pointer, the file itself was not fetched (git annex get)"},
    {"<!doctype html"sv, kWebPage},
    {"<html"sv, kWebPage},
    {"<?xml"sv, kAnswer, true},
    {"entry not found"sv, kAnswer, true},
    {"invalid username or password"sv, kAnswer, true},
    {"{\"error\":"sv, kAnswer, true},
}};

// Files of other programs, none of which is text.
constexpr std::array<Beginning, 15> kBinaryBeginnings{{
    {"\x80\x02\x8a"sv, kPickle},
    {"\x80\x02}"sv, kPickle},
    {"\x80\x02"sv
     "c",
     kPickle},
    {"\x80\x03"sv, kPickle},
    {"\x80\x04\x95"sv, kPickle},
    {"\x80\x05\x95"sv, kPickle},
    {"PK\x03\x04"sv, "is a zip archive"},
    {"\x1f\x8b\x08"sv, "is compressed with gzip: unpack it first"},
    {"\x28\xb5\x2f\xfd"sv, "is compressed with zstd: unpack it first"},
    {"\xfd"sv
     "7zXZ",
     "is compressed with xz: unpack it first"},
    {"BZh"sv, "is compressed with bzip2: unpack it first"},
    {"GGUF"sv, "is a GGUF file, which this program does not read"},
    {"\x89HDF"sv, "is an HDF5 file, which this program does not read"},
    {"PAR1"sv, "is a Parquet file: name it .parquet"},
    {"ARROW1"sv, "is an Arrow file, which this program does not read"},
}};

bool is_ascii_text(std::string_view text) {
  return std::ranges::all_of(
      text, [](unsigned char c) { return absl::ascii_isprint(c) || absl::ascii_isspace(c); });
}

// "version https://git-lfs.github.com/spec/v1\noid sha256:…\nsize 13476\n"
std::string lfs_pointer(std::string_view front) {
  if (!front.starts_with("version https://git-lfs.github.com/") &&
      !front.starts_with("version https://hawser.github.com/")) {
    return "";
  }
  const size_t at = front.find("\nsize ");
  const std::string_view size = at == std::string_view::npos ? "" : front.substr(at + 6);
  const std::string digits(size.substr(0, size.find_first_not_of("0123456789")));
  return absl::StrCat("is a git-LFS pointer, the file itself",
                      digits.empty() ? "" : absl::StrCat(" (", digits, " bytes)"),
                      " was not downloaded: run \"git lfs pull\" in its folder");
}

// The encoding of a text of wider characters, by its byte-order mark, or by zeros where its first
// ASCII characters have them; empty for others.
const char* wide_encoding(std::string_view front) {
  if (front.starts_with("\xFF\xFE\0\0"sv) || front.starts_with("\0\0\xFE\xFF"sv)) return "UTF-32";
  if (front.starts_with("\xFF\xFE"sv) || front.starts_with("\xFE\xFF"sv)) return "UTF-16";
  if (front.size() < 4) return "";
  std::string zeros;
  for (const char c : front.substr(0, 4)) zeros += c == '\0' ? '0' : 'x';
  if (zeros == "x000" || zeros == "000x") return "UTF-32";
  return zeros == "x0x0" || zeros == "0x0x" ? "UTF-16" : "";
}

std::string text_beginning(std::string_view front) {
  const size_t size = front.size();
  if (front.starts_with("\xEF\xBB\xBF")) front.remove_prefix(3);
  front.remove_prefix(std::min(front.size(), front.find_first_not_of(" \t\r\n")));
  const std::string lower = absl::AsciiStrToLower(std::string(front.substr(0, 64)));
  for (const Beginning& known : kTextBeginnings) {
    if (known.whole && size >= kFrontBytes) continue;
    if (lower.starts_with(known.bytes)) return known.reason;
  }
  return lfs_pointer(front);
}

std::string binary_beginning(std::string_view front, InputKind kind) {
  if (is_ascii_text(front)) return "";
  for (const Beginning& known : kBinaryBeginnings) {
    if (!front.starts_with(known.bytes)) continue;
    // PyTorch packs its pickles into a zip.
    const bool packed = kind == InputKind::safetensors && known.bytes.starts_with("PK");
    return packed ? kPickle : known.reason;
  }
  return "";
}

// Neither format is text at its front: a safetensors file begins with a length of eight bytes whose
// last are 0, a SentencePiece model with the lengths of its first piece.
std::string text_in_place_of(std::string_view front, const char* format) {
  if (!is_ascii_text(front.substr(0, 8))) return "";
  const std::string line(front.substr(0, front.find_first_of("\r\n")));
  return absl::StrCat("is ", format, "; it is text that begins with \"",
                      shorten_utf8(to_valid_utf8(line), 40), "\"");
}

}  // namespace

std::string stand_in(std::string_view front, InputKind kind) {
  front = front.substr(0, kFrontBytes);
  if (front.empty()) return "is empty (0 bytes)";
  const bool safetensors = kind == InputKind::safetensors;
  if (safetensors && front.size() > 8 && front[8] == '{') return "";  // any length may come before
  if (front.find_first_not_of('\0') == std::string_view::npos) {
    return "begins with zero bytes: a download, or a copy, that was not finished";
  }
  if (std::string reason = text_beginning(front); !reason.empty()) return reason;
  if (const std::string wide = wide_encoding(front); kind == InputKind::text && !wide.empty()) {
    return absl::StrCat("is ", wide,
                        " text, as some editors and shells of Windows write it: save it as UTF-8");
  }
  if (std::string reason = binary_beginning(front, kind); !reason.empty()) return reason;
  if (kind == InputKind::text) return "";
  return text_in_place_of(front, safetensors ? "no safetensors file" : "no SentencePiece model");
}

Result<FileReader> open_input(const std::filesystem::path& path, InputKind kind) {
  EMOE_ASSIGN_OR_RETURN(FileReader file, FileReader::open(path));
  EMOE_ASSIGN_OR_RETURN(const std::string front, file.front(kFrontBytes));
  const std::string reason = stand_in(front, kind);
  if (reason.empty()) return file;
  return absl::DataLossError(absl::StrCat(path.string(), ": ", reason));
}

Result<std::string> read_input(const std::filesystem::path& path, InputKind kind, size_t most) {
  EMOE_ASSIGN_OR_RETURN(FileReader file, open_input(path, kind));
  return read_rest(file, most);
}

std::string why_not_there(const std::filesystem::path& path) {
  for (const std::filesystem::path& part : path) {
    const std::string& name = part.native();
    if (name == "~") return "the ~ of a shell is not known here: write the folder out";
    if (name.size() > 2 && name.ends_with(':')) {
      return "that is an address, not a file of this machine: download it first";
    }
  }
  std::error_code error;
  for (std::filesystem::path part = path; part.has_relative_path(); part = part.parent_path()) {
    if (part != path && std::filesystem::is_regular_file(part, error)) {
      return part.string() + " is a file, not a folder";
    }
    if (!std::filesystem::is_symlink(part, error)) continue;
    if (std::filesystem::exists(part, error)) return "";
    if (error == std::errc::too_many_symbolic_link_levels) return "";
    return absl::StrCat(part.string(), " is a link to ",
                        std::filesystem::read_symlink(part, error).string(),
                        ", which is not there");
  }
  return "";
}

bool has_entry(const std::filesystem::path& path) {
  std::error_code ignored;
  return std::filesystem::exists(std::filesystem::symlink_status(path, ignored));
}

}  // namespace emoe
