// SPDX-License-Identifier: Apache-2.0
// Shows that completion and chat bodies become exactly what they ask for, and that everything else
// is refused with an error that names the field: tables of good and bad bodies.
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "coordinator/api/api_error.h"
#include "coordinator/api/tokenize.h"
#include "coordinator/api/openai_request.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/api_test_model.h"

namespace shoal {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Pair;
using testing::TinyOptions;
using testing::TinyTokenizer;

class RequestTest : public ::testing::Test {
 protected:
  absl::StatusOr<ApiRequest> Completion(const std::string& fields) {
    return ParseCompletionRequest(absl::StrCat("{\"prompt\": \"To be\"", fields, "}"), model_);
  }
  absl::StatusOr<ApiRequest> Chat(const std::string& fields) {
    return ParseChatRequest(
        absl::StrCat("{\"messages\": [{\"role\": \"user\", \"content\": \"Hi\"}]", fields, "}"),
        model_);
  }

  ApiOptions options_ = TinyOptions();
  ApiModel model_{options_, TinyTokenizer()};
};

TEST_F(RequestTest, FillsInTheDefaults) {
  const auto request = Completion("");
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_FALSE(request->chat);
  EXPECT_EQ(request->n, 1);
  EXPECT_FALSE(request->stream);
  EXPECT_FALSE(request->has_seed);
  EXPECT_FALSE(request->reasons);
  const SamplingParams& sampling = request->sampling;
  EXPECT_FLOAT_EQ(sampling.temperature, 0.7f);  // the model's
  EXPECT_FLOAT_EQ(sampling.top_p, 0.95f);
  EXPECT_EQ(sampling.top_logprobs, -1);
  EXPECT_FALSE(sampling.prompt_logprobs);
  EXPECT_THAT(sampling.end_token_ids, ElementsAre(1));
  ASSERT_EQ(request->prompts.size(), 1u);
  EXPECT_EQ(request->prompts[0].max_tokens, 16);
  EXPECT_TRUE(request->prompts[0].bos_prepended);
  std::vector<int32_t> ids = TinyTokenizer().Encode("To be", Tokenizer::Matching::kAddedTokens);
  ids.insert(ids.begin(), 0);
  EXPECT_EQ(request->prompts[0].ids, ids);

  const auto chat = Chat("");
  ASSERT_TRUE(chat.ok()) << chat.status();
  EXPECT_TRUE(chat->chat);
  EXPECT_EQ(chat->prompts[0].ids.front(), 0);
  EXPECT_EQ(chat->prompts[0].ids.back(), 2037);  // <｜Assistant｜>
  EXPECT_EQ(chat->prompts[0].max_tokens, 2048 - static_cast<int32_t>(chat->prompts[0].ids.size()));
}

TEST_F(RequestTest, TakesEveryField) {
  const auto request = Completion(R"(, "model": "shoal-tiny", "n": 3, "max_tokens": 40,
      "min_tokens": 4, "temperature": 1.5, "top_p": 0.5, "top_k": 7, "min_p": 0.25,
      "presence_penalty": -2, "frequency_penalty": 2, "repetition_penalty": 1.25,
      "logit_bias": {"5": -100, "3": 2.5}, "seed": -7, "stop": ["a", "bc"],
      "stop_token_ids": [9, 8], "logprobs": 2, "echo": true, "stream": true,
      "stream_options": {"include_usage": true}, "user": "me", "priority": -3, "best_of": 3,
      "metadata": {"a": "b"}, "store": false, "suffix": null, "service_tier": "auto")");
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_EQ(request->n, 3);
  EXPECT_EQ(request->prompts[0].max_tokens, 40);
  const SamplingParams& sampling = request->sampling;
  EXPECT_EQ(sampling.min_tokens, 4);
  EXPECT_FLOAT_EQ(sampling.temperature, 1.5f);
  EXPECT_FLOAT_EQ(sampling.top_p, 0.5f);
  EXPECT_EQ(sampling.top_k, 7);
  EXPECT_FLOAT_EQ(sampling.min_p, 0.25f);
  EXPECT_FLOAT_EQ(sampling.presence_penalty, -2);
  EXPECT_FLOAT_EQ(sampling.frequency_penalty, 2);
  EXPECT_FLOAT_EQ(sampling.repetition_penalty, 1.25f);
  EXPECT_THAT(sampling.logit_bias, ElementsAre(Pair(3, 2.5f), Pair(5, -100.0f)));
  EXPECT_TRUE(request->has_seed);
  EXPECT_EQ(sampling.seed, static_cast<uint64_t>(-7));
  EXPECT_THAT(request->stop, ElementsAre("a", "bc"));
  EXPECT_THAT(sampling.end_token_ids, ElementsAre(9, 8, 1));
  EXPECT_EQ(sampling.top_logprobs, 2);
  EXPECT_TRUE(sampling.prompt_logprobs);
  EXPECT_TRUE(request->echo);
  EXPECT_TRUE(request->stream);
  EXPECT_TRUE(request->include_usage);
  EXPECT_EQ(request->user, "me");
  EXPECT_EQ(request->priority, -3);
}

TEST_F(RequestTest, TakesEveryFieldOfChat) {
  const auto request = Chat(R"(, "max_completion_tokens": 9, "logprobs": true, "top_logprobs": 20,
      "ignore_eos": true, "response_format": {"type": "text"}, "tools": [], "tool_choice": "auto",
      "parallel_tool_calls": true, "stop": "x", "modalities": ["text"], "temperature": 0,
      "top_p": 0, "top_k": -1, "add_generation_prompt": true)");
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_EQ(request->prompts[0].max_tokens, 9);
  EXPECT_EQ(request->sampling.top_logprobs, 20);
  EXPECT_THAT(request->sampling.end_token_ids, ElementsAre());
  EXPECT_THAT(request->stop, ElementsAre("x"));
  EXPECT_GT(request->sampling.top_p, 0);
  EXPECT_EQ(request->sampling.top_k, 0);
  EXPECT_EQ(Chat(R"(, "logprobs": true)")->sampling.top_logprobs, 0);
  EXPECT_EQ(Chat(R"(, "logprobs": false, "top_logprobs": 0)")->sampling.top_logprobs, -1);
  const std::string tool = R"(, "tools": [{"type": "function", "function": {"name": "f"}}])";
  EXPECT_TRUE(Chat(tool + R"(, "tool_choice": "none")").ok());
}

TEST_F(RequestTest, TakesEveryFormOfPrompt) {
  auto ids = [&](const std::string& prompt) {
    const auto request = ParseCompletionRequest("{\"prompt\": " + prompt + "}", model_);
    EXPECT_TRUE(request.ok()) << prompt << ": " << request.status();
    std::vector<std::vector<int32_t>> all;
    if (request.ok()) {
      for (const ApiPrompt& p : request->prompts) all.push_back(p.ids);
    }
    return all;
  };
  EXPECT_THAT(ids(R"("")"), ElementsAre(ElementsAre(0)));
  EXPECT_THAT(ids("[5, 6]"), ElementsAre(ElementsAre(5, 6)));  // ids are taken as they are
  EXPECT_THAT(ids("[[5], [6, 7]]"), ElementsAre(ElementsAre(5), ElementsAre(6, 7)));
  EXPECT_EQ(ids(R"(["To be", "or not"])").size(), 2u);
  EXPECT_EQ(ids(R"(["To be"])"), ids(R"("To be")"));
  // Written out, the begin of sentence is not doubled; markup is markup in a raw prompt.
  EXPECT_EQ(ids("\"<｜begin▁of▁sentence｜>To be\""), ids("\"To be\""));
  EXPECT_THAT(ids("\"<｜User｜>\""), ElementsAre(ElementsAre(0, 2036)));
}

struct BadBody {
  const char* fields;
  const char* param;
};

TEST_F(RequestTest, RefusesBadFieldsByName) {
  const std::vector<BadBody> cases = {
      {R"(, "n": 0)", "n"},
      {R"(, "n": 129)", "n"},
      {R"(, "n": 1.5)", "n"},
      {R"(, "n": "1")", "n"},
      {R"(, "n": true)", "n"},
      {R"(, "best_of": 4)", "best_of"},
      {R"(, "temperature": -0.1)", "temperature"},
      {R"(, "temperature": 2.1)", "temperature"},
      {R"(, "temperature": "hot")", "temperature"},
      {R"(, "top_p": -0.1)", "top_p"},
      {R"(, "top_p": 1.1)", "top_p"},
      {R"(, "top_k": -2)", "top_k"},
      {R"(, "top_k": 1.5)", "top_k"},
      {R"(, "min_p": 1.01)", "min_p"},
      {R"(, "presence_penalty": 2.01)", "presence_penalty"},
      {R"(, "frequency_penalty": -2.01)", "frequency_penalty"},
      {R"(, "repetition_penalty": 0)", "repetition_penalty"},
      {R"(, "logit_bias": [1])", "logit_bias"},
      {R"(, "logit_bias": {"x": 1})", "logit_bias"},
      {R"(, "logit_bias": {"2048": 1})", "logit_bias"},
      {R"(, "logit_bias": {"-1": 1})", "logit_bias"},
      {R"(, "logit_bias": {"7": 101})", "logit_bias.7"},
      {R"(, "logit_bias": {"7": "a"})", "logit_bias.7"},
      {R"(, "seed": 1.5)", "seed"},
      {R"(, "seed": 18446744073709551615)", "seed"},
      {R"(, "max_tokens": -1)", "max_tokens"},
      {R"(, "max_tokens": 99999999999)", "max_tokens"},
      {R"(, "max_tokens": 5, "max_completion_tokens": 6)", "max_tokens"},
      {R"(, "min_tokens": -1)", "min_tokens"},
      {R"(, "min_tokens": 17)", "min_tokens"},  // more than the 16 of max_tokens
      {R"(, "ignore_eos": 1)", "ignore_eos"},
      {R"(, "stop_token_ids": [2048])", "stop_token_ids[0]"},
      {R"(, "stop_token_ids": [1, -1])", "stop_token_ids[1]"},
      {R"(, "stop_token_ids": 1)", "stop_token_ids"},
      {R"(, "stop": 1)", "stop"},
      {R"(, "stop": [1])", "stop"},
      {R"(, "stop": "")", "stop"},
      {R"(, "stop": ["1","2","3","4","5","6","7","8","9","0","a","b","c","d","e","f","g"])",
       "stop"},
      {R"(, "stream": "yes")", "stream"},
      {R"(, "stream_options": {"include_usage": true})", "stream_options"},
      {R"(, "stream": true, "stream_options": 1)", "stream_options"},
      {R"(, "stream": true, "stream_options": {"what": 1})", "stream_options"},
      {R"(, "user": 5)", "user"},
      {R"(, "priority": 1.5)", "priority"},
      {R"(, "skip_special_tokens": false, "n": 1, "temperature": 3)", "temperature"},
      {R"(, "no_such_field": 1)", "no_such_field"},
      {R"(, "tempreature": 1)", "tempreature"},
  };
  for (const BadBody& bad : cases) {
    for (const bool chat : {false, true}) {
      const std::string fields = bad.fields;
      // Chat's default max_tokens is the rest of the context.
      if (chat && fields.find("17") != std::string::npos) continue;
      const auto request = chat ? Chat(fields) : Completion(fields);
      ASSERT_FALSE(request.ok()) << fields;
      EXPECT_EQ(HttpStatusOf(request.status()), 400) << request.status();
      EXPECT_THAT(ErrorJson(request.status()),
                  HasSubstr(absl::StrCat("\"param\":\"", bad.param, "\"")))
          << fields;
    }
  }
}

TEST_F(RequestTest, RefusesWhatOnlyTheOtherEndpointTakes) {
  for (const char* fields :
       {R"(, "logprobs": 21)", R"(, "logprobs": -1)", R"(, "logprobs": true)", R"(, "echo": 1)",
        R"(, "suffix": "x")", R"(, "messages": [])", R"(, "top_logprobs": 1)"}) {
    EXPECT_FALSE(Completion(fields).ok()) << fields;
  }
  for (const char* fields :
       {R"(, "logprobs": 5)", R"(, "top_logprobs": 5)", R"(, "logprobs": true, "top_logprobs": 21)",
        R"(, "echo": true)", R"(, "prompt": "x")", R"(, "max_tokens": 0)",
        R"(, "response_format": {"type": "json_object"})", R"(, "modalities": ["audio"])",
        R"(, "tools": [{"type": "function", "function": {"name": "f"}}])", R"(, "tools": "x")",
        R"(, "functions": [{"name": "f"}])"}) {
    EXPECT_FALSE(Chat(fields).ok()) << fields;
  }
}

TEST_F(RequestTest, RefusesBadPrompts) {
  for (const char* prompt : {"null", "5", "{}", "[]", "[[]]", "[5, \"a\"]", "[\"a\", 5]",
                             "[[5, \"a\"]]", "[2048]", "[-1]", "[1.5]", "[[1], [2048]]",
                             "[99999999999999999999]", "[true]", "[null]", "[[[1]]]"}) {
    const auto request = ParseCompletionRequest(absl::StrCat("{\"prompt\": ", prompt, "}"), model_);
    ASSERT_FALSE(request.ok()) << prompt;
    EXPECT_EQ(HttpStatusOf(request.status()), 400);
    EXPECT_THAT(ErrorJson(request.status()), HasSubstr("\"param\":\"prompt")) << prompt;
  }
  std::string many = "[\"a\"";
  for (int i = 0; i < 256; ++i) many += ", \"a\"";
  EXPECT_FALSE(ParseCompletionRequest("{\"prompt\": " + many + "]}", model_).ok());
  EXPECT_FALSE(Completion(R"(, "n": 128, "prompt": ["a","a","a","a","a","a","a","a","a"])").ok());
}

TEST_F(RequestTest, RefusesBadMessages) {
  for (const char* messages :
       {"null", "[]", "5", "[5]", "[{}]", R"([{"role": "king", "content": "x"}])",
        R"([{"role": "user"}])", R"([{"role": "user", "content": 5}])",
        R"([{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}])"}) {
    const auto request = ParseChatRequest(absl::StrCat("{\"messages\": ", messages, "}"), model_);
    ASSERT_FALSE(request.ok()) << messages;
    EXPECT_EQ(HttpStatusOf(request.status()), 400) << request.status();
    EXPECT_THAT(ErrorJson(request.status()), HasSubstr("\"param\":\"messages")) << messages;
  }
  EXPECT_FALSE(ParseChatRequest("{}", model_).ok());
  EXPECT_THAT(std::string(ParseChatRequest(R"({"messages": []})", model_).status().message()),
              HasSubstr("messages: wanted a non-empty array, found an empty array"));
}

TEST_F(RequestTest, TakesMessagesAsClientsSendThemBack) {
  const auto plain = ParseChatRequest(R"({"messages": [{"role": "user", "content": "Who?"},
      {"role": "assistant", "content": "I."}, {"role": "user", "content": "Why?"}]})",
                                      model_);
  ASSERT_TRUE(plain.ok()) << plain.status();
  for (const char* empty : {"null", "[]", "{}", "\"\""}) {
    const auto request = ParseChatRequest(
        absl::StrCat(R"({"messages": [{"role": "user", "content": "Who?", "name": "me"},
            {"role": "assistant", "content": "I.", "reasoning_content": null, "tool_calls": [],
             "annotations": [{"type": "url_citation"}], "tool_call_id": null, "prefix": false,
             "refusal": )",
                     empty, ", \"audio\": ", empty, ", \"function_call\": ", empty,
                     R"(}, {"role": "user", "content": "Why?"}]})"),
        model_);
    ASSERT_TRUE(request.ok()) << empty << ": " << request.status();
    EXPECT_EQ(request->prompts[0].ids, plain->prompts[0].ids);
  }
}

TEST_F(RequestTest, RefusesFieldsOfMessagesThatNobodyReads) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {R"("foo": 1)", "foo"},
      {R"("foo": null)", "foo"},
      {R"("Content": "x")", "Content"},
      {R"("refusal": "No.")", "refusal"},
      {R"("audio": {"id": "1"})", "audio"},
      {R"("function_call": {"name": "f", "arguments": "{}"})", "function_call"},
  };
  for (const auto& [field, name] : cases) {
    const std::string messages = absl::StrCat(
        R"({"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y", )",
        field, "}, {\"role\": \"user\", \"content\": \"z\"}]}");
    for (const absl::Status& status :
         {ParseChatRequest(messages, model_).status(), Tokenize(messages, model_).status()}) {
      EXPECT_EQ(HttpStatusOf(status), 400) << field << ": " << status;
      EXPECT_THAT(ErrorJson(status),
                  HasSubstr(absl::StrCat("\"param\":\"messages[1].", name, "\"")))
          << field;
    }
  }
}

TEST_F(RequestTest, RefusesWhatIsNoJsonObject) {
  std::string deep(200000, '[');
  std::string closed = "{\"prompt\":" + std::string(5000, '[') + std::string(5000, ']') + "}";
  for (const std::string& body :
       {std::string(), std::string("{"), std::string("[]"), std::string("\"a\""),
        std::string("nul"), std::string("{\"prompt\": \"a\"} x"), std::string("{\"prompt\": 'a'}"),
        std::string("{\"prompt\": \"\xff\xfe\"}"), std::string("{\"prompt\": \"\\ud800\"}"),
        std::string("{\"prompt\": \"a\", \"temperature\": NaN}"),
        std::string("{\"prompt\": \"a\", \"temperature\": 1e999}"),
        std::string("{\"prompt\":\0}", 12), deep, closed}) {
    for (const bool chat : {false, true}) {
      const auto status = chat ? ParseChatRequest(body, model_).status()
                               : ParseCompletionRequest(body, model_).status();
      EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << body.substr(0, 50);
    }
  }
}

TEST_F(RequestTest, HoldsRequestsAgainstTheContext) {
  std::string ids = "5";
  for (int i = 1; i < 2040; ++i) ids += ",5";
  auto request = [&](const std::string& fields) {
    return ParseCompletionRequest(absl::StrCat("{\"prompt\": [", ids, "]", fields, "}"), model_);
  };
  ASSERT_TRUE(request("").ok());
  EXPECT_EQ(request("")->prompts[0].max_tokens, 8);  // the default gives way
  EXPECT_TRUE(request(", \"max_tokens\": 8").ok());
  const auto status = request(", \"max_tokens\": 9").status();
  EXPECT_THAT(ErrorJson(status), HasSubstr("context_length_exceeded"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("2048"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("2040"));
  ids += ",5,5,5,5,5,5,5,5";
  EXPECT_FALSE(request("").ok());
  EXPECT_TRUE(request(", \"max_tokens\": 0").ok());
  ids += ",5";
  EXPECT_FALSE(request(", \"max_tokens\": 0").ok());

  const std::string text(200000, 'x');
  EXPECT_THAT(ErrorJson(ParseCompletionRequest("{\"prompt\": \"" + text + "\"}", model_).status()),
              HasSubstr("context_length_exceeded"));
  EXPECT_THAT(
      ErrorJson(ParseChatRequest(
                    R"({"messages": [{"role": "user", "content": ")" + text + R"("}]})", model_)
                    .status()),
      HasSubstr("context_length_exceeded"));
}

TEST_F(RequestTest, KnowsItsOwnName) {
  const auto status = Completion(R"(, "model": "gpt-5")").status();
  EXPECT_EQ(HttpStatusOf(status), 404);
  EXPECT_THAT(ErrorJson(status), HasSubstr("model_not_found"));
  EXPECT_EQ(HttpStatusOf(Chat(R"(, "model": "gpt-5")").status()), 404);
}

TEST_F(RequestTest, RefusesChatWithoutATemplate) {
  options_.chat_format.reset();
  EXPECT_EQ(Chat("").status().code(), absl::StatusCode::kUnimplemented);
  EXPECT_TRUE(Completion("").ok());
}

TEST_F(RequestTest, MarksReasoningFormats) {
  options_.chat_format = ChatFormat::kR1;
  auto request = Chat("");
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_TRUE(request->reasons);
  EXPECT_TRUE(request->starts_in_reasoning);
  options_.chat_format = ChatFormat::kV31;
  request = Chat("");
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_TRUE(request->reasons);
  EXPECT_FALSE(request->starts_in_reasoning);
  request = Chat(R"(, "chat_template_kwargs": {"thinking": true})");
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_TRUE(request->starts_in_reasoning);
}

TEST_F(RequestTest, TokenizesAndBack) {
  const auto ids = Tokenize(R"({"prompt": "To be"})", model_);
  ASSERT_TRUE(ids.ok()) << ids.status();
  EXPECT_THAT(*ids, HasSubstr("\"tokens\":[0,"));
  EXPECT_THAT(*Tokenize(R"({"prompt": "To be", "add_special_tokens": false})", model_),
              ::testing::Not(HasSubstr("\"tokens\":[0,")));
  EXPECT_EQ(*Tokenize("{\"prompt\": \"<｜User｜>\", \"add_special_tokens\": false}", model_),
            R"({"count":1,"max_model_len":2048,"tokens":[2036]})");
  EXPECT_THAT(*Tokenize(R"({"messages": [{"role": "user", "content": "Hi"}]})", model_),
              HasSubstr("\"tokens\":[0,2036,"));
  const std::string tokens = ids->substr(ids->find("\"tokens\""));
  EXPECT_EQ(*Detokenize("{" + tokens, model_), R"({"prompt":"To be"})");
  EXPECT_THAT(*Detokenize(R"({"tokens": [0], "add_special_tokens": false})", model_),
              HasSubstr("sentence"));
  EXPECT_EQ(*Detokenize(R"({"tokens": []})", model_), R"({"prompt":""})");
  for (const char* body : {"{}", R"({"prompt": 5})", R"({"prompt": "a", "x": 1})", "[]"}) {
    EXPECT_EQ(HttpStatusOf(Tokenize(body, model_).status()), 400) << body;
  }
  for (const char* body : {"{}", R"({"tokens": "a"})", R"({"tokens": [2048]})", "[]"}) {
    EXPECT_EQ(HttpStatusOf(Detokenize(body, model_).status()), 400) << body;
  }
}

// Bodies with bytes changed, cut or doubled at random: each is taken or refused, never worse.
TEST_F(RequestTest, SurvivesDamagedBodies) {
  const uint32_t seed = std::random_device()();
  SCOPED_TRACE(::testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  const std::string completion = R"({"model": "shoal-tiny", "prompt": ["To be", "or"], "n": 2,
      "max_tokens": 7, "temperature": 0.5, "logit_bias": {"5": -1.5e1}, "stop": ["a", "\u00e9"],
      "stream": true, "stream_options": {"include_usage": true}, "logprobs": 2, "seed": 12})";
  const std::string chat = R"({"messages": [{"role": "system", "content": "a"},
      {"role": "user", "content": [{"type": "text", "text": "b"}]}, {"role": "assistant",
      "content": null, "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f",
      "arguments": "{}"}}]}, {"role": "tool", "content": "c", "tool_call_id": "1"}],
      "logprobs": true, "top_logprobs": 3, "chat_template_kwargs": {"thinking": true}})";
  int taken = 0;
  for (int round = 0; round < 6000; ++round) {
    std::string body = round % 2 == 0 ? completion : chat;
    for (uint32_t i = random() % 4; i > 0 && !body.empty(); --i) {
      const size_t at = random() % body.size();
      switch (random() % 4) {
        case 0:
          body[at] = static_cast<char>(random());
          break;
        case 1:
          body.erase(at, random() % 9);
          break;
        case 2:
          body.insert(at, body.substr(random() % body.size(), random() % 9));
          break;
        default:
          body[at] = "0123456789-+.eE\"{}[],:"[random() % 23];
      }
    }
    const auto request =
        round % 2 == 0 ? ParseCompletionRequest(body, model_) : ParseChatRequest(body, model_);
    if (request.ok()) {
      ++taken;
      for (const ApiPrompt& prompt : request->prompts) {
        ASSERT_FALSE(prompt.ids.empty());
        ASSERT_LE(static_cast<int64_t>(prompt.ids.size()) + prompt.max_tokens, 2048);
        for (const int32_t id : prompt.ids) ASSERT_LT(static_cast<uint32_t>(id), 2048u);
      }
    } else {
      ASSERT_THAT(HttpStatusOf(request.status()), ::testing::AnyOf(400, 404)) << body;
      ASSERT_FALSE(ErrorJson(request.status()).empty());
    }
  }
  EXPECT_GT(taken, 1000);
}

TEST(GenerationConfig, GivesTheDefaults) {
  const auto defaults = ParseSamplingDefaults(
      R"({"do_sample": true, "temperature": 0.6, "top_p": 0.95, "top_k": 20, "eos_token_id": 1})");
  ASSERT_TRUE(defaults.ok());
  EXPECT_FLOAT_EQ(defaults->temperature, 0.6f);
  EXPECT_FLOAT_EQ(defaults->top_p, 0.95f);
  EXPECT_EQ(defaults->top_k, 20);
  EXPECT_FLOAT_EQ(ParseSamplingDefaults("")->temperature, 1);
  EXPECT_FLOAT_EQ(ParseSamplingDefaults(R"({"do_sample": false})")->temperature, 0);
  for (const char* bad : {"{", "[]", R"({"temperature": -1})", R"({"top_p": 0})",
                          R"({"do_sample": 3})", R"({"repetition_penalty": "x"})"}) {
    EXPECT_EQ(ParseSamplingDefaults(bad).status().code(), absl::StatusCode::kInvalidArgument)
        << bad;
  }
}

}  // namespace
}  // namespace shoal
