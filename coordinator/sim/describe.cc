// SPDX-License-Identifier: Apache-2.0
#include "coordinator/sim/describe.h"

#include <variant>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace shoal::sim {
namespace {

template <typename... Visitors>
struct Overloaded : Visitors... {
  using Visitors::operator()...;
};
template <typename... Visitors>
Overloaded(Visitors...) -> Overloaded<Visitors...>;

template <typename Ids>
std::string Joined(const Ids& ids) {
  return absl::StrJoin(ids, ",", [](std::string* out, const auto& id) {
    absl::StrAppend(out, id.value());
  });
}

std::string Worker(WorkerId worker) { return absl::StrCat("worker ", worker.value()); }

std::string Describe(const RankPlan& plan) {
  std::string text;
  for (const Rewind& rewind : plan.rewind) {
    absl::StrAppend(&text, " rewind ", rewind.id.value(), " to ", rewind.tokens, "/", rewind.rows);
  }
  if (!plan.forget.empty()) absl::StrAppend(&text, " forget ", Joined(plan.forget));
  if (!plan.stop_decode.empty()) absl::StrAppend(&text, " stop ", Joined(plan.stop_decode));
  for (const NewSequence& entering : plan.new_sequences) {
    absl::StrAppend(&text, " new ", entering.id.value(), " (", entering.tokens.size(), " tokens, ",
                    entering.prompt_tokens, " of them prompt)");
  }
  for (const SequenceWork& work : plan.work) {
    absl::StrAppend(&text, " work ", work.id.value(), " [", work.start, ",",
                    work.start + work.count, ")", work.sample ? " samples" : "");
    if (!work.new_blocks.empty()) absl::StrAppend(&text, " blocks ", Joined(work.new_blocks));
  }
  return text.empty() ? " decode" : text;
}

}  // namespace

std::string Describe(const Event& event) {
  return std::visit(
      Overloaded{
          [](const RequestArrived& e) {
            return absl::StrCat("request ", e.request.id.value(), " arrives: ",
                                e.request.prompt.size(), " + ", e.request.max_tokens, " tokens, n ",
                                e.request.n);
          },
          [](const RequestCancelled& e) {
            return absl::StrCat("request ", e.id.value(), " choice ", e.choice.value_or(-1),
                                " is cancelled");
          },
          [](const WorkerJoined& e) {
            return absl::StrCat(Worker(e.worker), " joins: process ", e.pid, " on ", e.host, ", ",
                                e.cache_blocks, " blocks, wants rank ",
                                e.wanted_rank.has_value() ? e.wanted_rank->value() : -1,
                                ", last epoch ", e.last_epoch.value());
          },
          [](const WorkerLoaded& e) { return Worker(e.worker) + " has loaded"; },
          [](const WorkerReady& e) {
            return absl::StrCat(Worker(e.worker), " is ready for epoch ", e.epoch.value());
          },
          [](const ConnectFailed& e) {
            return absl::StrCat(Worker(e.worker), " cannot connect in epoch ", e.epoch.value(),
                                ": ", e.why.message());
          },
          [](const WorkerLost& e) { return absl::StrCat(Worker(e.worker), " is lost: ", e.why); },
          [](const StepDone& e) {
            std::string text = absl::StrCat(Worker(e.worker), " reports epoch ", e.epoch.value(),
                                            " step ", e.step.value(), ":");
            if (!e.status.ok()) return absl::StrCat(text, " ", e.status.ToString());
            for (const SampledToken& token : e.tokens) {
              absl::StrAppend(&text, " ", token.sequence.value(), "@", token.position, "=",
                              token.token);
            }
            return text;
          },
          [](const ExpertTokens& e) { return Worker(e.worker) + " counts its experts' tokens"; },
          [](const Heartbeat& e) { return Worker(e.worker) + " beats"; },
          [](const Tick&) { return std::string("tick"); },
          [](const DrainStarted&) { return std::string("drain"); },
      },
      event);
}

std::string Describe(const Command& command) {
  return std::visit(
      Overloaded{
          [](const AssignRank& c) {
            return absl::StrCat(
                "assign ", Worker(c.worker), ": epoch ", c.epoch.value(), " rank ", c.rank.value(),
                " of ", absl::StrJoin(*c.members, ",", [](std::string* out, const auto& member) {
                  absl::StrAppend(out, member.has_value() ? absl::StrCat(member->value()) : "-");
                }));
          },
          [](const LoadExperts& c) {
            return absl::StrCat(Worker(c.worker), " loads for rank ", c.rank.value());
          },
          [](const SendPlan& c) {
            return absl::StrCat("plan for ", Worker(c.worker), ": epoch ", c.plan.epoch.value(),
                                " step ", c.plan.step.value(), ":", Describe(c.plan.plan));
          },
          [](const EvictWorker& c) {
            return absl::StrCat("evict ", Worker(c.worker), ": ", c.why.ToString());
          },
          [](const Emit& c) {
            return absl::StrCat("emit request ", c.request.value(), " choice ", c.choice, " from ",
                                c.first_index, ": ", absl::StrJoin(c.tokens, " "),
                                c.finish == FinishReason::kNone
                                    ? ""
                                    : absl::StrCat(" finish ", static_cast<int>(c.finish), " ",
                                                   c.error.ToString()));
          },
          [](const Reject& c) {
            return absl::StrCat("reject request ", c.request.value(), ": ", c.why.ToString());
          },
          [](const Drained&) { return std::string("drained"); },
      },
      command);
}

}  // namespace shoal::sim
