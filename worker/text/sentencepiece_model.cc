#include "worker/text/sentencepiece_model.h"

#include <unordered_map>

#include <sentencepiece_processor.h>
#include <sentencepiece_trainer.h>

namespace emoe::worker {
namespace {

std::string text_of(const sentencepiece::util::Status& status) {
  return status.ok() ? std::string() : std::string(status.error_message());
}

class VectorIterator final : public sentencepiece::SentenceIterator {
 public:
  explicit VectorIterator(const std::vector<std::string>& sentences) : sentences_(sentences) {}
  bool done() const override { return next_ == sentences_.size(); }
  void Next() override { ++next_; }
  const std::string& value() const override { return sentences_[next_]; }
  sentencepiece::util::Status status() const override { return {}; }

 private:
  const std::vector<std::string>& sentences_;
  size_t next_ = 0;
};

}  // namespace

struct SentencePieceModel::Impl {
  sentencepiece::SentencePieceProcessor processor;
};

SentencePieceModel::SentencePieceModel() : impl_(std::make_unique<Impl>()) {}
SentencePieceModel::SentencePieceModel(SentencePieceModel&&) noexcept = default;
SentencePieceModel& SentencePieceModel::operator=(SentencePieceModel&&) noexcept = default;
SentencePieceModel::~SentencePieceModel() = default;

std::string SentencePieceModel::parse(const std::string& serialized) {
  // An empty protobuf message is well-formed, and the library aborts on a model without pieces.
  if (serialized.empty()) return "the file is empty";
  return text_of(impl_->processor.LoadFromSerializedProto(serialized));
}

int32_t SentencePieceModel::size() const {
  return impl_->processor.GetPieceSize();
}
int32_t SentencePieceModel::bos() const {
  return impl_->processor.bos_id();
}
int32_t SentencePieceModel::eos() const {
  return impl_->processor.eos_id();
}

std::string SentencePieceModel::encode(const std::string& text, std::vector<int32_t>& ids) const {
  return text_of(impl_->processor.Encode(text, &ids));
}

std::string SentencePieceModel::decode(const std::vector<int32_t>& ids, std::string& text) const {
  return text_of(impl_->processor.Decode(ids, &text));
}

std::string SentencePieceModel::piece(int32_t id) const {
  return impl_->processor.IdToPiece(id);
}

std::string train_sentencepiece(const std::vector<std::string>& sentences,
                                const std::vector<std::pair<std::string, std::string>>& options,
                                std::string& model) {
  const std::unordered_map<std::string, std::string> flags(options.begin(), options.end());
  VectorIterator iterator(sentences);
  return text_of(sentencepiece::SentencePieceTrainer::Train(flags, &iterator, &model));
}

}  // namespace emoe::worker
