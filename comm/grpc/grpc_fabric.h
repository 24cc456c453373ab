// SPDX-License-Identifier: Apache-2.0
// Transport `grpc`: works wherever TCP does, with mutual TLS. Every rank is a server that takes
// streams of rows, and dials one stream to every peer.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "comm/carrier.h"
#include "comm/connect_gate.h"
#include "comm/fabric.h"
#include "comm/grpc/channel_settings.h"
#include "comm/grpc/incoming_link.h"
#include "comm/grpc/link_events.h"
#include "comm/grpc/row_sender.h"
#include "comm/grpc/row_service.h"
#include "comm/lane_exchange.h"
#include "grpcpp/server.h"

namespace shoal {

class GrpcFabric final : public Fabric, private LinkEvents, private Carrier {
 public:
  static absl::StatusOr<std::unique_ptr<Fabric>> Make(const FabricOptions& options);
  ~GrpcFabric() override;

  absl::string_view transport() const override { return "grpc"; }
  std::string endpoint() const override { return endpoint_; }
  absl::StatusOr<Exchange*> Connect(Epoch epoch, RankId rank,
                                    absl::Span<const std::string> endpoints,
                                    absl::Time deadline) override;
  void Abandon(Epoch next) override;

 private:
  // Both directions to one peer while they are being made.
  struct Peer {
    std::unique_ptr<RowSender> sender;
    absl::Time dial_again = absl::InfinitePast();
    absl::Duration pause;  // before the next call: doubles, up to kLongestPause
    absl::Status last_failure;
    std::shared_ptr<IncomingLink>
        link;  // shared with gRPC's stream object, which may outlive us or not
    bool done = false;
  };

  GrpcFabric(const FabricOptions& options, TlsTexts tls);
  absl::Status Listen();
  absl::StatusOr<std::unique_ptr<RowSender>> Dial(const Hello& mine, RankId peer,
                                                  const std::string& endpoint);
  // One look at what a peer has done; sets peer.done when it is connected both ways.
  absl::Status Advance(const Hello& mine, absl::Span<const std::string> endpoints, int rank,
                       Peer& peer);
  absl::Status AdvanceDialled(const Hello& mine, absl::Span<const std::string> endpoints, int rank,
                              Peer& peer);
  absl::Status AdvanceCalling(const Hello& mine, absl::Span<const std::string> endpoints, int rank,
                              Peer& peer);
  absl::Status Introduce(const Hello& mine, absl::Span<const std::string> endpoints,
                         absl::Time deadline, std::vector<Peer>& peers);
  void LinkLost(RankId peer, const absl::Status& why) override;
  void RoomMade() override;

  FabricOptions options_;
  TlsTexts tls_;
  std::string endpoint_;
  Doorbell changed_;  // something happened that Connect waits for
  ConnectGate gate_;
  RowService service_;
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<LaneExchange> exchange_;            // owns the senders
  std::vector<RowSender*> senders_;  // by rank; null for ourselves and absent ones
  std::vector<std::shared_ptr<IncomingLink>> links_;  // likewise
};

}  // namespace shoal
