#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "base/status.h"
#include "format/decoder_config.h"

namespace emoe {

// The neurons of one converted layer as N experts of equal size.
struct Partition {
  int32_t num_experts = 0;
  // [d_ff], expert of each neuron in the base model's order; each value d_ff / N times
  std::vector<int32_t> labels;
  double inertia = 0.0;  // sum of squared distances of L2-normalised gate rows to their mean
  std::string method;    // kmeans | random | contiguous | file
  int64_t seed = 0;
  std::string weight_hash;  // SHA-256 of the gate_proj rows it was made from, as stored
};

// OK, or INVALID_ARGUMENT with the numbers of experts that are possible.
[[nodiscard]] Status check_divides(int64_t d_ff, int32_t num_experts);

// OK when each of num_experts labels stands there d_ff / num_experts times; INVALID_ARGUMENT with
// the first thing that is wrong.
[[nodiscard]] Status check_labels(const Partition& partition, int64_t d_ff);

// partition/layer_NN.json: {"layer", "experts", "method", "seed", "inertia", "weight_hash",
// "labels": [d_ff]}. NN has two digits, or as many as the layer needs.
[[nodiscard]] std::filesystem::path partition_file(const std::filesystem::path& folder,
                                                   int64_t layer);

// The text of a partition file, and a text as one: INVALID_ARGUMENT for what is none or has labels
// that are not balanced. weight_hash and seed may be missing (labels of another tool).
[[nodiscard]] std::string partition_to_json(int64_t layer, const Partition& partition);
[[nodiscard]] Result<Partition> partition_from_json(const std::string& text);

// Creates the folder where it is missing; atomic.
[[nodiscard]] Status write_partition(const std::filesystem::path& folder, int64_t layer,
                                     const Partition& partition);
// NOT_FOUND, or as partition_from_json().
[[nodiscard]] Result<Partition> read_partition(const std::filesystem::path& folder, int64_t layer);

// read_partition() for a job that wants so many experts of a layer of d_ff neurons:
// INVALID_ARGUMENT, naming the file, where it has others.
[[nodiscard]] Result<Partition> read_partition_for(const std::filesystem::path& folder,
                                                   int64_t layer, int32_t num_experts,
                                                   int64_t d_ff);
// A model folder whose feed-forward layers lie expert after expert says by what partitions, in files of
// this folder in it; their labels are in the order that the neurons had before.
inline constexpr char kNeuronOrderFolder[] = "neuron_order";
// Layer → partition. NOT_FOUND where the model folder has none; INVALID_ARGUMENT for one of another model.
[[nodiscard]] Result<std::map<int64_t, Partition>> read_neuron_order(
    const std::filesystem::path& model, const DecoderConfig& config);
// FAILED_PRECONDITION where one of these layers, which are to be written in another order, lies in one of
// a neuron_order/ already: a second one could not be told.
[[nodiscard]] Status check_order_is_original(const std::filesystem::path& model,
                                             const DecoderConfig& config,
                                             const std::vector<int64_t>& layers);

// FAILED_PRECONDITION where the partition was made from other weights than those of this hash; one
// whose weight_hash is "" (labels of another tool) is of any.
[[nodiscard]] Status check_partition_weights(const Partition& partition,
                                             const std::filesystem::path& file,
                                             const std::string& weight_hash);

}  // namespace emoe
