#pragma once

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <thread>

#include "base/sha256.h"

namespace emoe {

// SHA-256 of a stream that a thread of its own reads while the caller goes on: hashing a file beside
// writing it takes as long as the slower of the two. Used by one caller.
class BackgroundHash {
 public:
  // So much may wait to be hashed; add() waits for the rest.
  static constexpr size_t kMostWaiting = 16 << 20;

  BackgroundHash();
  ~BackgroundHash();  // what still waits is dropped
  BackgroundHash(const BackgroundHash&) = delete;
  BackgroundHash& operator=(const BackgroundHash&) = delete;

  // The bytes are read later: they stay as they are as long as `owner` lives, or, without one, until
  // finish() or the end of this object.
  void add(std::span<const std::byte> bytes, std::shared_ptr<const void> owner);
  // 64 lower-case hexadecimal digits; ends the stream.
  [[nodiscard]] std::string finish();

 private:
  struct Piece {
    std::span<const std::byte> bytes;
    std::shared_ptr<const void> owner;
  };
  void work();

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Piece> pieces_;
  size_t waiting_ = 0;  // bytes, of the piece being hashed too
  bool ended_ = false;
  Sha256 hash_;  // the thread's, until it ends
  std::thread thread_;
};

}  // namespace emoe
