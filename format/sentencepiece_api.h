#pragma once

#include <cstddef>
#include <cstdint>

namespace emoe {

// SentencePiece, reached through a module of our own (libemoe_sentencepiece.so) that is loaded when
// first needed. Debian's libsentencepiece.so exports the old protobuf it carries inside; linked into
// a program that also uses libprotobuf, each calls into the other's functions and the program
// crashes before main. The module is therefore loaded apart (RTLD_LOCAL, RTLD_DEEPBIND), and offers
// plain functions: no C++ type crosses its border. Results go to sinks the caller gives; an error
// goes to the sink `error`, which is not called on success. Thread-safe for one processor.
struct SentencePieceApi {
  struct TextSink {
    void* context;
    void (*put)(void* context, const char* data, size_t size);
  };
  struct IdSink {
    void* context;
    void (*put)(void* context, const int32_t* ids, size_t count);
  };
  struct Option {
    const char* key;
    const char* value;
  };
  struct Sentence {
    const char* data;
    size_t size;
  };

  void* (*parse)(const char* model, size_t size, TextSink error);  // nullptr on error
  void (*destroy)(void* processor);
  void (*encode)(const void* processor, const char* text, size_t size, IdSink ids, TextSink error);
  void (*decode)(const void* processor, const int32_t* ids, size_t count, TextSink text,
                 TextSink error);
  void (*train)(const Sentence* sentences, size_t count, const Option* options, size_t option_count,
                TextSink model, TextSink error);
};

inline constexpr char kSentencePieceEntry[] = "emoe_sentencepiece_api";  // () -> const Api*

}  // namespace emoe
