#include "worker/text/sentencepiece_model.h"

#include <filesystem>

#include <absl/strings/str_cat.h>
#include <dlfcn.h>

#include "base/check.h"
#include "worker/text/sentencepiece_api.h"

namespace emoe::worker {
namespace {

struct Module {
  const SentencePieceApi* api = nullptr;
  std::string error;
};

// Beside the program (an installed or bundled one), else where the build put it.
Module load_module() {
  std::error_code ignored;
  const std::filesystem::path built = EMOE_SENTENCEPIECE_MODULE;
  std::filesystem::path file =
      std::filesystem::read_symlink("/proc/self/exe", ignored).parent_path() / built.filename();
  if (!std::filesystem::exists(file, ignored)) file = built;
  // dlmopen into the base namespace is dlopen, but the sanitizers do not forbid RTLD_DEEPBIND in
  // it; no memory crosses the module's border, so that what they fear cannot happen.
  void* handle = ::dlmopen(LM_ID_BASE, file.c_str(), RTLD_NOW | RTLD_LOCAL | RTLD_DEEPBIND);
  if (handle == nullptr) return {.error = ::dlerror()};
  using Entry = const SentencePieceApi* (*)();
  const auto entry = reinterpret_cast<Entry>(::dlsym(handle, kSentencePieceEntry));
  if (entry == nullptr) return {.error = ::dlerror()};
  return {.api = entry()};  // stays loaded as long as the process
}

const Module& module() {
  static const Module loaded = load_module();
  return loaded;
}

SentencePieceApi::TextSink into(std::string& text) {
  return {&text, [](void* context, const char* data, size_t size) {
            static_cast<std::string*>(context)->assign(data, size);
          }};
}

// Loads the module where that is still to be done.
Status need_module() {
  if (module().api != nullptr) return ok_status();
  return absl::InternalError(
      absl::StrCat("cannot load the SentencePiece module: ", module().error));
}

const SentencePieceApi& api() {
  EMOE_CHECK(module().api != nullptr, "parse() comes first");
  return *module().api;
}

}  // namespace

Status SentencePieceModel::parse(const std::string& serialized) {
  EMOE_RETURN_IF_ERROR(need_module());
  // An empty protobuf message is well-formed; the library would take it.
  std::string error = serialized.empty() ? "the file is empty" : "";
  if (error.empty()) {
    processor_ = {api().parse(serialized.data(), serialized.size(), into(error)), api().destroy};
  }
  if (error.empty()) return ok_status();
  return absl::DataLossError(absl::StrCat("is no SentencePiece model (", error, ")"));
}

int32_t SentencePieceModel::size() const {
  return api().size(processor_.get());
}
int32_t SentencePieceModel::bos() const {
  return api().bos(processor_.get());
}
int32_t SentencePieceModel::eos() const {
  return api().eos(processor_.get());
}

Result<std::vector<int32_t>> SentencePieceModel::encode(const std::string& text) const {
  std::string error;
  std::vector<int32_t> ids;
  const SentencePieceApi::IdSink sink{&ids, [](void* context, const int32_t* data, size_t count) {
                                        static_cast<std::vector<int32_t>*>(context)->assign(
                                            data, data + count);
                                      }};
  api().encode(processor_.get(), text.data(), text.size(), sink, into(error));
  if (!error.empty()) return absl::InternalError(error);
  return ids;
}

Result<std::string> SentencePieceModel::decode(const std::vector<int32_t>& ids) const {
  std::string error;
  std::string text;
  api().decode(processor_.get(), ids.data(), ids.size(), into(text), into(error));
  if (!error.empty()) return absl::InternalError(error);
  return text;
}

Result<std::string> train_sentencepiece(
    const std::vector<std::string>& sentences,
    const std::vector<std::pair<std::string, std::string>>& options) {
  EMOE_RETURN_IF_ERROR(need_module());
  std::vector<SentencePieceApi::Sentence> lines;
  for (const std::string& sentence : sentences) lines.push_back({sentence.data(), sentence.size()});
  std::vector<SentencePieceApi::Option> flags;
  for (const auto& [key, value] : options) flags.push_back({key.c_str(), value.c_str()});
  std::string error;
  std::string model;
  api().train(lines.data(), lines.size(), flags.data(), flags.size(), into(model), into(error));
  if (!error.empty()) return absl::InvalidArgumentError(error);
  return model;
}

}  // namespace emoe::worker
