// SPDX-License-Identifier: Apache-2.0
// Shows that the one configuration means the same as flags, as YAML and as printed, that flags win
// over the file, and that each wrong value is refused by name. It resolves command lines in
// process; no cluster is started.
#include <fstream>
#include <string>
#include <vector>

#include "deploy/shoal/config.h"
#include "deploy/shoal/config_fields.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace shoal {
namespace {

using ::testing::HasSubstr;

absl::StatusOr<ShoalConfig> Parse(ConfigCommand command, std::vector<std::string> arguments) {
  CLI::App app;
  ConfigFlags flags(app, command);
  std::reverse(arguments.begin(), arguments.end());  // as CLI11 wants them
  try {
    app.parse(arguments);
  } catch (const CLI::ParseError& error) {
    return absl::InvalidArgumentError(std::string("usage: ") + error.what());
  }
  return flags.Resolve();
}

std::string WriteFile(const std::string& text) {
  const std::string path = ::testing::TempDir() + "/config.yaml";
  std::ofstream(path) << text;
  return path;
}

TEST(ConfigFile, DefaultsNeedOnlyAModel) {
  const absl::StatusOr<ShoalConfig> config = Parse(kServe, {"--model", "m"});
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->model, "m");
  EXPECT_EQ(config->workers, 1);
  EXPECT_EQ(config->transport, "shm");
  EXPECT_TRUE(config->prefix_cache);
}

TEST(ConfigFile, FlagsWinOverTheFileAndTheFileOverDefaults) {
  const std::string file = WriteFile(
      "model: from-file\nworkers: 3\nmax-queue: 7\nprefix-cache: false\nstep-timeout-s: 2.5\n");
  const absl::StatusOr<ShoalConfig> config =
      Parse(kServe, {"--config", file, "--workers", "5", "--fp8-activations"});
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->model, "from-file");
  EXPECT_EQ(config->workers, 5);
  EXPECT_EQ(config->max_queue, 7);
  EXPECT_FALSE(config->prefix_cache);
  EXPECT_TRUE(config->fp8_activations);
  EXPECT_EQ(config->step_timeout_s, 2.5);
  EXPECT_EQ(config->max_running, ShoalConfig().max_running);
}

TEST(ConfigFile, AFlagThatSaysTheDefaultStillWins) {
  const std::string file = WriteFile("model: m\nworkers: 3\nprefix-cache: false\n");
  const absl::StatusOr<ShoalConfig> config =
      Parse(kServe, {"--config", file, "--workers", "1", "--prefix-cache"});
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->workers, 1);
  EXPECT_TRUE(config->prefix_cache);
}

TEST(ConfigFile, WhatIsPrintedReadsBackAsItself) {
  for (ConfigCommand command : {kServe, kCoordinator, kWorker}) {
    ShoalConfig config;
    config.model = "a: b # no comment";
    config.served_model_name = "true";
    config.cache_memory = "8G";
    config.heartbeat_timeout_s = 0.25;
    config.insecure = true;
    config.cache_blocks = 2000000000;
    const std::string yaml = ConfigToYaml(config, command);
    ShoalConfig back;
    const absl::Status status = ApplyYaml(yaml, command, back);
    ASSERT_TRUE(status.ok()) << status << "\n" << yaml;
    EXPECT_EQ(ConfigToYaml(back, command), yaml);
    EXPECT_EQ(back.model, config.model);
    EXPECT_EQ(yaml.find("supervised"), std::string::npos);  // not the user's
  }
}

TEST(ConfigFile, EveryBadFileIsRefusedByKeyAndLine) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"model: m\nworkrs: 2\n", "line 2: unknown key 'workrs'"},
      {"model: m\ncoordinator: 127.0.0.1:1\n", "unknown key 'coordinator'"},  // a worker's
      {"model: m\nworkers: many\n", "'workers' has a value of the wrong type"},
      {"model: m\nworkers: 1.5\n", "'workers'"},
      {"model: m\nprefix-cache: 3\n", "'prefix-cache'"},
      {"model: m\nworkers:\n", "'workers'"},
      {"model: m\nmodel: n\n", "line 2: 'model' a second time"},
      {"- model\n", "want a map"},
      {"model: [m\n", "no YAML"},
      {"model: {a: b}\n", "'model'"},
  };
  for (const auto& [text, message] : cases) {
    const absl::StatusOr<ShoalConfig> config = Parse(kServe, {"--config", WriteFile(text)});
    ASSERT_FALSE(config.ok()) << text;
    EXPECT_THAT(config.status().ToString(), HasSubstr(message)) << text;
  }
  EXPECT_THAT(Parse(kServe, {"--config", "/nowhere.yaml"}).status().ToString(),
              HasSubstr("/nowhere.yaml: cannot be read"));
}

TEST(ConfigFile, EveryBadValueIsRefusedByName) {
  const std::vector<std::pair<std::vector<std::string>, std::string>> cases = {
      {{}, "--model"},
      {{"--model", "m", "--workers", "0"}, "--workers: want 1..4096, got '0'"},
      {{"--model", "m", "--workers", "two"}, "usage"},
      {{"--model", "m", "--transport", "pigeon"},
       "--transport: want inprocess | shm | grpc | mpi, got 'pigeon'"},
      {{"--model", "m", "--backend", "gpu"}, "--backend"},
      {{"--model", "m", "--chat-format", "v9"}, "--chat-format"},
      {{"--model", "m", "--log-level", "loud"}, "--log-level"},
      {{"--model", "m", "--cache-memory", "lots"}, "--cache-memory: 'lots' is no size"},
      {{"--model", "m", "--cache-memory", "-1"}, "--cache-memory"},
      {{"--model", "m", "--cache-memory", "1G", "--cache-blocks", "5"}, "give one"},
      {{"--model", "m", "--placement", "p.json", "--expert-load", "l.json"},
       "--placement and --expert-load: give one"},
      {{"--model", "m", "--cache-blocks", "-5"}, "--cache-blocks"},
      {{"--model", "m", "--block-tokens", "0"}, "--block-tokens"},
      {{"--model", "m", "--max-batch-rows", "100000000"}, "--max-batch-rows"},
      {{"--model", "m", "--max-batch-rows", "8", "--max-running", "9"},
       "--max-running: want at most"},
      {{"--model", "m", "--step-timeout-s", "nan"}, "--step-timeout-s"},
      {{"--model", "m", "--http", "8000"}, "--http: '8000' is no address"},
      {{"--model", "m", "--http", "localhost:99999"}, "--http: 'localhost:99999' is no address"},
      {{"--model", "m", "--http", "::1:80"}, "is no address"},
      {{"--model", "m", "--tls-cert", "c"}, "--tls-cert, --tls-key"},
      {{"--model", "m", "--cluster-key", "k"}, "--cluster-cert, --cluster-key, --cluster-ca"},
      {{"--model", "m", "--supervised"}, "usage"},  // a worker's
      {{"--model", "m", "--no-such-flag"}, "usage"},
      {{"--model", "m", "stray"}, "usage"},
  };
  for (const auto& [arguments, message] : cases) {
    const absl::StatusOr<ShoalConfig> config = Parse(kServe, arguments);
    ASSERT_FALSE(config.ok()) << message;
    EXPECT_THAT(config.status().ToString(), HasSubstr(message));
  }
  EXPECT_THAT(Parse(kWorker, {"--model", "m"}).status().ToString(), HasSubstr("--coordinator"));
  EXPECT_THAT(Parse(kCoordinator, {"--model", "m"}).status().ToString(),
              HasSubstr("--cluster-listen"));
}

TEST(ConfigFile, ListeningBeyondLoopbackNeedsProofOrAWord) {
  const std::vector<std::string> open = {"--model", "m", "--http", "0.0.0.0:8000"};
  EXPECT_THAT(Parse(kServe, open).status().ToString(), HasSubstr("--insecure"));
  std::vector<std::string> half = open;
  half.insert(half.end(), {"--tls-cert", "c", "--tls-key", "k"});
  EXPECT_FALSE(Parse(kServe, half).ok());  // keys are missing
  half.insert(half.end(), {"--api-keys", "f"});
  EXPECT_TRUE(Parse(kServe, half).ok());
  std::vector<std::string> said = open;
  said.push_back("--insecure");
  EXPECT_TRUE(Parse(kServe, said).ok());

  const std::vector<std::string> cluster = {"--model", "m", "--cluster-listen", "[::]:4700"};
  EXPECT_THAT(Parse(kCoordinator, cluster).status().ToString(), HasSubstr("--cluster-cert"));
  std::vector<std::string> mutual = cluster;
  mutual.insert(mutual.end(), {"--cluster-cert", "c", "--cluster-key", "k", "--cluster-ca", "a"});
  EXPECT_TRUE(Parse(kCoordinator, mutual).ok());

  const std::vector<std::string> exchange = {
      "--model",     "m",    "--coordinator",     "h:1",
      "--transport", "grpc", "--exchange-listen", "10.0.0.1:0"};
  EXPECT_THAT(Parse(kWorker, exchange).status().ToString(), HasSubstr("--exchange-listen"));

  for (const char* address : {"127.0.0.1:0", "127.9.9.9:1", "localhost:1", "[::1]:1"}) {
    EXPECT_TRUE(Parse(kServe, {"--model", "m", "--http", address}).ok()) << address;
  }
}

TEST(ConfigFile, SizesAreReadAsPeopleWriteThem) {
  EXPECT_EQ(*ParseBytes("4096"), 4096);
  EXPECT_EQ(*ParseBytes("512M"), int64_t{512} << 20);
  EXPECT_EQ(*ParseBytes("8GiB"), int64_t{8} << 30);
  EXPECT_EQ(*ParseBytes("1.5k"), 1536);
  EXPECT_EQ(*ParseBytes("2 GB"), int64_t{2} << 30);
  for (const char* bad : {"", "G", "-1", "1X", "1e30G", "nan", "0x"})
    EXPECT_FALSE(ParseBytes(bad).ok()) << bad;
}

}  // namespace
}  // namespace shoal
