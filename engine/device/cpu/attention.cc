// SPDX-License-Identifier: Apache-2.0
#include "engine/device/cpu/attention.h"

#include <algorithm>
#include <cstring>

#include "engine/base/status_macros.h"
#include "engine/device/cpu/simd/math_constants.h"

namespace shoal::cpu {
namespace {

constexpr int64_t kSegment = 512;      // positions; a multiple of kTilePositions
constexpr int kGroupColumns = 8;       // 8 x (16 heads x 512 f32 + query) stay in L2
constexpr int64_t kMaxPartials = 256;  // segments computed apart at once: 8 MiB at R = 512

constexpr int64_t RoundUp(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

}  // namespace

struct Attention::Shape {
  explicit Shape(const MlaAttendParams& p)
      : params(p),
        heads(p.q.dim(1)),
        width(p.q.dim(2)),
        latent(p.out.dim(2)),
        even_width(RoundUp(width, 2)),
        value_width(RoundUp(latent, kValueUnit)),
        tile_stride(RoundUp(std::max(width, value_width), kValueUnit)),
        // Tiles can be read where they lie if each is in one block and vectors end inside a row.
        in_place(p.block_tokens % kTilePositions == 0 && width == even_width &&
                 value_width <= width),
        scale(p.scale * kLog2E) {}

  int64_t columns_per_row() const { return (heads + kColumnHeads - 1) / kColumnHeads; }
  int64_t state_floats() const { return kColumnHeads * (2 + value_width); }
  ColumnState State(float* base) const {
    return {base, base + kColumnHeads, base + 2 * kColumnHeads};
  }
  int column_heads(const Column& column) const {
    return static_cast<int>(std::min<int64_t>(kColumnHeads, heads - column.head));
  }
  const uint16_t* Query(const Column& column) const {
    return params.q.as<uint16_t>() + (column.row * heads + column.head) * width;
  }
  uint16_t* Out(const Column& column) const {
    return params.out.as<uint16_t>() + (column.row * heads + column.head) * latent;
  }

  const MlaAttendParams& params;
  int64_t heads, width, latent;
  int64_t even_width, value_width, tile_stride;
  bool in_place;
  float scale;
};

// One thread's scratch: packed queries, states of the segment and of the whole context, and a
// tile's scores, weights and (if it cannot be read in place) rows.
class Attention::Worker {
 public:
  static size_t Bytes(const Shape& shape) {
    return sizeof(float) *
               (kGroupColumns * (shape.even_width / 2 * kColumnHeads + 2 * shape.state_floats()) +
                3 * kTilePositions * kColumnHeads) +
           sizeof(uint16_t) * kTilePositions * shape.tile_stride;
  }

  Worker(const Isa& isa, const Shape& shape, Scratch& scratch) : isa_(isa), shape_(shape) {
    auto* p = reinterpret_cast<float*>(scratch.Get(Bytes(shape)));
    const auto take = [&p](int64_t floats) {
      float* taken = p;
      p += floats;
      return taken;
    };
    segment_ = take(kGroupColumns * shape.state_floats());
    whole_ = take(kGroupColumns * shape.state_floats());
    scores_[0] = take(kTilePositions * kColumnHeads);
    scores_[1] = take(kTilePositions * kColumnHeads);
    weights_ = reinterpret_cast<uint32_t*>(take(kTilePositions * kColumnHeads));
    queries_ =
        reinterpret_cast<uint32_t*>(take(kGroupColumns * shape.even_width / 2 * kColumnHeads));
    tile_ = reinterpret_cast<uint16_t*>(p);
  }

  uint32_t* query(int64_t i) const { return queries_ + i * shape_.even_width / 2 * kColumnHeads; }
  ColumnState segment(int64_t i) const {
    return shape_.State(segment_ + i * shape_.state_floats());
  }
  ColumnState whole(int64_t i) const { return shape_.State(whole_ + i * shape_.state_floats()); }

  void Pack(absl::Span<const Column> columns) {
    for (size_t i = 0; i < columns.size(); ++i) {
      isa_.pack_column(shape_.Query(columns[i]), shape_.width, shape_.column_heads(columns[i]),
                       query(i));
    }
  }

  // Folds positions [begin, begin + kSegment) into states[i] of each column that sees any of them.
  template <typename States>
  void Segment(absl::Span<const Column> columns, int64_t begin, const States& states) {
    int64_t end = begin;
    for (const Column& column : columns)
      end = std::max(end, std::min(column.context, begin + kSegment));
    for (int64_t tile = begin; tile < end; tile += kTilePositions) {
      const uint16_t* rows =
          Tile(*columns[0].sequence, tile, std::min<int64_t>(end - tile, kTilePositions));
      const uint16_t* next = rows;
      if (tile + kTilePositions < end) next = Row(*columns[0].sequence, tile + kTilePositions);
      for (size_t i = 0; i < columns.size(); i += 2) {
        const bool two = i + 1 < columns.size();
        const int positions[2] = {Positions(columns[i], tile),
                                  two ? Positions(columns[i + 1], tile) : 0};
        const int most = std::max(positions[0], positions[1]);
        if (most == 0) continue;
        isa_.tile_scores(query(i), two ? query(i + 1) : nullptr, rows, stride_, shape_.even_width,
                         most, i == 0 ? next : rows, scores_[0], scores_[1]);
        for (int j = 0; j < 2; ++j) {
          if (positions[j] == 0) continue;
          isa_.tile_values(scores_[j], rows, stride_, shape_.value_width, positions[j],
                           shape_.scale, tile == begin, weights_, states(i + j));
        }
      }
    }
  }

 private:
  static int Positions(const Column& column, int64_t tile) {
    return static_cast<int>(std::clamp<int64_t>(column.context - tile, 0, kTilePositions));
  }

  const uint16_t* Row(const AttendSequence& sequence, int64_t position) const {
    const int64_t block_tokens = shape_.params.block_tokens;
    const int64_t block = sequence.block_table[position / block_tokens].value();
    return shape_.params.pool.as<uint16_t>() +
           (block * block_tokens + position % block_tokens) * shape_.width;
  }

  // Cache rows [begin, begin + count) of a sequence, stride_ elements apart.
  const uint16_t* Tile(const AttendSequence& sequence, int64_t begin, int64_t count) {
    if (shape_.in_place) {
      stride_ = shape_.width;
      return Row(sequence, begin);
    }
    stride_ = shape_.tile_stride;
    for (int64_t i = 0; i < count; ++i) {
      uint16_t* out = tile_ + i * stride_;
      std::memcpy(out, Row(sequence, begin + i), shape_.width * sizeof(uint16_t));
      std::fill(out + shape_.width, out + stride_, 0);
    }
    return tile_;
  }

  const Isa& isa_;
  const Shape& shape_;
  float* segment_;
  float* whole_;
  float* scores_[2];
  uint32_t* weights_;
  uint32_t* queries_;
  uint16_t* tile_;
  int64_t stride_ = 0;
};

absl::Status Attention::Reserve(Context& context, int64_t max_rows, int64_t heads, int64_t width,
                                int64_t latent) {
  MlaAttendParams params;
  params.q = TensorView(nullptr, DType::kBF16, {max_rows, heads, width});
  params.out = TensorView(nullptr, DType::kBF16, {max_rows, heads, latent});
  params.block_tokens = 1;
  const Shape shape(params);
  columns_.reserve(max_rows * shape.columns_per_row());
  groups_.reserve(max_rows * shape.columns_per_row());
  for (ThreadScratch& thread : context.threads) {
    SHOAL_RETURN_IF_ERROR(thread.attention.Reserve(Worker::Bytes(shape)));
  }
  const int64_t few = 2 * context.pool.threads();
  return context.partials.Reserve((kMaxPartials + few) * shape.state_floats() * sizeof(float));
}

void Attention::Run(Context& context, const MlaAttendParams& params) {
  const Shape shape(params);
  columns_.clear();
  groups_.clear();
  int64_t partials = 0;
  for (const AttendSequence& sequence : params.sequences) {
    for (int64_t i = 0; i < sequence.row_count; ++i) {
      for (int64_t head = 0; head < shape.heads; head += kColumnHeads) {
        const int64_t seen = sequence.start_position + i + 1;
        columns_.push_back({&sequence, sequence.first_row + i, head, seen, partials});
        partials += (seen + kSegment - 1) / kSegment;
      }
    }
  }
  const auto few = static_cast<size_t>(2 * context.pool.threads());
  if (columns_.size() < few && context.pool.threads() > 1 &&
      partials > static_cast<int64_t>(columns_.size())) {
    RunSegments(context, shape);
  } else {
    RunGroups(context, shape);
  }
}

void Attention::RunGroups(Context& context, const Shape& shape) {
  // Large groups read the cache less often; small ones keep all threads busy.
  const auto columns = static_cast<int64_t>(columns_.size());
  const int64_t share = columns / (4 * context.pool.threads());
  const int64_t most = std::clamp<int64_t>(share / 2 * 2, 1, kGroupColumns);
  for (int64_t i = 0; i < columns;) {
    Group group = {i, 1};
    while (group.count < most && i + group.count < columns &&
           columns_[i + group.count].sequence == columns_[i].sequence) {
      ++group.count;
    }
    groups_.push_back(group);
    i += group.count;
  }
  context.pool.For(
      static_cast<int64_t>(groups_.size()), 1, [&](int64_t begin, int64_t end, int thread) {
        Worker worker(context.isa, shape, context.threads[thread].attention);
        for (int64_t item = begin; item < end; ++item) {
          // The last rows of a prompt see the most: they go first.
          const Group& group = groups_[groups_.size() - 1 - item];
          const auto members = absl::MakeConstSpan(columns_).subspan(group.first, group.count);
          worker.Pack(members);
          int64_t context_end = 0;
          for (const Column& column : members) context_end = std::max(context_end, column.context);
          for (int64_t at = 0; at < context_end; at += kSegment) {
            worker.Segment(members, at, [&](int64_t i) { return worker.segment(i); });
            for (size_t i = 0; i < members.size(); ++i) {
              if (members[i].context > at && members[i].context > kSegment) {
                context.isa.merge_columns(worker.whole(i), worker.segment(i), shape.value_width,
                                          shape.scale, at == 0);
              }
            }
          }
          for (size_t i = 0; i < members.size(); ++i) {
            context.isa.finish_column(
                members[i].context > kSegment ? worker.whole(i) : worker.segment(i),
                shape.value_width, shape.column_heads(members[i]), shape.latent,
                shape.Out(members[i]), shape.latent);
          }
        }
      });
}

// Few rows with long contexts: segments are shared out, then folded in order.
void Attention::RunSegments(Context& context, const Shape& shape) {
  const auto columns = static_cast<int64_t>(columns_.size());
  auto* states = reinterpret_cast<float*>(
      context.partials.Get((kMaxPartials + columns) * shape.state_floats() * sizeof(float)));
  const auto whole = [&](int64_t column) {
    return shape.State(states + column * shape.state_floats());
  };
  const auto partial = [&](int64_t i) {
    return shape.State(states + (columns + i) * shape.state_floats());
  };
  const Column& last = columns_.back();
  const int64_t total = last.partial + (last.context + kSegment - 1) / kSegment;
  const auto column_of = [&](int64_t segment) {
    const auto after =
        std::upper_bound(columns_.begin(), columns_.end(), segment,
                         [](int64_t s, const Column& column) { return s < column.partial; });
    return after - columns_.begin() - 1;
  };
  for (int64_t wave = 0; wave < total; wave += kMaxPartials) {
    const int64_t count = std::min(kMaxPartials, total - wave);
    context.pool.For(count, 1, [&](int64_t begin, int64_t end, int thread) {
      Worker worker(context.isa, shape, context.threads[thread].attention);
      for (int64_t i = begin; i < end; ++i) {
        const Column& column = columns_[column_of(wave + i)];
        worker.Pack({&column, 1});
        worker.Segment({&column, 1}, (wave + i - column.partial) * kSegment,
                       [&](int64_t) { return partial(i); });
      }
    });
    const int64_t first_column = column_of(wave);
    const int64_t end_column = column_of(wave + count - 1) + 1;
    context.pool.For(end_column - first_column, 1, [&](int64_t begin, int64_t end, int) {
      for (int64_t c = first_column + begin; c < first_column + end; ++c) {
        const Column& column = columns_[c];
        const int64_t segments = (column.context + kSegment - 1) / kSegment;
        const int64_t from = std::max<int64_t>(column.partial, wave);
        const int64_t to = std::min(column.partial + segments, wave + count);
        for (int64_t s = from; s < to; ++s) {
          context.isa.merge_columns(whole(c), partial(s - wave), shape.value_width, shape.scale,
                                    s == column.partial);
        }
        if (to == column.partial + segments) {
          context.isa.finish_column(whole(c), shape.value_width, shape.column_heads(column),
                                    shape.latent, shape.Out(column), shape.latent);
        }
      }
    });
  }
}

}  // namespace shoal::cpu
