// SPDX-License-Identifier: Apache-2.0
#include "engine/device/cpu/packed_weight.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"

namespace shoal::cpu {
namespace {

// Where the matrix of one head lies in a stored weight: element (n, k) is row first_row + n, column
// k; transposed, row first_row + k, column n.
struct Slice {
  const QuantTensor* weight;
  int64_t first_row;
  int64_t rows;  // N of the product
  int64_t cols;  // K of the product
  bool transpose;

  int64_t StoredRow(int64_t n, int64_t k) const { return first_row + (transpose ? k : n); }
  int64_t StoredCol(int64_t n, int64_t k) const { return transpose ? n : k; }
  int64_t row_stride() const { return transpose ? 1 : weight->cols(); }
  int64_t col_stride() const { return transpose ? weight->cols() : 1; }
  // Which block of the stored grid of scales (n, k) belongs to.
  int64_t Block(int64_t n, int64_t k) const {
    const int64_t grid_cols = weight->scales.dim(1);
    return StoredRow(n, k) / weight->block_rows * grid_cols + StoredCol(n, k) / weight->block_cols;
  }
};

size_t ElementBytes(WeightFormat format) {
  return format == WeightFormat::kE4M3 ? 1 : format == WeightFormat::kF32 ? 4 : 2;
}

float LoadScale(const TensorView& scales, int64_t index) {
  return scales.dtype() == DType::kF8E8M0 ? E8M0ToFloat(scales.as<uint8_t>()[index])
                                          : scales.f32()[index];
}

// Offset, in elements, of (row `lane` of vector `vec`, column k) within a panel.
int64_t PanelOffset(WeightFormat format, int vecs, int vec, int64_t lane, int64_t k) {
  switch (format) {
    case WeightFormat::kBF16:
      return (k / 2 * vecs + vec) * 32 + lane * 2 + k % 2;
    case WeightFormat::kE4M3:
      return (k / 4 * vecs + vec) * 64 + lane / 4 * 16 + k % 4 / 2 * 8 + lane % 4 * 2 + k % 2;
    case WeightFormat::kF32:
    case WeightFormat::kF16:
      return (k * vecs + vec) * kLanes + lane;
  }
  return 0;
}

// Columns [begin, end) of a row, one element at a time: any layout, the ends of rows, transposed
// weights.
void PackElements(WeightFormat format, const std::byte* row, int64_t col_bytes, int64_t begin,
                  int64_t end, int vecs, int64_t n, std::byte* out) {
  const size_t size = ElementBytes(format);
  for (int64_t k = begin; k < end; ++k) {
    const int64_t offset = PanelOffset(format, vecs, static_cast<int>(n / kLanes), n % kLanes, k);
    std::memcpy(out + offset * size, row + k * col_bytes, size);
  }
}

// Columns [begin, end) of a stored row, whole pairs of bf16: a fixed distance apart in the panel.
// So are f32 and f16.
template <size_t kBytes>
void PackStrided(const std::byte* row, int64_t units, size_t distance, std::byte* out) {
  for (int64_t i = 0; i < units; ++i) {
    std::memcpy(out, row, kBytes);
    row += kBytes;
    out += distance;
  }
}

// Four rows of E4M3, `quads` groups of four columns.
void PackCodes(const std::byte* const (&rows)[4], int64_t quads, size_t distance, std::byte* out) {
  for (int64_t i = 0; i < quads; ++i) {
    uint64_t low = 0, high = 0;
    for (int r = 3; r >= 0; --r) {
      uint32_t codes;
      std::memcpy(&codes, rows[r] + 4 * i, 4);
      low = low << 16 | (codes & 0xffff);
      high = high << 16 | codes >> 16;
    }
    std::memcpy(out, &low, 8);
    std::memcpy(out + 8, &high, 8);
    out += distance;
  }
}

// Copies panel `panel` of a slice to zeroed memory. Columns in runs short enough that the part of
// the panel they go to stays in L1.
void PackPanel(const Slice& slice, WeightFormat format, int64_t panel, std::byte* out) {
  constexpr int64_t kRun = 64;
  const auto size = static_cast<int64_t>(ElementBytes(format));
  const int64_t first = panel * kPanelRows;
  const int64_t rows = std::min<int64_t>(slice.rows - first, kPanelRows);
  const int vecs = static_cast<int>((rows + kLanes - 1) / kLanes);
  const int64_t row_bytes = slice.row_stride() * size, col_bytes = slice.col_stride() * size;
  const auto* origin = static_cast<const std::byte*>(slice.weight->data.data()) +
                       slice.StoredRow(0, 0) * slice.weight->cols() * size + first * row_bytes;
  const size_t distance =
      vecs * kLanes * (format == WeightFormat::kF16 ? 2 : 4);  // from one unit to the next
  for (int64_t begin = 0; begin < slice.cols; begin += kRun) {
    const int64_t end = std::min(slice.cols, begin + kRun);
    const int64_t whole = slice.transpose ? begin : begin + (end - begin) / 4 * 4;
    for (int64_t n = 0; n < rows; ++n) {
      const std::byte* row = origin + n * row_bytes;
      const std::byte* from = row + begin * col_bytes;
      int64_t done = whole;
      if (format == WeightFormat::kE4M3) {
        if (n % 4 == 0 && n + 4 <= rows) {
          std::byte* to =
              out + PanelOffset(format, vecs, static_cast<int>(n / kLanes), n % kLanes, begin);
          PackCodes({from, from + row_bytes, from + 2 * row_bytes, from + 3 * row_bytes},
                    (whole - begin) / 4, distance, to);
        } else if (n / 4 * 4 + 4 > rows) {
          done = begin;  // the last rows, fewer than four
        }
      } else {
        std::byte* to =
            out + PanelOffset(format, vecs, static_cast<int>(n / kLanes), n % kLanes, begin) * size;
        if (format == WeightFormat::kF16) {
          PackStrided<2>(from, whole - begin, distance, to);
        } else {
          PackStrided<4>(from, (whole - begin) * size / 4, distance, to);
        }
      }
      PackElements(format, row, col_bytes, done, end, vecs, n, out);
    }
  }
}

// The scales of one head, [panels][blocks][4], if they are constant over every vector and every
// block of K.
bool CollectScales(const Slice& slice, int64_t block_cols, std::vector<float>& scales) {
  const int64_t panels = (slice.rows + kPanelRows - 1) / kPanelRows;
  const int64_t blocks = (slice.cols + block_cols - 1) / block_cols;
  const size_t base = scales.size();
  scales.resize(base + panels * blocks * kPanelVecs);
  for (int64_t n = 0; n < slice.rows; n += kLanes) {
    const int64_t last_row = std::min(n + kLanes, slice.rows) - 1;
    const int64_t panel = n / kPanelRows;
    const int64_t panel_rows = std::min<int64_t>(slice.rows - panel * kPanelRows, kPanelRows);
    const int64_t vecs = (panel_rows + kLanes - 1) / kLanes;
    for (int64_t b = 0; b < blocks; ++b) {
      const int64_t first = b * block_cols;
      const int64_t last = std::min(first + block_cols, slice.cols) - 1;
      const int64_t block = slice.Block(n, first);
      if (slice.Block(last_row, last) != block || slice.Block(n, last) != block) return false;
      scales[base + panel * blocks * kPanelVecs + b * vecs + n % kPanelRows / kLanes] =
          LoadScale(slice.weight->scales, block);
    }
  }
  return true;
}

absl::Status CheckWeight(const QuantTensor& weight) {
  if (weight.data.rank() != 2 || weight.rows() <= 0 || weight.cols() <= 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("weight: want [N, K], found ", weight.data.ToString()));
  }
  switch (weight.data.dtype()) {
    case DType::kBF16:
    case DType::kF16:
    case DType::kF32:
    case DType::kF8E4M3:
      break;
    default:
      return absl::InvalidArgumentError(
          absl::StrCat("weight: want BF16, F16, F32 or F8_E4M3, found ", weight.data.ToString()));
  }
  if (!weight.quantised()) return absl::OkStatus();
  const int64_t grid_rows = (weight.rows() + weight.block_rows - 1) / weight.block_rows;
  const int64_t grid_cols =
      weight.block_cols <= 0 ? 0 : (weight.cols() + weight.block_cols - 1) / weight.block_cols;
  if (weight.scales.rank() != 2 || weight.scales.dim(0) != grid_rows ||
      weight.scales.dim(1) != grid_cols ||
      (weight.scales.dtype() != DType::kF32 && weight.scales.dtype() != DType::kF8E8M0)) {
    return absl::InvalidArgumentError(absl::StrCat("scales: want [", grid_rows, ", ", grid_cols,
                                                   "] F32 or F8_E8M0, found ",
                                                   weight.scales.ToString()));
  }
  return absl::OkStatus();
}

// Fills `packed` (heads, rows, cols set) from one slice per head.
absl::Status Pack(Arena& arena, Packer& packer, const std::vector<Slice>& slices,
                  PackedWeight& packed) {
  const QuantTensor& weight = *slices[0].weight;
  switch (weight.data.dtype()) {
    case DType::kF8E4M3:
      packed.format = WeightFormat::kE4M3;
      break;
    case DType::kF16:
      packed.format = WeightFormat::kF16;
      break;
    case DType::kF32:
      packed.format = WeightFormat::kF32;
      break;
    default:
      packed.format = WeightFormat::kBF16;
  }
  bool as_float = weight.quantised() && packed.format != WeightFormat::kE4M3;
  if (packed.format == WeightFormat::kE4M3) {
    packed.block_cols = !weight.quantised()   ? 128
                        : slices[0].transpose ? weight.block_rows
                                              : weight.block_cols;
    if (packed.block_cols > packed.padded_cols()) packed.block_cols = packed.padded_cols();
    as_float = packed.block_cols % 4 != 0 || packed.block_cols > kMaxScaleCols;
    for (const Slice& slice : slices) {
      if (as_float) break;
      if (weight.quantised()) {
        as_float = !CollectScales(slice, packed.block_cols, packed.scales);
      } else {
        packed.scales.resize(packed.scales.size() + packed.panels() * packed.blocks() * kPanelVecs,
                             1.0f);
      }
    }
  }
  std::vector<float> values;
  QuantTensor dequantised;
  if (as_float) {
    packed.format = WeightFormat::kF32;
    packed.block_cols = 0;
    packed.scales.clear();
    values.resize(weight.rows() * weight.cols());
    dequantised.data = TensorView(values.data(), DType::kF32, {weight.rows(), weight.cols()});
    Dequantise(weight, dequantised.data);
  }

  const int64_t padded_rows = (packed.rows + kLanes - 1) / kLanes * kLanes;
  packed.head_bytes = padded_rows * packed.padded_cols() * ElementBytes(packed.format);
  SHOAL_ASSIGN_OR_RETURN(packed.data, arena.Allocate(packed.head_bytes * packed.heads));
  const int64_t panels = packed.panels();
  packer.For(packed.heads * panels, [&](int64_t item) {
    Slice slice = slices[item / panels];
    if (as_float) slice.weight = &dequantised;
    PackPanel(slice, packed.format, item % panels,
              packed.data.data + packed.PanelBytesBefore(item / panels, item % panels));
  });
  return absl::OkStatus();
}

}  // namespace

size_t PackedWeight::PanelBytesBefore(int64_t head, int64_t panel) const {
  return head * head_bytes + panel * kPanelRows * padded_cols() * ElementBytes(format);
}

PanelDot PackedWeight::Panel(int64_t head, int64_t panel) const {
  PanelDot dot;
  dot.format = format;
  dot.vecs = static_cast<int>((panel_rows(panel) + kLanes - 1) / kLanes);
  dot.cols = padded_cols();
  dot.weights = data.data + PanelBytesBefore(head, panel);
  dot.block_cols = block_cols;
  if (!scales.empty())
    dot.scales = scales.data() + (head * panels() + panel) * blocks() * kPanelVecs;
  return dot;
}

absl::StatusOr<std::unique_ptr<PackedWeight>> PackLinear(Arena& arena, Packer& packer,
                                                         const QuantTensor& weight,
                                                         const LinearOptions& options) {
  SHOAL_RETURN_IF_ERROR(CheckWeight(weight));
  auto packed = std::make_unique<PackedWeight>();
  packed->rows = weight.rows();
  packed->cols = weight.cols();
  packed->fp8_activations = options.fp8_activations;
  packed->ue8m0_scales = options.ue8m0_scales;
  SHOAL_RETURN_IF_ERROR(
      Pack(arena, packer, {Slice{&weight, 0, weight.rows(), weight.cols(), false}}, *packed));
  if (options.fp8_activations && packed->format != WeightFormat::kE4M3) {
    return absl::InvalidArgumentError(absl::StrCat(
        "fp8 activations: want an F8_E4M3 weight in blocks of a multiple of 16 rows and 4 columns, "
        "found ",
        weight.data.ToString(), " in blocks of ", weight.block_rows, "x", weight.block_cols));
  }
  return packed;
}

absl::StatusOr<std::unique_ptr<PackedWeight>> PackHeads(Arena& arena, Packer& packer,
                                                        const QuantTensor& weight, int64_t heads,
                                                        int64_t first_row, int64_t row_count,
                                                        bool transpose) {
  SHOAL_RETURN_IF_ERROR(CheckWeight(weight));
  if (heads <= 0 || weight.rows() % heads != 0 || first_row < 0 || row_count <= 0 ||
      first_row + row_count > weight.rows() / heads) {
    return absl::InvalidArgumentError(absl::StrCat("heads: want rows [", first_row, ", ",
                                                   first_row + row_count, ") of each of ", heads,
                                                   " slices, found ", weight.data.ToString()));
  }
  const int64_t slice_rows = weight.rows() / heads;
  auto packed = std::make_unique<PackedWeight>();
  packed->heads = heads;
  packed->rows = transpose ? weight.cols() : row_count;
  packed->cols = transpose ? row_count : weight.cols();
  std::vector<Slice> slices;
  for (int64_t h = 0; h < heads; ++h) {
    slices.push_back({&weight, h * slice_rows + first_row, packed->rows, packed->cols, transpose});
  }
  SHOAL_RETURN_IF_ERROR(Pack(arena, packer, slices, *packed));
  return packed;
}

}  // namespace shoal::cpu
