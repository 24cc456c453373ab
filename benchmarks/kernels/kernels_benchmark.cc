// SPDX-License-Identifier: Apache-2.0
// The operations of the CPU backend at the models' own shapes: GB/s, GFLOP/s, and percent of the
// roofline, which is the larger of bytes / read bandwidth and FLOPs / bf16 peak, both measured when
// the program starts. Weights rotate through more memory than any cache holds.
//
//   kernels_benchmark --benchmark_filter=Lite
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <random>
#include <vector>

#include "engine/device/cpu/cpu_kernels.h"
#include "engine/device/cpu/machine_limits.h"
#include "engine/device/cpu/thread_pool.h"

namespace shoal {
namespace {

struct Machine {
  std::unique_ptr<Kernels> kernels = CreateCpuKernels({});
  std::unique_ptr<Stream> stream = kernels->NewStream();
  double bandwidth = 0;
  double peak = 0;

  Machine() {
    auto limits = cpu::MachineLimits::Create(cpu::AvailableCores());
    if (!limits.ok()) std::abort();
    bandwidth = (*limits)->ReadBandwidth();
    peak = (*limits)->Bf16Peak();
  }
};
Machine& TheMachine() {
  static auto& machine = *new Machine();
  return machine;
}

// Host memory for a tensor; contents are small finite numbers.
struct Buffer {
  Buffer(DType dtype, std::initializer_list<int64_t> shape) {
    const TensorView sized(nullptr, dtype, shape);
    buffer = TheMachine().kernels->Allocate(sized.bytes()).value();
    view = TensorView(buffer->data(), dtype, shape);
    // A cheap generator: there may be gigabytes.
    uint64_t random = 1;
    const auto next = [&random] {
      return random = random * 6364136223846793005u + 1442695040888963407u;
    };
    if (dtype == DType::kF32) {
      for (int64_t i = 0; i < view.elements(); ++i)
        view.as<float>()[i] = static_cast<float>(next() >> 58) / 64;
      return;
    }
    // Bits that leave bf16 near 1/64 and E4M3 below 2.
    const uint64_t mask = dtype == DType::kBF16 ? 0x80ff80ff80ff80ff : 0xbfbfbfbfbfbfbfbf;
    const uint64_t base = dtype == DType::kBF16 ? 0x3c003c003c003c00 : 0;
    const size_t words = view.bytes() / 8;
    for (size_t i = 0; i < words; ++i)
      static_cast<uint64_t*>(buffer->data())[i] = base | (next() >> 7 & mask);
  }
  std::unique_ptr<DeviceBuffer> buffer;
  TensorView view;
};

std::unique_ptr<PreparedWeight> MakeWeight(DType dtype, int64_t rows, int64_t cols) {
  const Buffer data(dtype, {rows, cols});
  const Buffer scales(DType::kF32, {(rows + 127) / 128, (cols + 127) / 128});
  QuantTensor weight{data.view, {}, 0, 0};
  if (dtype == DType::kF8E4M3) weight = {data.view, scales.view, 128, 128};
  return TheMachine().kernels->PrepareLinear(weight, {}).value();
}

// Reports what `state` ran: per iteration so many bytes that must come from memory and so many
// FLOPs.
void Report(benchmark::State& state, double bytes, double flops) {
  const Machine& machine = TheMachine();
  const auto iterations = static_cast<double>(state.iterations());
  state.counters["GB/s"] =
      benchmark::Counter(bytes * iterations / 1e9, benchmark::Counter::kIsRate);
  state.counters["GFLOP/s"] =
      benchmark::Counter(flops * iterations / 1e9, benchmark::Counter::kIsRate);
  const double roofline = std::max(bytes / machine.bandwidth, flops / machine.peak);
  state.counters["%roofline"] =
      benchmark::Counter(100 * roofline * iterations, benchmark::Counter::kIsRate);
}

constexpr int64_t kColdBytes = int64_t{256} << 20;

void Linear(benchmark::State& state, DType dtype, int64_t outputs, int64_t inputs) {
  Machine& machine = TheMachine();
  const int64_t rows = state.range(0);
  std::vector<std::unique_ptr<PreparedWeight>> weights;
  for (int64_t bytes = 0; bytes < kColdBytes;
       bytes += static_cast<int64_t>(weights.back()->bytes())) {
    weights.push_back(MakeWeight(dtype, outputs, inputs));
  }
  const Buffer x(DType::kF32, {rows, inputs}), y(DType::kF32, {rows, outputs});
  size_t next = 0;
  for (auto _ : state) {
    machine.kernels->Linear(*machine.stream, x.view, *weights[next++ % weights.size()], y.view);
  }
  Report(state, static_cast<double>(weights[0]->bytes()),
         2.0 * static_cast<double>(rows * outputs * inputs));
}

// `experts` experts, each with as many rows as uniform routing of `tokens` gives it.
void GroupedFfn(benchmark::State& state, DType dtype, int64_t hidden, int64_t width, int experts,
                int chosen) {
  Machine& machine = TheMachine();
  const int64_t tokens = state.range(0);
  std::vector<FfnWeights> weights;
  double expert_bytes = 0;
  for (int i = 0; i < experts; ++i) {
    weights.push_back({MakeWeight(dtype, width, hidden), MakeWeight(dtype, width, hidden),
                       MakeWeight(dtype, hidden, width)});
    expert_bytes = static_cast<double>(weights[0].gate->bytes() * 2 + weights[0].down->bytes());
  }
  // Sixteen routings in turn, so that a single token does not find its experts in the cache.
  std::mt19937 random(3);
  struct Routing {
    std::vector<const FfnWeights*> experts;
    std::vector<int32_t> offsets;
  };
  std::vector<Routing> routings(16);
  double hit = 0;
  for (Routing& routing : routings) {
    std::vector<int> rows(experts, 0);
    for (int64_t t = 0; t < tokens; ++t) {
      std::vector<int> all(experts);
      for (int e = 0; e < experts; ++e) all[e] = e;
      std::shuffle(all.begin(), all.end(), random);
      for (int k = 0; k < chosen; ++k) ++rows[all[k]];
    }
    routing.offsets = {0};
    for (int e = 0; e < experts; ++e) {
      if (rows[e] == 0) continue;
      routing.experts.push_back(&weights[e]);
      routing.offsets.push_back(routing.offsets.back() + rows[e]);
      hit += 1.0 / static_cast<double>(routings.size());
    }
  }
  const Buffer x(DType::kBF16, {tokens * chosen, hidden}),
      y(DType::kBF16, {tokens * chosen, hidden});
  size_t next = 0;
  for (auto _ : state) {
    const Routing& routing = routings[next++ % routings.size()];
    machine.kernels->GroupedFfn(*machine.stream,
                                {x.view, routing.experts, routing.offsets, y.view});
  }
  Report(state, hit * expert_bytes, 6.0 * static_cast<double>(tokens * chosen * hidden * width));
}

void Attend(benchmark::State& state, int64_t heads, int64_t rows) {
  Machine& machine = TheMachine();
  constexpr int64_t kLatent = 512, kWidth = 576;
  const int64_t context = state.range(0) + rows;
  const int64_t blocks = (context + 63) / 64;
  // As many layers' pools as do not fit the cache.
  std::vector<Buffer> pools;
  while (static_cast<int64_t>(pools.size() * pools.size()) <= 1 ||
         static_cast<int64_t>(pools.size()) * blocks * 64 * kWidth * 2 < kColdBytes / 4) {
    pools.emplace_back(DType::kBF16, std::initializer_list<int64_t>{blocks * 64, kWidth});
  }
  std::vector<BlockId> table;
  for (int32_t b = 0; b < blocks; ++b) table.emplace_back(b);
  const Buffer q(DType::kBF16, {rows, heads, kWidth}), out(DType::kBF16, {rows, heads, kLatent});
  const std::vector<AttendSequence> sequences = {
      {0, static_cast<int32_t>(rows), static_cast<int32_t>(context - rows), table}};
  size_t next = 0;
  for (auto _ : state) {
    machine.kernels->MlaAttend(*machine.stream, {q.view, pools[next++ % pools.size()].view, 64,
                                                 sequences, 0.1f, out.view});
  }
  const double seen = static_cast<double>(rows) *
                      (static_cast<double>(context) - static_cast<double>(rows - 1) / 2);
  Report(state, static_cast<double>(context * kWidth * 2),
         2 * seen * static_cast<double>(heads * (kWidth + kLatent)));
}

void Router(benchmark::State& state, int64_t experts, int64_t hidden) {
  Machine& machine = TheMachine();
  const int64_t rows = state.range(0);
  const Buffer x(DType::kF32, {rows, hidden}), w(DType::kBF16, {experts, hidden}),
      y(DType::kF32, {rows, experts});
  for (auto _ : state) machine.kernels->RouterLogits(*machine.stream, x.view, w.view, y.view);
  // f32 products run at half the bf16 rate at best.
  Report(state, 0, 2 * 2.0 * static_cast<double>(rows * experts * hidden));
}

#define SHOAL_ROWS ->Arg(1)->Arg(4)->Arg(16)->Arg(64)->Arg(512)->UseRealTime()
BENCHMARK_CAPTURE(Linear, LiteQ_bf16, DType::kBF16, 3072, 2048) SHOAL_ROWS;
BENCHMARK_CAPTURE(Linear, LiteKvA_bf16, DType::kBF16, 576, 2048) SHOAL_ROWS;
BENCHMARK_CAPTURE(Linear, LiteHead_bf16, DType::kBF16, 102400, 2048)
    ->Arg(1)
    ->Arg(16)
    ->UseRealTime();
BENCHMARK_CAPTURE(Linear, V3QB_bf16, DType::kBF16, 24576, 1536) SHOAL_ROWS;
BENCHMARK_CAPTURE(Linear, V3O_bf16, DType::kBF16, 7168, 16384) SHOAL_ROWS;
BENCHMARK_CAPTURE(Linear, V3O_fp8, DType::kF8E4M3, 7168, 16384) SHOAL_ROWS;
BENCHMARK_CAPTURE(Linear, LiteQ_fp8, DType::kF8E4M3, 3072, 2048) SHOAL_ROWS;
BENCHMARK_CAPTURE(GroupedFfn, Lite_bf16, DType::kBF16, 2048, 1408, 64, 6) SHOAL_ROWS;
BENCHMARK_CAPTURE(GroupedFfn, Lite_fp8, DType::kF8E4M3, 2048, 1408, 64, 6) SHOAL_ROWS;
BENCHMARK_CAPTURE(GroupedFfn, V3_fp8, DType::kF8E4M3, 7168, 2048, 32, 8)
    ->Arg(1)
    ->Arg(16)
    ->Arg(512)
    ->UseRealTime();
BENCHMARK_CAPTURE(Attend, LiteDecode, 16, 1)->Arg(255)->Arg(2047)->Arg(8191)->UseRealTime();
BENCHMARK_CAPTURE(Attend, LitePrefill512, 16, 512)->Arg(0)->Arg(1536)->UseRealTime();
BENCHMARK_CAPTURE(Attend, V3Decode, 128, 1)->Arg(255)->Arg(8191)->UseRealTime();
BENCHMARK_CAPTURE(Attend, V3Prefill128, 128, 128)->Arg(0)->UseRealTime();
BENCHMARK_CAPTURE(Router, Lite, 64, 2048)->Arg(1)->Arg(512)->UseRealTime();
BENCHMARK_CAPTURE(Router, V3, 256, 7168)->Arg(1)->Arg(512)->UseRealTime();

}  // namespace
}  // namespace shoal

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  const shoal::Machine& machine = shoal::TheMachine();
  benchmark::AddCustomContext("numerics", machine.kernels->numerics());
  benchmark::AddCustomContext("read_gb_per_s", std::to_string(machine.bandwidth / 1e9));
  benchmark::AddCustomContext("bf16_gflops", std::to_string(machine.peak / 1e9));
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
