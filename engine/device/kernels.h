// SPDX-License-Identifier: Apache-2.0
// The whole backend contract: implement these operations and a backend is done.
//
// One property binds all of them: an output row is a function of its own inputs only. How many rows
// run beside it, in which order, on how many threads, must not change one bit of it; so every
// reduction has a fixed order (along K for a product, along the context in fixed tiles for
// attention). The property tests hold every backend to it.
//
// Shape letters: T rows of the step, D hidden_size, H heads, R kv_lora_rank, P qk_rope_head_dim, E
// experts, K experts per token, F intermediate width, V vocabulary. `act` is activation_dtype():
// what rows are rounded to where they enter a product or travel to another rank. Scratch is the
// backend's own, sized by Reserve.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "engine/base/ids.h"
#include "engine/config/model_config.h"
#include "engine/device/stream.h"
#include "engine/tensor/quant_tensor.h"
#include "engine/tensor/tensor.h"

namespace shoal {

// Memory of the device, 64-byte aligned, zeroed, huge pages where the system grants them.
class DeviceBuffer {
 public:
  virtual ~DeviceBuffer() = default;
  virtual void* data() = 0;
  virtual size_t bytes() const = 0;
};

// A matrix [rows, cols] in whatever form the backend multiplies by; with `heads` > 1, as many of
// them.
class PreparedWeight {
 public:
  virtual ~PreparedWeight() = default;
  int64_t heads = 1;
  int64_t rows = 0;                  // N: outputs
  int64_t cols = 0;                  // K: inputs
  virtual size_t bytes() const = 0;  // device memory it occupies = what one full read of it moves
};

// How a linear layer treats its input. Official FP8 numerics (DeepSeek-V3 inference/kernel.py):
// quantise each row per 128 columns to E4M3 with scale max(|x|, 1e-4) / 448, rounded up to a power
// of two if `ue8m0`; sum per block in f32.
struct LinearOptions {
  bool fp8_activations = false;  // only for weights that are E4M3 themselves
  bool ue8m0_scales = false;
};

// down(silu(gate x) * (up x)).
struct FfnWeights {
  std::unique_ptr<PreparedWeight> gate;  // [F, D]
  std::unique_ptr<PreparedWeight> up;    // [F, D]
  std::unique_ptr<PreparedWeight> down;  // [D, F]
};

// Rows grouped by expert: expert i owns rows [row_offsets[i], row_offsets[i+1]) of x and y.
struct GroupedFfnParams {
  TensorView x;  // [N, D] act or f32
  absl::Span<const FfnWeights* const> experts;
  absl::Span<const int32_t> row_offsets;  // experts.size() + 1 entries, ascending from 0 to N
  TensorView y;                           // [N, D] f32 or act: rounded once, at the end
};

// Where one sequence's rows stand in the step and its cache blocks in the pool.
struct AttendSequence {
  int32_t first_row = 0;  // in the step
  int32_t row_count = 0;
  // Position of first_row; it and the following rows see positions 0..their own.
  int32_t start_position = 0;
  absl::Span<const BlockId> block_table;  // covers start_position + row_count tokens
};

// Rope tables of one attention: cos and sin of position * inv_freq, times the mscale ratio.
// Interleaved pairs.
struct RopeTable {
  absl::Span<const float> cos;  // [max_positions, P/2]
  absl::Span<const float> sin;
  int dim = 0;  // P
};

// Latent rows into the cache: c = RmsNorm(kv[:, :R]; norm), k_pe = Rope(kv[:, R:]).
struct MlaAppendParams {
  TensorView kv;    // [T, R+P] f32, output of kv_a_proj_with_mqa
  TensorView norm;  // [R] f32, kv_a_layernorm
  float eps = 1e-6f;
  RopeTable rope;
  absl::Span<const int32_t> positions;  // [T]
  // [T] row of the pool: block * block_tokens + offset in the block.
  absl::Span<const int64_t> slots;
  TensorView pool;  // [blocks * block_tokens, R+P] cache_dtype()
};

// Absorbed queries (DeepSeek-V2, arXiv:2405.04434, sec. 2.1.2): [q_nope Wuk | Rope(q_pe)].
struct MlaQueryParams {
  TensorView q;                         // [T, H, nope+P] f32, output of q_b_proj (or q_proj)
  const PreparedWeight* wuk = nullptr;  // heads H, [R, nope]
  RopeTable rope;
  absl::Span<const int32_t> positions;  // [T]
  TensorView out;                       // [T, H, R+P] act
};

// u = softmax(scale * q . rows) rows[:R], causal, one pass over the context in fixed tiles of the
// block size.
struct MlaAttendParams {
  TensorView q;     // [T, H, R+P] act
  TensorView pool;  // [blocks * block_tokens, R+P] cache_dtype()
  int block_tokens = 0;
  absl::Span<const AttendSequence> sequences;
  float scale = 0;  // (nope+P)^-0.5 * mscale^2
  TensorView out;   // [T, H, R] act
};

// y[t] = shared[t] + sum over k = 0..K-1, in that order, of weights[t, k] * rows[t * K + k], in
// f32.
struct CombineParams {
  // T*K rows of D elements, in `row_dtype`, wherever they arrived.
  absl::Span<const void* const> rows;
  DType row_dtype = DType::kF32;
  TensorView weights;  // [T, K] f32
  TensorView shared;   // [T, D] f32; rank 0: none
  TensorView y;        // [T, D] f32
};

class Kernels {
 public:
  virtual ~Kernels() = default;

  virtual absl::string_view name() const = 0;  // "reference", "cpu"
  // Two workers compute the same bits if and only if these are equal: "cpu avx512_bf16".
  virtual std::string numerics() const = 0;
  virtual DType activation_dtype() const = 0;  // rows entering products, and on the wire
  virtual DType cache_dtype() const = 0;
  // Largest step, so that scratch is allocated once. Called before the first operation.
  virtual absl::Status Reserve(int64_t max_rows, const ModelConfig& config) = 0;

  virtual std::unique_ptr<Stream> NewStream() = 0;
  // Errors: ResourceExhausted, with bytes wanted.
  virtual absl::StatusOr<std::unique_ptr<DeviceBuffer>> Allocate(size_t bytes) = 0;

  // Weights, once at load. The view may be dropped afterwards. Safe to call from several threads at
  // once.
  virtual absl::StatusOr<std::unique_ptr<PreparedWeight>> PrepareLinear(
      const QuantTensor& weight, const LinearOptions& options) = 0;
  // Rows [first_row, first_row + row_count) of each of `heads` equal slices of `weight` [heads * S,
  // K], dequantised; with `transpose`, each head's matrix transposed ([row_count, K] becomes [K,
  // row_count]).
  virtual absl::StatusOr<std::unique_ptr<PreparedWeight>> PrepareHeads(const QuantTensor& weight,
                                                                       int64_t heads,
                                                                       int64_t first_row,
                                                                       int64_t row_count,
                                                                       bool transpose) = 0;

  // x[t] = table[tokens[t]]; table [V, D] as stored, x [T, D] f32.
  virtual void Embed(Stream& stream, absl::Span<const int32_t> tokens, TensorView table,
                     TensorView x) = 0;
  // y = w * x * rsqrt(mean(x^2) + eps), in f32. x [T, D] f32, w [D] f32, y [T, D] f32 or act.
  virtual void RmsNorm(Stream& stream, TensorView x, TensorView w, float eps, TensorView y) = 0;
  // x += y. Both [T, D] f32.
  virtual void Add(Stream& stream, TensorView x, TensorView y) = 0;
  // y = x rounded to y's dtype.
  virtual void Convert(Stream& stream, TensorView x, TensorView y) = 0;
  // dst[i] = src[rows[i]]; src [T, D]; dst: rows.size() rows of the same dtype, possibly in a
  // peer's memory.
  virtual void GatherRows(Stream& stream, TensorView src, absl::Span<const int32_t> rows,
                          void* dst) = 0;

  // y[t, n] = sum_k x[t, k] * w[n, k], summed in f32 along k. x [T, K] f32 (rounded to act first)
  // or act; y [T, N] f32 or act.
  virtual void Linear(Stream& stream, TensorView x, const PreparedWeight& w, TensorView y) = 0;
  // The same for each head with its own matrix: x [T, H, K] act, y [T, H, N] f32 or act.
  virtual void LinearHeads(Stream& stream, TensorView x, const PreparedWeight& w, TensorView y) = 0;
  // logits = x w^T with neither rounded: the router. x [T, D] f32, w [E, D] as stored, logits [T,
  // E] f32.
  virtual void RouterLogits(Stream& stream, TensorView x, TensorView w, TensorView logits) = 0;
  // Chooses K experts for each row, as config says (softmax, groups, or DeepSeek-V3
  // arXiv:2412.19437 eqs. 12-16). logits [T, E] f32; bias [E] f32 or rank 0; experts [T, K] i32
  // out: by falling selection score, ties to the lower id; weights [T, K] f32 out: final.
  virtual void Route(Stream& stream, const RouterConfig& config, TensorView logits, TensorView bias,
                     TensorView experts, TensorView weights) = 0;
  virtual void GroupedFfn(Stream& stream, const GroupedFfnParams& params) = 0;
  virtual void Combine(Stream& stream, const CombineParams& params) = 0;

  virtual void MlaAppend(Stream& stream, const MlaAppendParams& params) = 0;
  virtual void MlaQuery(Stream& stream, const MlaQueryParams& params) = 0;
  virtual void MlaAttend(Stream& stream, const MlaAttendParams& params) = 0;
};

struct BackendOptions {
  int threads = 0;  // 0: as many as the process may use
};

// "reference" or "cpu". Errors: Unimplemented naming a backend that this build lacks;
// InvalidArgument otherwise.
absl::StatusOr<std::unique_ptr<Kernels>> CreateKernels(absl::string_view name,
                                                       const BackendOptions& options);

}  // namespace shoal
