#include "format/sentencepiece_model.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <functional>

#include <absl/strings/str_cat.h>

namespace emoe {
namespace {

// One field of a protobuf message on the wire.
struct Field {
  uint64_t number = 0;
  uint64_t value = 0;      // of a number
  std::string_view bytes;  // of a text or a message
};

enum class Walk { done, cut, foreign };  // cut: the text ends inside a field

bool take_varint(std::string_view& rest, uint64_t& value) {
  value = 0;
  for (int shift = 0; shift < 64 && !rest.empty(); shift += 7) {
    const auto byte = static_cast<unsigned char>(rest.front());
    rest.remove_prefix(1);
    value |= static_cast<uint64_t>(byte & 0x7F) << shift;
    if (byte < 0x80) return true;
  }
  return false;
}

bool take_bytes(std::string_view& rest, uint64_t size, std::string_view& bytes) {
  if (size > rest.size()) return false;
  bytes = rest.substr(0, size);
  rest.remove_prefix(size);
  return true;
}

Walk for_each_field(std::string_view rest, const std::function<bool(const Field&)>& visit) {
  static_assert(std::endian::native == std::endian::little);
  while (!rest.empty()) {
    uint64_t tag = 0;
    Field field;
    if (!take_varint(rest, tag)) return Walk::cut;
    field.number = tag >> 3;
    const auto kind = static_cast<int>(tag & 7);
    bool whole = true;
    if (kind == 0) {
      whole = take_varint(rest, field.value);
    } else if (kind == 1 || kind == 5) {
      whole = take_bytes(rest, kind == 1 ? 8 : 4, field.bytes);
      if (whole) std::memcpy(&field.value, field.bytes.data(), field.bytes.size());
    } else if (kind == 2) {
      uint64_t size = 0;
      whole = take_varint(rest, size) && take_bytes(rest, size, field.bytes);
    } else {
      return Walk::foreign;
    }
    if (!whole) return Walk::cut;
    if (field.number == 0 || !visit(field)) return Walk::foreign;
  }
  return Walk::done;
}

bool read_piece(std::string_view bytes, SentencePieceModel& model) {
  SentencePieceModel::Piece piece;
  const Walk walk = for_each_field(bytes, [&](const Field& field) {
    if (field.number == 1) piece.text = field.bytes;
    if (field.number == 2) piece.score = std::bit_cast<float>(static_cast<uint32_t>(field.value));
    if (field.number == 3) piece.type = static_cast<SentencePieceModel::Type>(field.value);
    return true;
  });
  model.pieces.push_back(std::move(piece));
  return walk == Walk::done;
}

bool read_trainer(std::string_view bytes, SentencePieceModel& model) {
  return for_each_field(bytes, [&](const Field& field) {
           if (field.number == 3) model.is_bpe = field.value == 2;
           if (field.number == 24 && field.value != 0) model.marks_spaces = false;
           if (field.number == 46) model.bos_piece = field.bytes;
           if (field.number == 47) model.eos_piece = field.bytes;
           return true;
         }) == Walk::done;
}

bool read_normalizer(std::string_view bytes, SentencePieceModel& model) {
  return for_each_field(bytes, [&](const Field& field) {
           if (field.number == 2) model.has_character_map = !field.bytes.empty();
           if (field.number == 3) model.add_dummy_prefix = field.value != 0;
           if (field.number == 4) model.remove_extra_whitespaces = field.value != 0;
           if (field.number == 5 && field.value == 0) model.marks_spaces = false;
           return true;
         }) == Walk::done;
}

}  // namespace

int32_t SentencePieceModel::find(std::string_view text) const {
  const auto found = std::ranges::find(pieces, text, &Piece::text);
  return found == pieces.end() ? -1 : static_cast<int32_t>(found - pieces.begin());
}

Result<SentencePieceModel> parse_sentencepiece(std::string_view bytes, const std::string& source) {
  SentencePieceModel model;
  bool has_trainer = false;
  const Walk walk = for_each_field(bytes, [&](const Field& field) {
    has_trainer = has_trainer || field.number == 2;
    return field.number == 1   ? read_piece(field.bytes, model)
           : field.number == 2 ? read_trainer(field.bytes, model)
           : field.number == 3 ? read_normalizer(field.bytes, model)
                               : true;
  });
  const bool begins_well = !model.pieces.empty() && !model.pieces.front().text.empty();
  // The settings come behind the pieces: a file cut between two pieces is well-formed without.
  if (begins_well && (walk == Walk::cut || (walk == Walk::done && !has_trainer))) {
    return absl::DataLossError(absl::StrCat(
        source, ": is cut short, as by a download that was not finished: it ends after ",
        model.pieces.size(), " pieces of a SentencePiece model"));
  }
  if (walk == Walk::done && begins_well) return model;
  return absl::DataLossError(absl::StrCat(source, ": is no SentencePiece model"));
}

std::string with_dummy_prefix(const std::string& bytes, bool prefix) {
  // Of a message that comes twice, protobuf takes the later values: normalizer_spec (field 3) with
  // nothing but add_dummy_prefix (field 3).
  return bytes + "\x1a\x02\x18" + (prefix ? '\1' : '\0');
}

}  // namespace emoe
