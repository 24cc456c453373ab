// SPDX-License-Identifier: Apache-2.0
#include "tests/kernels/backends.h"

#include <cstdlib>
#include <cstring>
#include <new>

#include "engine/device/cpu/cpu_kernels.h"

namespace shoal::testing {

Tensor::Tensor(DType dtype, std::initializer_list<int64_t> shape) : view_(nullptr, dtype, shape) {
  const size_t bytes = view_.bytes() + 64;
  data_ = std::shared_ptr<std::byte[]>(
      new (std::align_val_t(64)) std::byte[bytes](),
      [](std::byte* p) { ::operator delete[](p, std::align_val_t(64)); });
  view_ = TensorView(data_.get(), dtype, shape);
}

float Tensor::At(int64_t i) const {
  switch (view_.dtype()) {
    case DType::kF32:
      return view_.as<float>()[i];
    case DType::kBF16:
      return BF16ToFloat(view_.as<uint16_t>()[i]);
    case DType::kF16:
      return F16ToFloat(view_.as<uint16_t>()[i]);
    case DType::kF8E4M3:
      return E4M3ToFloat(view_.as<uint8_t>()[i]);
    case DType::kF8E8M0:
      return E8M0ToFloat(view_.as<uint8_t>()[i]);
    default:
      std::abort();
  }
}

void Tensor::Set(int64_t i, float value) {
  switch (view_.dtype()) {
    case DType::kF32:
      view_.as<float>()[i] = value;
      return;
    case DType::kBF16:
      view_.as<uint16_t>()[i] = FloatToBF16(value);
      return;
    case DType::kF8E4M3:
      view_.as<uint8_t>()[i] = FloatToE4M3(value);
      return;
    case DType::kF16: {  // truncated: tests need some f16 values, not a rounding
      uint32_t bits;
      std::memcpy(&bits, &value, 4);
      const int exponent = static_cast<int>(bits >> 23 & 0xff) - 127 + 15;
      const uint32_t sign = bits >> 16 & 0x8000;
      view_.as<uint16_t>()[i] = static_cast<uint16_t>(
          exponent <= 0 ? sign
                        : sign | static_cast<uint32_t>(exponent) << 10 | (bits >> 13 & 0x3ff));
      return;
    }
    default:
      std::abort();
  }
}

std::string Tensor::Bits(int64_t first, int64_t count) const {
  const size_t size = DTypeBytes(view_.dtype());
  return std::string(reinterpret_cast<const char*>(data_.get()) + first * size, count * size);
}

Tensor Random(std::mt19937& random, DType dtype, std::initializer_list<int64_t> shape,
              float deviation) {
  Tensor tensor(dtype, shape);
  std::normal_distribution<float> normal(0, deviation);
  for (int64_t i = 0; i < tensor.view().elements(); ++i) tensor.Set(i, normal(random));
  return tensor;
}

Tensor As(const Tensor& tensor, DType dtype) {
  const TensorView from = tensor.view();
  Tensor to(dtype, {from.elements()});
  for (int64_t i = 0; i < from.elements(); ++i) to.Set(i, tensor.At(i));
  Tensor shaped = to;
  switch (from.rank()) {
    case 2:
      shaped = Tensor(dtype, {from.dim(0), from.dim(1)});
      break;
    case 3:
      shaped = Tensor(dtype, {from.dim(0), from.dim(1), from.dim(2)});
      break;
    default:
      return to;
  }
  std::memcpy(shaped.view().data(), to.view().data(), to.view().bytes());
  return shaped;
}

Weight RandomWeight(std::mt19937& random, DType dtype, int64_t rows, int64_t cols, float deviation,
                    DType scale_dtype, int block) {
  Weight weight;
  if (dtype != DType::kF8E4M3) {
    weight.data = Random(random, dtype, {rows, cols}, deviation);
    weight.quant.data = weight.data;
    return weight;
  }
  weight.data = Tensor(dtype, {rows, cols});
  for (int64_t i = 0; i < rows * cols; ++i) {
    uint8_t code;
    do {
      code = static_cast<uint8_t>(random());
    } while ((code & 0x7f) == 0x7f);
    weight.data.view().as<uint8_t>()[i] = code;
  }
  weight.scales = Tensor(scale_dtype, {(rows + block - 1) / block, (cols + block - 1) / block});
  for (int64_t i = 0; i < weight.scales.view().elements(); ++i) {
    if (scale_dtype == DType::kF8E8M0) {
      weight.scales.view().as<uint8_t>()[i] = static_cast<uint8_t>(127 - 12 + random() % 5);
    } else {
      weight.scales.Set(i, deviation / 100 * (0.5f + static_cast<float>(random() % 1000) / 1000));
    }
  }
  weight.quant = {weight.data, weight.scales, block, block};
  return weight;
}

std::unique_ptr<Kernels> Backend::Make(int threads) const {
  BackendOptions options;
  options.threads = threads;
  auto kernels = CreateCpuKernels(options, name);
  if (!kernels.ok()) std::abort();
  return *std::move(kernels);
}

std::vector<Backend> Backends() {
  std::vector<Backend> backends;
  for (absl::string_view name : CpuInstructionSets()) backends.push_back({std::string(name)});
  return backends;
}

std::string BackendName(const ::testing::TestParamInfo<Backend>& info) {
  return "cpu_" + info.param.name;
}

std::unique_ptr<Kernels> Reference() { return std::move(CreateKernels("reference", {})).value(); }

float Norm(const Tensor& tensor, int64_t first, int64_t count) {
  double sum = 0;
  for (int64_t i = first; i < first + count; ++i)
    sum += static_cast<double>(tensor.At(i)) * tensor.At(i);
  return static_cast<float>(std::sqrt(sum));
}

}  // namespace shoal::testing
