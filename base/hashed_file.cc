#include "base/hashed_file.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <thread>
#include <utility>

#include <absl/strings/str_cat.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/check.h"
#include "base/file.h"
#include "base/sha256.h"

namespace emoe {
namespace {

// Where blocks begin in memory and in the file: what disks ask for that are written past the page cache.
constexpr size_t kAlignment = 4096;
constexpr int kWriters = 2;  // blocks that are on their way to the disk at once

// Pages of their own, which the system has back at the end: out of the C library's heap blocks of this size
// would leave holes, which grow with every file. A page that is not written to takes no memory.
struct Unmap {
  void operator()(std::byte* bytes) const {
    ::munmap(bytes, HashedFileWriter::kBlock * HashedFileWriter::kBlocks);
  }
};

std::byte* mapped_ring() {
  void* const pages = ::mmap(nullptr, HashedFileWriter::kBlock * HashedFileWriter::kBlocks,
                             PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  EMOE_CHECK(pages != MAP_FAILED, "no memory for the blocks of a file");
  return static_cast<std::byte*>(pages);
}

struct Block {
  std::byte* bytes = nullptr;
  uint64_t begin = 0;  // in the file
  size_t size = 0;
  int users = 0;  // threads that have not done their part
};

}  // namespace

// A ring of blocks: the caller fills them one after the other, one thread hashes them in this order, and
// kWriters write them.
class HashedFileWriter::Threads {
 public:
  Threads(FileDescriptor file, FileDescriptor past_cache, std::string path, uint64_t size)
      : file_(std::move(file)),
        past_cache_(std::move(past_cache)),
        direct_(past_cache_.valid()),
        path_(std::move(path)),
        size_(size) {
    for (size_t i = 0; i < kBlocks; ++i) blocks_[i].bytes = ring_.get() + i * kBlock;
    hasher_ = std::thread([this] { hash_blocks(); });
    for (std::thread& writer : writers_) writer = std::thread([this] { write_blocks(); });
  }
  Threads(const Threads&) = delete;
  Threads& operator=(const Threads&) = delete;
  ~Threads() {
    if (!hasher_.joinable()) return;
    end(/*drop=*/true);
  }

  Status write(const char* data, size_t size) {
    while (size > 0) {
      Block& block = block_of(filled_);
      if (block_bytes_ == 0) EMOE_RETURN_IF_ERROR(wait_for(block));
      const size_t now = std::min(size, kBlock - block_bytes_);
      std::memcpy(block.bytes + block_bytes_, data, now);
      data += now;
      size -= now;
      block_bytes_ += now;
      if (block_bytes_ == kBlock) hand_over(block);
    }
    return ok_status();
  }

  Status close() {
    if (block_bytes_ > 0) hand_over(block_of(filled_));
    end(/*drop=*/false);
    EMOE_RETURN_IF_ERROR(error_);
    if (given_ != size_) {
      return absl::InvalidArgumentError(
          absl::StrCat(path_, ": ", given_, " bytes, ", size_, " were to be written"));
    }
    if (::fsync(file_.get()) != 0) return failed("flush");
    file_.reset();
    sha256_ = hash_.hex_digest();
    return ok_status();
  }

  [[nodiscard]] const std::string& sha256() const { return sha256_; }

 private:
  Block& block_of(uint64_t number) { return blocks_[number % kBlocks]; }
  [[nodiscard]] Status failed(const char* what) const {
    return errno_status(errno, absl::StrCat("cannot ", what, " ", path_));
  }

  // Until the threads are done with what the block held.
  Status wait_for(const Block& block) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return block.users == 0; });
    return error_;
  }

  void hand_over(Block& block) {
    block.begin = given_;
    block.size = block_bytes_;
    given_ += block_bytes_;
    block_bytes_ = 0;
    {
      const std::scoped_lock lock(mutex_);
      block.users = 2;
      ++filled_;
    }
    changed_.notify_all();
  }

  // `drop`: what still waits is of no use.
  void end(bool drop) {
    {
      const std::scoped_lock lock(mutex_);
      ended_ = true;
      dropped_ = drop;
    }
    changed_.notify_all();
    hasher_.join();
    for (std::thread& writer : writers_) writer.join();
  }

  // The next block of those that `taken` counts; null where no other comes.
  Block* take(uint64_t& taken) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return ended_ || taken < filled_; });
    if (dropped_ || taken == filled_) return nullptr;
    return &block_of(taken++);
  }

  void put_back(Block& block, const Status& status = ok_status()) {
    {
      const std::scoped_lock lock(mutex_);
      if (error_.ok()) error_ = status;
      --block.users;
    }
    changed_.notify_all();
  }

  void hash_blocks() {
    while (Block* block = take(hashed_)) {
      hash_.update(block->bytes, block->size);
      put_back(*block);
    }
  }

  void write_blocks() {
    while (Block* block = take(written_)) put_back(*block, write_block(*block));
  }

  [[nodiscard]] Status write_block(const Block& block) {
    size_t done = 0;
    while (done < block.size) {
      const size_t whole = (block.size - done) / kAlignment * kAlignment;
      const bool direct = direct_ && whole > 0;
      const ssize_t now =
          ::pwrite(direct ? past_cache_.get() : file_.get(), block.bytes + done,
                   direct ? whole : block.size - done, static_cast<off_t>(block.begin + done));
      if (now < 0 && errno == EINTR) continue;
      if (now < 0 && direct && errno == EINVAL) {  // so large an alignment is not enough here
        direct_ = false;
        continue;
      }
      if (now < 0) return failed("write");
      done += static_cast<size_t>(now);
    }
    return direct_ ? ok_status() : start_flushing(block);
  }

  // As FileWriter: the disk works while the caller makes what comes next, and close() finds little to wait
  // for.
  [[nodiscard]] Status start_flushing(const Block& block) const {
    const int done = ::sync_file_range(
        file_.get(), static_cast<off_t>(block.begin), static_cast<off_t>(block.size),
        SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER);
    if (done == 0 || errno == ESPIPE || errno == EINVAL || errno == ENOSYS) return ok_status();
    return failed("flush");
  }

  FileDescriptor file_;
  FileDescriptor past_cache_;  // the same file, O_DIRECT; or none
  std::atomic<bool> direct_;
  std::string path_;
  uint64_t size_;

  const std::unique_ptr<std::byte, Unmap> ring_{mapped_ring()};
  std::array<Block, kBlocks> blocks_;
  size_t block_bytes_ = 0;  // of the block that is being filled: the caller's alone, as given_
  uint64_t given_ = 0;      // bytes in the blocks before it

  std::mutex mutex_;
  std::condition_variable changed_;
  uint64_t filled_ = 0;  // blocks since the beginning, as the next two
  uint64_t hashed_ = 0;  // or being hashed
  uint64_t written_ = 0;
  bool ended_ = false;
  bool dropped_ = false;
  Status error_;  // the first one

  Sha256 hash_;  // the hasher's, until it ends
  std::string sha256_;
  std::thread hasher_;
  std::array<std::thread, kWriters> writers_;
};

namespace {

// A disk that is too full is found before anything was made for it. Other file systems say so later.
Status make_room(int file, const std::filesystem::path& path, uint64_t size) {
  if (size == 0 || ::fallocate(file, 0, 0, static_cast<off_t>(size)) == 0) return ok_status();
  const int error = errno;
  if (error != ENOSPC && error != EDQUOT && error != EFBIG) return ok_status();
  std::error_code unknown;
  const auto space = std::filesystem::space(path, unknown);
  return errno_status(
      error, absl::StrCat("cannot make room for ", size, " bytes in ", path.string(),
                          unknown ? "" : absl::StrCat(" (", space.available, " are free)")));
}

}  // namespace

Result<HashedFileWriter> HashedFileWriter::create(const std::filesystem::path& path,
                                                  uint64_t size) {
  FileDescriptor file(::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
  if (!file.valid()) return errno_status(errno, absl::StrCat("cannot open ", path.string()));
  EMOE_RETURN_IF_ERROR(make_room(file.get(), path, size));
  // Of a file that fits into one block nothing is gained.
  FileDescriptor past_cache;
  if (size > kBlock) {
    past_cache = FileDescriptor(::open(path.c_str(), O_WRONLY | O_DIRECT | O_CLOEXEC));
  }
  return HashedFileWriter(
      std::make_unique<Threads>(std::move(file), std::move(past_cache), path.string(), size));
}

HashedFileWriter::HashedFileWriter(std::unique_ptr<Threads> threads)
    : threads_(std::move(threads)) {}
HashedFileWriter::HashedFileWriter(HashedFileWriter&&) noexcept = default;
HashedFileWriter& HashedFileWriter::operator=(HashedFileWriter&&) noexcept = default;
HashedFileWriter::~HashedFileWriter() = default;

Status HashedFileWriter::write(const void* data, size_t size) {
  return threads_->write(static_cast<const char*>(data), size);
}

Status HashedFileWriter::close() {
  return threads_->close();
}

const std::string& HashedFileWriter::sha256() const {
  return threads_->sha256();
}

}  // namespace emoe
