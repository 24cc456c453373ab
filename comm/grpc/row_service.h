// SPDX-License-Identifier: Apache-2.0
// The server's side: takes streams of rows from peers. A stream's hello waits here until Connect
// wants it; Connect welcomes it, and then its messages go to an IncomingLink, or refuses it.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "comm/doorbell.h"
#include "comm/grpc/incoming_link.h"
#include "comm/hello.h"
#include "grpcpp/generic/async_generic_service.h"

namespace shoal {

class RowReceiver;

class RowService final : public grpc::CallbackGenericService {
 public:
  // `changed` is rung when a hello arrives.
  explicit RowService(Doorbell& changed) : changed_(changed) {}

  // Refuses what waits from before `epoch`, now and from now on.
  void StartEpoch(Epoch epoch);
  // The hello of `peer` that waits, if any.
  std::optional<Hello> Waiting(RankId peer);
  // Decides on it. False when it has gone meanwhile.
  bool Welcome(RankId peer, std::shared_ptr<IncomingLink> link, const Hello& mine);
  void Refuse(RankId peer, const absl::Status& why);

 private:
  friend class RowReceiver;
  struct Caller {
    RowReceiver* receiver;
    Hello hello;
  };

  grpc::ServerGenericBidiReactor* CreateReactor(
      grpc::GenericCallbackServerContext* context) override;
  void Arrived(RowReceiver& receiver, Hello hello);
  void Ended(RowReceiver& receiver);

  Doorbell& changed_;
  absl::Mutex mutex_;
  Epoch epoch_ ABSL_GUARDED_BY(mutex_);
  std::map<RankId, Caller> waiting_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace shoal
