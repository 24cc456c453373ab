// SPDX-License-Identifier: Apache-2.0
#include "engine/device/cpu/router.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "engine/base/check.h"

namespace shoal::cpu {
namespace {

constexpr float kLeast = -std::numeric_limits<float>::infinity();

// An item of RouterLogits: so many rows times so many experts.
constexpr int64_t kLogitRows = 32;
constexpr int64_t kLogitExperts = 8;

// The scratch of one row's choice, carved from a thread's row scratch.
struct RowScratch {
  float* scores;        // [E] activated
  float* selection;     // [E] what experts are chosen by
  float* group_scores;  // [groups]
};

// A group is as good as its best expert or, for noaux_tc, as its two best together.
float GroupScore(TopkMethod method, const float* selection, int size) {
  float best = kLeast, second = kLeast;
  for (int e = 0; e < size; ++e) {
    if (selection[e] > best) {
      second = best;
      best = selection[e];
    } else if (selection[e] > second) {
      second = selection[e];
    }
  }
  return method == TopkMethod::kNoAuxTc && size > 1 ? best + second : best;
}

// Indices of the `count` largest of `values` that `allowed` admits, falling, ties to the lower
// index. Returns how many.
template <typename Allowed>
int Largest(const float* values, int n, int count, const Allowed& allowed, int32_t* chosen) {
  int size = 0;
  for (int i = 0; i < n; ++i) {
    if (!allowed(i) || (size == count && !(values[i] > values[chosen[size - 1]]))) continue;
    int at = size == count ? size - 1 : size++;
    for (; at > 0 && values[i] > values[chosen[at - 1]]; --at) chosen[at] = chosen[at - 1];
    chosen[at] = i;
  }
  return size;
}

void RouteRow(const Isa& isa, const RouterConfig& config, const RowScratch& scratch,
              const float* logits, const float* bias, int32_t* experts, float* weights) {
  const int n = config.n_routed_experts;
  const int k = config.num_experts_per_tok;
  float* scores = scratch.scores;
  if (config.scoring_func == ScoringFunc::kSoftmax) {
    isa.exp_minus(logits, *std::max_element(logits, logits + n), n, scores);
    float total = 0;
    for (int e = 0; e < n; ++e) total += scores[e];
    for (int e = 0; e < n; ++e) scores[e] /= total;
  } else {
    isa.sigmoid(logits, n, scores);
  }
  for (int e = 0; e < n; ++e) {
    const float selection = bias == nullptr ? scores[e] : scores[e] + bias[e];
    scratch.selection[e] = std::isnan(selection) ? kLeast : selection;
  }
  int chosen = 0;
  if (config.topk_method == TopkMethod::kGreedy || config.n_group <= 1) {
    chosen = Largest(
        scratch.selection, n, k, [](int) { return true; }, experts);
  } else {
    const int size = n / config.n_group;
    for (int g = 0; g < config.n_group; ++g) {
      scratch.group_scores[g] = GroupScore(config.topk_method, scratch.selection + g * size, size);
    }
    const auto kept = [&](int e) {
      const int group = e / size;
      int better = 0;
      for (int g = 0; g < config.n_group; ++g) {
        better += scratch.group_scores[g] > scratch.group_scores[group] ||
                  (scratch.group_scores[g] == scratch.group_scores[group] && g < group);
      }
      return better < config.topk_group;
    };
    // Asked once per group, not per expert.
    bool keep = false;
    chosen = Largest(
        scratch.selection, n, k, [&](int e) { return keep = e % size == 0 ? kept(e) : keep; },
        experts);
  }
  SHOAL_CHECK(chosen == k);  // the config promises topk_group * n / n_group >= k
  float total = 0;
  for (int i = 0; i < k; ++i) {
    weights[i] = scores[experts[i]];
    total += weights[i];
  }
  for (int i = 0; i < k; ++i) {
    if (config.norm_topk_prob) weights[i] /= total + 1e-20f;
    weights[i] *= config.routed_scaling_factor;
  }
}

}  // namespace

void RouterLogits(Context& context, TensorView x, TensorView w, TensorView logits) {
  const int64_t rows = x.dim(0), experts = w.dim(0), cols = w.dim(1);
  const int64_t row_items = (rows + kLogitRows - 1) / kLogitRows;
  const int64_t expert_items = (experts + kLogitExperts - 1) / kLogitExperts;
  const int64_t cost =
      kLogitExperts * cols * 2 * std::max<int64_t>(1, std::min(rows, kLogitRows) / 4);
  const Isa& isa = context.isa;
  context.For(row_items * expert_items, cost, [&](int64_t begin, int64_t end, int thread) {
    for (int64_t item = begin; item < end; ++item) {
      const int64_t first = item % row_items * kLogitRows;
      const int64_t count = std::min(kLogitRows, rows - first);
      const int64_t e = item / row_items * kLogitExperts;
      const int64_t n = std::min(kLogitExperts, experts - e);
      const float* in = x.f32() + first * cols;
      float* out = logits.f32() + first * experts + e;
      if (w.dtype() == DType::kBF16) {
        isa.router_bf16(in, count, w.as<uint16_t>() + e * cols, n, cols, out, experts);
      } else if (w.dtype() == DType::kF32) {
        isa.router_f32(in, count, w.f32() + e * cols, n, cols, out, experts);
      } else {
        SHOAL_CHECK(w.dtype() == DType::kF16);
        auto* wide =
            reinterpret_cast<float*>(context.threads[thread].row.Get(n * cols * sizeof(float)));
        isa.from_f16(w.as<uint16_t>() + e * cols, n * cols, wide);
        isa.router_f32(in, count, wide, n, cols, out, experts);
      }
    }
  });
}

void Route(Context& context, const RouterConfig& config, TensorView logits, TensorView bias,
           TensorView experts, TensorView weights) {
  const int64_t n = config.n_routed_experts, k = config.num_experts_per_tok;
  context.For(logits.dim(0), n * 32, [&](int64_t begin, int64_t end, int thread) {
    auto* floats = reinterpret_cast<float*>(
        context.threads[thread].row.Get((2 * n + config.n_group) * sizeof(float)));
    const RowScratch scratch = {floats, floats + n, floats + 2 * n};
    for (int64_t t = begin; t < end; ++t) {
      RouteRow(context.isa, config, scratch, logits.f32() + t * n,
               bias.rank() == 0 ? nullptr : bias.f32(), experts.as<int32_t>() + t * k,
               weights.f32() + t * k);
    }
  });
}

}  // namespace shoal::cpu
