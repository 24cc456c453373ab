// SPDX-License-Identifier: Apache-2.0
#include "comm/mpi/mpi_runtime.h"

#include <cstdlib>
#include <utility>

#include "absl/base/attributes.h"
#include "absl/base/const_init.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "engine/base/status_macros.h"
#include "engine/base/steady_clock.h"

namespace shoal {
namespace {

constexpr absl::Duration kFarewell = absl::Seconds(2);

ABSL_CONST_INIT absl::Mutex runtime_mutex(absl::kConstInit);
MpiRuntime* runtime = nullptr;  // MPI is one per process by its nature; never deleted: buffers in
                                // quarantine outlive all

}  // namespace

absl::Status MpiStatus(int code, absl::string_view what) {
  if (code == MPI_SUCCESS) return absl::OkStatus();
  char text[MPI_MAX_ERROR_STRING] = {};
  int length = 0;
  MPI_Error_string(code, text, &length);
  return absl::InternalError(absl::StrCat(what, ": ", absl::string_view(text, length)));
}

absl::StatusOr<MpiRuntime*> MpiRuntime::Get() {
  absl::MutexLock lock(&runtime_mutex);
  if (runtime != nullptr) return runtime;
  auto started = std::make_unique<MpiRuntime>();
  SHOAL_RETURN_IF_ERROR(started->Start());
  runtime = started.release();
  std::atexit(&MpiRuntime::AtExit);
  return runtime;
}

absl::Status MpiRuntime::Start() {
  int initialized = 0;
  int finalized = 0;
  MPI_Initialized(&initialized);
  MPI_Finalized(&finalized);
  if (finalized != 0) return absl::UnavailableError("MPI has been ended in this process");
  int level = MPI_THREAD_SINGLE;
  // Fabrics are made, used and ended by different threads of a worker, one at a time.
  const int code = initialized != 0
                       ? MPI_Query_thread(&level)
                       : MPI_Init_thread(nullptr, nullptr, MPI_THREAD_SERIALIZED, &level);
  if (code != MPI_SUCCESS) return absl::UnavailableError("MPI_Init_thread failed");
  if (level < MPI_THREAD_SERIALIZED) {
    return absl::UnavailableError(absl::StrCat("MPI grants thread level ", level, ", want ",
                                               MPI_THREAD_SERIALIZED, " (serialized)"));
  }
  MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
  SHOAL_RETURN_IF_ERROR(MpiStatus(MPI_Comm_rank(MPI_COMM_WORLD, &rank_), "MPI_Comm_rank"));
  SHOAL_RETURN_IF_ERROR(MpiStatus(MPI_Comm_size(MPI_COMM_WORLD, &size_), "MPI_Comm_size"));
  int* tag_bound = nullptr;
  int found = 0;
  MPI_Comm_get_attr(MPI_COMM_WORLD, MPI_TAG_UB, &tag_bound, &found);
  largest_tag_ = found != 0 ? *tag_bound : 32767;
  char name[MPI_MAX_PROCESSOR_NAME] = {};
  int length = 0;
  SHOAL_RETURN_IF_ERROR(MpiStatus(MPI_Get_processor_name(name, &length), "MPI_Get_processor_name"));
  host_.assign(name, length);
  return absl::OkStatus();
}

int MpiRuntime::NextTags() { return fabrics_++ % (largest_tag_ / kTagsPerFabric) * kTagsPerFabric; }

void MpiRuntime::Quarantine(MPI_Request request, std::shared_ptr<const void> memory) {
  quarantine_.push_back({request, std::move(memory)});
}

size_t MpiRuntime::SweepQuarantine() {
  quarantine_.remove_if([](Abandoned& abandoned) {
    int completed = 0;
    MPI_Test(&abandoned.request, &completed, MPI_STATUS_IGNORE);
    return completed != 0;
  });
  return quarantine_.size();
}

void MpiRuntime::AtExit() {
  int finalized = 0;
  MPI_Finalized(&finalized);
  if (finalized != 0) return;
  MPI_Request barrier = MPI_REQUEST_NULL;
  if (MPI_Ibarrier(MPI_COMM_WORLD, &barrier) != MPI_SUCCESS) return;
  const absl::Time deadline = SteadyNow() + kFarewell;
  int all_here = 0;
  while (all_here == 0 && SteadyNow() < deadline) {
    if (MPI_Test(&barrier, &all_here, MPI_STATUS_IGNORE) != MPI_SUCCESS) return;
    if (all_here == 0) absl::SleepFor(absl::Milliseconds(1));
  }
  if (all_here != 0) MPI_Finalize();
}

}  // namespace shoal
