// SPDX-License-Identifier: Apache-2.0
#include "tests/property/core_fake_worker.h"

#include <algorithm>

namespace shoal::testing {

void FakeWorker::Assign(const AssignRank& command) {
  epoch_ = command.epoch;
  rank_ = command.rank;
  sequences_.clear();
  plans_.clear();
  broken_ = false;
  outbox.emplace_back(WorkerReady{id_, epoch_});
}

void FakeWorker::Receive(const StepPlan& plan) {
  if (plan.epoch != epoch_) Problem("a plan of another epoch than the one assigned");
  plans_.push_back(plan);
}

int FakeWorker::Execute(const absl::Status& fault) {
  const StepPlan plan = std::move(plans_.front());
  plans_.pop_front();
  StepDone done;
  done.worker = id_;
  done.epoch = plan.epoch;
  done.step = plan.step;
  done.status = broken_ ? absl::AbortedError("the step before failed") : fault;
  if (std::exchange(broken_, !done.status.ok())) {
    outbox.emplace_back(std::move(done));
    return 0;
  }
  const std::vector<Rows> batch = Apply(plan.plan);
  const int rows = CheckLimits(batch);
  for (const Rows& r : batch) CheckCache(r);
  std::set<size_t> written;
  for (const Rows& r : batch) Write(r, !fault.ok(), written);

  if (fault.ok()) {
    for (const Rows& r : batch) Report(r, done);
  }
  outbox.emplace_back(std::move(done));
  return rows;
}

void FakeWorker::Problem(const std::string& what) {
  problems_->push_back("worker " + id_.ToString() + " rank " + rank_.ToString() + ": " + what);
}

std::vector<FakeWorker::Rows> FakeWorker::Apply(const RankPlan& plan) {
  for (const SequenceId id : plan.forget) {
    if (sequences_.erase(id) == 0) Problem("forget of unknown sequence " + id.ToString());
  }
  for (const SequenceId id : plan.stop_decode) {
    if (!sequences_.contains(id) || !std::exchange(sequences_[id].decoding, false)) {
      Problem("stop_decode of sequence " + id.ToString() + " that does not decode");
    }
  }
  for (const NewSequence& entering : plan.new_sequences) {
    if (entering.id <= last_id_) Problem("sequence id does not grow");
    last_id_ = entering.id;
    FakeSequence& sequence = sequences_[entering.id];
    sequence.tokens = entering.tokens;
    sequence.cache = CacheRows(entering.tokens);
    sequence.prompt_tokens = entering.prompt_tokens;
    sequence.sampling = entering.sampling;
  }
  std::vector<Rows> batch;
  std::set<SequenceId> named;
  for (const SequenceWork& work : plan.work) {
    auto it = sequences_.find(work.id);
    if (it == sequences_.end() || !named.insert(work.id).second || work.count < 1) {
      Problem("work for unknown sequence, twice, or without rows: " + work.id.ToString());
      continue;
    }
    FakeSequence& sequence = it->second;
    for (const BlockId block : work.new_blocks) {
      const int64_t blocks = static_cast<int64_t>(pool_.size()) / config_.block_tokens;
      if (block.value() < 0 || block.value() >= blocks) Problem("a block outside the pool");
      sequence.table.push_back(block);
    }
    if (sequence.rows < 0) {
      if (work.start % config_.block_tokens != 0) Problem("a prefix that ends within a block");
      sequence.rows = work.start;
    }
    if (sequence.decoding && (work.count != 1 || !work.sample)) Problem("odd decode row");
    batch.push_back(
        Rows{work.id, &sequence, work.start, work.count, work.sample, work.prompt_logprobs});
  }
  for (auto& [id, sequence] : sequences_) {
    if (sequence.rows < 0) Problem("a new sequence without work");
    if (!sequence.decoding || named.contains(id)) continue;
    batch.push_back(Rows{id, &sequence, sequence.rows, 1, true, false});
  }
  return batch;
}

int FakeWorker::CheckLimits(const std::vector<Rows>& batch) {
  int rows = 0;
  int logits = 0;
  for (const Rows& r : batch) {
    rows += r.count;
    logits += r.prompt_logprobs ? r.count : r.sample ? 1 : 0;
  }
  if (rows > config_.max_batch_rows) Problem("too many rows");
  if (logits > config_.max_running_sequences) Problem("too many rows with logits");
  return rows;
}

void FakeWorker::CheckCache(const Rows& r) {
  const FakeSequence& sequence = *r.sequence;
  if (r.start != sequence.rows) {
    Problem("sequence " + r.id.ToString() + " continues at " + std::to_string(r.start) +
            ", has rows up to " + std::to_string(sequence.rows));
    return;
  }
  if (r.start + r.count > static_cast<int32_t>(sequence.tokens.size())) {
    Problem("rows of tokens that nobody knows");
    return;
  }
  if (r.sample && r.start + r.count != static_cast<int32_t>(sequence.tokens.size())) {
    Problem("a sample from the middle of a sequence");
  }
  for (int32_t p = 0; p < r.start; ++p) {
    if (pool_[Slot(sequence, p)] != sequence.cache[p]) {
      Problem("sequence " + r.id.ToString() + " finds a foreign cache row at " + std::to_string(p));
      return;
    }
  }
}

size_t FakeWorker::Slot(const FakeSequence& sequence, int32_t position) {
  const size_t index = static_cast<size_t>(position) / config_.block_tokens;
  if (index >= sequence.table.size()) {
    Problem("a row without a block");
    return 0;
  }
  return static_cast<size_t>(sequence.table[index].value()) * config_.block_tokens +
         static_cast<size_t>(position) % config_.block_tokens;
}

void FakeWorker::Write(const Rows& r, bool broken, std::set<size_t>& written) {
  FakeSequence& sequence = *r.sequence;
  const int32_t end = std::min(r.start + r.count, static_cast<int32_t>(sequence.tokens.size()));
  for (int32_t p = r.start; p < end; ++p) {
    const size_t slot = Slot(sequence, p);
    if (!written.insert(slot).second) Problem("two rows of one step write the same slot");
    const BlockId block(static_cast<int32_t>(slot / config_.block_tokens));
    for (const auto& [id, other] : sequences_) {
      if (id == r.id) continue;
      for (const BlockId held : other.table) {
        if (held == block) Problem("a row written into a block that another sequence has");
      }
    }
    pool_[slot] = broken ? 7 : sequence.cache[p];
  }
  sequence.rows = r.start + r.count;
}

void FakeWorker::Report(const Rows& r, StepDone& done) {
  FakeSequence& sequence = *r.sequence;
  const int32_t end = r.start + r.count;
  if (end > static_cast<int32_t>(sequence.tokens.size())) return;  // a problem noted before
  if (r.prompt_logprobs) {
    PromptLogprobs& prompt = done.prompt_logprobs.emplace_back();
    prompt.sequence = r.id;
    prompt.position = r.start + 1;
    for (int32_t p = r.start + 1; p <= std::min(end, sequence.prompt_tokens - 1); ++p) {
      prompt.logprobs.push_back(LogprobsAfter(sequence.cache[p - 1], sequence.tokens[p]));
    }
  }
  if (!r.sample) return;
  SampledToken& sampled = done.tokens.emplace_back();
  sampled.sequence = r.id;
  sampled.position = end;
  const uint64_t row = sequence.cache[end - 1];
  sampled.token = SampleAfter(row, sequence.sampling, end, end - sequence.prompt_tokens);
  if (sequence.sampling.top_logprobs >= 0) sampled.logprobs = LogprobsAfter(row, sampled.token);
  sequence.tokens.push_back(sampled.token);
  sequence.cache.push_back(MixBits(row, static_cast<uint64_t>(sampled.token)));
  sequence.decoding = true;
}

}  // namespace shoal::testing
