// SPDX-License-Identifier: Apache-2.0
#include "tests/unit/core_fake_worker.h"

#include <algorithm>

namespace shoal::testing {

std::deque<Event> FakeWorker::Connect(WorkerId id) {
  id_ = id;
  epoch_ = Epoch();
  members_.clear();
  inbox_.clear();
  connecting_ = asked_to_load_ = false;
  running_.reset();
  return std::exchange(outbox, {});
}

bool FakeWorker::Work(FakePeers& peers, absl::Time now) {
  if (running_.has_value()) {
    const bool interrupted = std::any_of(inbox_.begin(), inbox_.end(), [](const auto& message) {
      return std::holds_alternative<AssignRank>(message);
    });
    if (interrupted) {
      Break(absl::AbortedError("a new epoch"));
    } else if (peers.Complete(epoch_, running_->plan.step, members_)) {
      Finish();
    } else {
      return false;
    }
    return true;
  }
  if (!inbox_.empty()) {
    const auto message = std::move(inbox_.front());
    inbox_.pop_front();
    if (const auto* assign = std::get_if<AssignRank>(&message)) {
      Take(*assign, now);
    } else if (const auto* load = std::get_if<LoadExperts>(&message)) {
      Take(*load);
    } else {
      Begin(std::get<StepPlan>(message), peers, now);
    }
    return true;
  }
  if (!connecting_ || !loaded_ || !peers.Connected(epoch_, members_)) return false;
  connecting_ = false;
  outbox.emplace_back(WorkerReady{id_, epoch_});
  return true;
}

void FakeWorker::Take(const AssignRank& message, absl::Time now) {
  if (rank_ != message.rank) {
    if (epoch_ != Epoch()) Problem("another rank than it has");
    loaded_ = false;
  }
  epoch_ = message.epoch;
  rank_ = message.rank;
  members_ = *message.members;
  if (!loaded_) loading_ = true;
  connecting_ = true;
  first_plan_ = true;
  broken_ = false;
  since_ = now;
}

void FakeWorker::Take(const LoadExperts& message) {
  if (epoch_ != Epoch()) Problem("told to load while in an epoch");
  if (rank_ != message.rank) loaded_ = false;
  rank_ = message.rank;
  asked_to_load_ = true;
  loading_ = true;
  if (loaded_) FinishLoading();  // it has them already
}

void FakeWorker::FinishLoading() {
  loading_ = false;
  loaded_ = true;
  if (std::exchange(asked_to_load_, false)) outbox.emplace_back(WorkerLoaded{id_});
}

void FakeWorker::Begin(StepPlan plan, FakePeers& peers, absl::Time now) {
  if (plan.epoch != epoch_ || connecting_) Problem("a plan of another epoch, or before it began");
  if (broken_) return ReportFailure(plan, absl::AbortedError("the step before failed"));
  if (std::exchange(first_plan_, false)) {
    RewindAll(plan.plan.rewind, peers.Committed());
  } else if (!plan.plan.rewind.empty()) {
    Problem("a rewind in the middle of an epoch");
  }
  running_ = Running{std::move(plan), {}};
  running_->batch = Apply(running_->plan.plan);
  CheckLimits(running_->batch);
  for (const Rows& r : running_->batch) CheckCache(r);
  since_ = now;
  peers.Contribute(id_, epoch_, running_->plan.step);
}

void FakeWorker::Finish() {
  StepDone done;
  done.worker = id_;
  done.epoch = epoch_;
  done.step = running_->plan.step;
  done.waiting_dispatch.resize(members_.size(), absl::Milliseconds(id_.value()));
  done.waiting_combine.resize(members_.size(), absl::Milliseconds(1));
  std::set<size_t> written;
  for (const Rows& r : running_->batch) Write(r, false, written);
  for (const Rows& r : running_->batch) {
    Report(r, done);
    r.sequence->past.push_back({done.step, static_cast<int32_t>(r.sequence->tokens.size()),
                                r.sequence->rows});
  }
  running_.reset();
  outbox.emplace_back(std::move(done));
}

void FakeWorker::Break(const absl::Status& status) {
  std::set<size_t> written;
  for (const Rows& r : running_->batch) Write(r, true, written);
  broken_ = true;
  ReportFailure(running_->plan, status);
  running_.reset();
}

void FakeWorker::ReportFailure(const StepPlan& plan, const absl::Status& status) {
  StepDone done;
  done.worker = id_;
  done.epoch = plan.epoch;
  done.step = plan.step;
  done.status = status;
  outbox.emplace_back(std::move(done));
}

void FakeWorker::RewindAll(const std::vector<Rewind>& rewind, StepId committed) {
  std::map<SequenceId, FakeSequence> all = std::exchange(sequences_, {});
  for (const Rewind& r : rewind) {
    auto it = all.find(r.id);
    if (it == all.end()) {
      Problem("rewind of unknown sequence " + r.id.ToString());
      continue;
    }
    FakeSequence& sequence = sequences_[r.id] = std::move(it->second);
    while (!sequence.past.empty() && sequence.past.back().step > committed) {
      sequence.past.pop_back();
    }
    if (sequence.past.empty() || sequence.past.back().tokens != r.tokens ||
        sequence.past.back().rows != r.rows) {
      Problem("sequence " + r.id.ToString() + " rewound to " + std::to_string(r.tokens) +
              " tokens and " + std::to_string(r.rows) + " rows, which is not what is committed");
      continue;
    }
    sequence.tokens.resize(r.tokens);
    sequence.cache.resize(r.tokens);
    sequence.rows = r.rows;
    sequence.table.resize((r.rows + config_.block_tokens - 1) / config_.block_tokens);
    sequence.decoding = false;
  }
}

void FakeWorker::Problem(const std::string& what) {
  problems_->push_back("worker " + id_.ToString() + " rank " +
                       (rank_.has_value() ? rank_->ToString() : "none") + ": " + what);
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
      if (block.value() < 0 || block.value() >= blocks()) Problem("a block outside the pool");
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

void FakeWorker::CheckLimits(const std::vector<Rows>& batch) {
  int rows = 0;
  int logits = 0;
  for (const Rows& r : batch) {
    rows += r.count;
    logits += r.prompt_logprobs ? r.count : r.sample ? 1 : 0;
  }
  if (rows > config_.max_batch_rows) Problem("too many rows");
  if (logits > config_.max_running_sequences) Problem("too many rows with logits");
  rows_of_last_step_ = rows;
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
