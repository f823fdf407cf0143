// The module libemoe_sentencepiece.so: SentencePiece behind plain functions (sentencepiece_api.h
// says why it is a module).
#include <string>
#include <unordered_map>
#include <vector>

#include <sentencepiece_processor.h>
#include <sentencepiece_trainer.h>

#include "format/sentencepiece_api.h"

namespace emoe {
namespace {

using Api = SentencePieceApi;
using sentencepiece::SentencePieceProcessor;

bool report(const sentencepiece::util::Status& status, Api::TextSink error) {
  if (status.ok()) return true;
  const std::string text = status.ToString();
  error.put(error.context, text.data(), text.size());
  return false;
}

const SentencePieceProcessor& processor_of(const void* handle) {
  return *static_cast<const SentencePieceProcessor*>(handle);
}

class Sentences final : public sentencepiece::SentenceIterator {
 public:
  Sentences(const Api::Sentence* sentences, size_t count) : next_(sentences), left_(count) {
    take();
  }
  bool done() const override { return left_ == 0; }
  void Next() override {
    ++next_;
    --left_;
    take();
  }
  const std::string& value() const override { return value_; }
  sentencepiece::util::Status status() const override { return {}; }

 private:
  void take() {
    if (left_ > 0) value_.assign(next_->data, next_->size);
  }
  const Api::Sentence* next_;
  size_t left_;
  std::string value_;
};

void* parse(const char* model, size_t size, Api::TextSink error) {
  auto processor = std::make_unique<SentencePieceProcessor>();
  if (!report(processor->LoadFromSerializedProto({model, size}), error)) return nullptr;
  return processor.release();
}

void encode(const void* handle, const char* text, size_t size, Api::IdSink sink,
            Api::TextSink error) {
  std::vector<int> ids;
  if (report(processor_of(handle).Encode({text, size}, &ids), error)) {
    sink.put(sink.context, ids.data(), ids.size());
  }
}

void decode(const void* handle, const int32_t* ids, size_t count, Api::TextSink sink,
            Api::TextSink error) {
  std::string text;
  if (report(processor_of(handle).Decode(std::vector<int>(ids, ids + count), &text), error)) {
    sink.put(sink.context, text.data(), text.size());
  }
}

void train(const Api::Sentence* sentences, size_t count, const Api::Option* options,
           size_t option_count, Api::TextSink model, Api::TextSink error) {
  std::unordered_map<std::string, std::string> flags;
  for (size_t i = 0; i < option_count; ++i) flags[options[i].key] = options[i].value;
  Sentences iterator(sentences, count);
  std::string bytes;
  if (report(sentencepiece::SentencePieceTrainer::Train(flags, &iterator, &bytes), error)) {
    model.put(model.context, bytes.data(), bytes.size());
  }
}

constexpr Api kApi{
    .parse = parse,
    .destroy = [](void* handle) { delete static_cast<SentencePieceProcessor*>(handle); },
    .encode = encode,
    .decode = decode,
    .train = train,
};

}  // namespace
}  // namespace emoe

extern "C" __attribute__((visibility("default"))) const void* emoe_sentencepiece_api() {
  return &emoe::kApi;
}
