// SPDX-License-Identifier: Apache-2.0
// One stream of rows at the server: reads the hello, hands it to the service, and once welcome
// reads messages into its link. Owns itself: gRPC's OnDone ends it.
#pragma once

#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "comm/grpc/incoming_link.h"
#include "comm/grpc/row_service.h"
#include "grpcpp/generic/async_generic_service.h"
#include "grpcpp/support/byte_buffer.h"

namespace shoal {

class RowReceiver final : public grpc::ServerGenericBidiReactor, private IncomingLink::Source {
 public:
  explicit RowReceiver(RowService& service);

  void Welcome(std::shared_ptr<IncomingLink> link, const Hello& mine);
  void Refuse(const absl::Status& why);

 private:
  ~RowReceiver() override = default;

  void OnReadDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;
  void ReadNext() override;
  void End(const absl::Status& why) override;
  void Lose(const absl::Status& why);

  RowService& service_;
  grpc::ByteBuffer message_;  // the read in flight
  absl::Mutex mutex_;
  bool greeted_ ABSL_GUARDED_BY(mutex_) = false;
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;
  grpc::ByteBuffer reply_ ABSL_GUARDED_BY(mutex_);
  std::shared_ptr<IncomingLink> link_
      ABSL_GUARDED_BY(mutex_);  // shared with the fabric, which may end first
};

}  // namespace shoal
