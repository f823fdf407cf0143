#include "base/background_hash.h"

#include <utility>

namespace emoe {

BackgroundHash::BackgroundHash() : thread_([this] { work(); }) {}

BackgroundHash::~BackgroundHash() {
  if (!thread_.joinable()) return;
  {
    const std::scoped_lock lock(mutex_);
    pieces_.clear();
    ended_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void BackgroundHash::add(std::span<const std::byte> bytes, std::shared_ptr<const void> owner) {
  {
    std::unique_lock lock(mutex_);
    // A piece larger than all that may wait is taken alone.
    changed_.wait(lock, [&] { return waiting_ == 0 || waiting_ + bytes.size() <= kMostWaiting; });
    waiting_ += bytes.size();
    pieces_.push_back({bytes, std::move(owner)});
  }
  changed_.notify_all();
}

std::string BackgroundHash::finish() {
  {
    const std::scoped_lock lock(mutex_);
    ended_ = true;
  }
  changed_.notify_all();
  thread_.join();
  return hash_.hex_digest();
}

void BackgroundHash::work() {
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [this] { return ended_ || !pieces_.empty(); });
    if (pieces_.empty()) return;
    Piece piece = std::move(pieces_.front());
    pieces_.pop_front();
    lock.unlock();
    hash_.update(piece.bytes.data(), piece.bytes.size());
    piece.owner.reset();
    lock.lock();
    waiting_ -= piece.bytes.size();
    changed_.notify_all();
  }
}

}  // namespace emoe
