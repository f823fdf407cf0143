#include "data/byte_source.h"

#include <vector>

#include <absl/strings/str_cat.h>
#include <zlib.h>
#include <zstd.h>

#include "base/check.h"
#include "base/file.h"

namespace emoe::data {
namespace {

class PlainSource final : public ByteSource {
 public:
  explicit PlainSource(FileReader file) : file_(std::move(file)) {}
  Result<size_t> read(char* data, size_t size) override { return file_.read(data, size); }

 private:
  FileReader file_;
};

// What both kinds of archives have: the packed bytes, and a count of those that were made of them.
class PackedSource : public ByteSource {
 public:
  PackedSource(FileReader file, UnpackLimit limit) : file_(std::move(file)), limit_(limit) {}

  Result<size_t> read(char* data, size_t size) final {
    EMOE_ASSIGN_OR_RETURN(const size_t made, unpack(data, size));
    made_ += made;
    EMOE_RETURN_IF_ERROR(limit_.check(made_, file_.size(), file_.path()));
    return made;
  }

 protected:
  // At most `size` unpacked bytes; 0 at the end.
  virtual Result<size_t> unpack(char* data, size_t size) = 0;

  // More packed bytes; false at the end of the file.
  Result<bool> refill() {
    EMOE_ASSIGN_OR_RETURN(packed_size_, file_.read(packed_.data(), packed_.size()));
    return packed_size_ > 0;
  }
  [[nodiscard]] Status damaged(const std::string& why) const {
    return absl::DataLossError(absl::StrCat(file_.path(), ": ", why));
  }
  [[nodiscard]] Status cut_off() const {
    return damaged("is cut off: the archive ends in the middle; was it downloaded to its end?");
  }

  std::vector<char> packed_ = std::vector<char>(128 << 10);
  size_t packed_size_ = 0;

 private:
  FileReader file_;
  UnpackLimit limit_;
  uint64_t made_ = 0;
};

class GzipSource final : public PackedSource {
 public:
  GzipSource(FileReader file, UnpackLimit limit) : PackedSource(std::move(file), limit) {
    constexpr int kGzip = 16 + MAX_WBITS;
    EMOE_CHECK(::inflateInit2(&stream_, kGzip) == Z_OK, "zlib cannot start");
  }
  ~GzipSource() override { ::inflateEnd(&stream_); }

 private:
  Result<size_t> unpack(char* data, size_t size) override {
    stream_.next_out = reinterpret_cast<Bytef*>(data);
    stream_.avail_out = static_cast<uInt>(size);
    while (stream_.avail_out == size) {
      if (stream_.avail_in == 0) {
        EMOE_ASSIGN_OR_RETURN(const bool more, refill());
        if (!more) return begun_ ? Result<size_t>(cut_off()) : Result<size_t>(size_t{0});
        stream_.next_in = reinterpret_cast<Bytef*>(packed_.data());
        stream_.avail_in = static_cast<uInt>(packed_size_);
      }
      begun_ = true;
      const int result = ::inflate(&stream_, Z_NO_FLUSH);
      if (result == Z_STREAM_END) {  // another member may follow
        begun_ = false;
        ::inflateReset(&stream_);
      } else if (result != Z_OK && result != Z_BUF_ERROR) {
        const char* why = stream_.msg == nullptr ? "no gzip data" : stream_.msg;
        return damaged(absl::StrCat("is no good gzip archive: ", why));
      }
    }
    return size - stream_.avail_out;
  }

  z_stream stream_{};
  bool begun_ = true;  // inside a member; an empty file is none
};

class ZstdSource final : public PackedSource {
 public:
  ZstdSource(FileReader file, UnpackLimit limit)
      : PackedSource(std::move(file), limit), stream_(::ZSTD_createDStream(), ::ZSTD_freeDStream) {
    EMOE_CHECK(stream_ != nullptr, "zstd cannot start");
  }

 private:
  Result<size_t> unpack(char* data, size_t size) override {
    ZSTD_outBuffer out{data, size, 0};
    while (out.pos == 0) {
      if (in_.pos == in_.size && !full_) {
        EMOE_ASSIGN_OR_RETURN(const bool more, refill());
        if (!more) return begun_ ? Result<size_t>(cut_off()) : Result<size_t>(size_t{0});
        in_ = {packed_.data(), packed_size_, 0};
      }
      const size_t result = ::ZSTD_decompressStream(stream_.get(), &out, &in_);
      if (::ZSTD_isError(result) != 0) {
        return damaged(
            absl::StrCat("is no good zstd archive: ", std::string(::ZSTD_getErrorName(result))));
      }
      begun_ = result != 0;                   // else a frame is complete
      full_ = begun_ && out.pos == out.size;  // it may have more to give without more input
    }
    return out.pos;
  }

  std::unique_ptr<ZSTD_DStream, size_t (*)(ZSTD_DStream*)> stream_;
  ZSTD_inBuffer in_{nullptr, 0, 0};
  bool begun_ = true;
  bool full_ = false;
};

}  // namespace

Status UnpackLimit::check(uint64_t made, uint64_t packed, const std::filesystem::path& path) const {
  if (made <= free_bytes || made / ratio <= packed) return ok_status();
  return absl::InvalidArgumentError(
      absl::StrCat(path.string(), ": unpacks to more than ", ratio, " times its ", packed,
                   " bytes, which no text does; unpack it by hand if it is what you mean"));
}

Result<std::unique_ptr<ByteSource>> ByteSource::open(const std::filesystem::path& path,
                                                     UnpackLimit limit) {
  EMOE_ASSIGN_OR_RETURN(FileReader file, FileReader::open(path));
  const std::string ending = path.extension().string();
  if (ending == ".gz") return std::make_unique<GzipSource>(std::move(file), limit);
  if (ending == ".zst") return std::make_unique<ZstdSource>(std::move(file), limit);
  return std::make_unique<PlainSource>(std::move(file));
}

std::filesystem::path unpacked_name(const std::filesystem::path& path) {
  const std::string ending = path.extension().string();
  return ending == ".gz" || ending == ".zst" ? path.stem() : path.filename();
}

}  // namespace emoe::data
