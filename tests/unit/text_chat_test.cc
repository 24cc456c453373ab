// SPDX-License-Identifier: Apache-2.0
// Shows how chat bodies are read (every malformed field is named), which format a template is told
// to be, what each format refuses, and that a prompt's segments mark exactly the template's tokens.
#include <gtest/gtest.h>

#include <chrono>
#include <filesystem>
#include <fstream>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "engine/text/chat_json.h"
#include "engine/text/chat_template.h"
#include "engine/text/json_text_internal.h"
#include "engine/text/tokenizer.h"

namespace shoal {
namespace {

void ExpectError(const absl::Status& status, absl::StatusCode code, absl::string_view part) {
  EXPECT_EQ(status.code(), code) << status;
  EXPECT_TRUE(absl::StrContains(status.message(), part)) << status << "\nlacks: " << part;
}

ChatRequest Parse(absl::string_view body) {
  const absl::StatusOr<ChatRequest> request = ParseChatBody(body);
  EXPECT_TRUE(request.ok()) << request.status();
  return request.value_or(ChatRequest());
}

// --- Bodies
// ----------------------------------------------------------------------------------------

TEST(ChatBody, EveryMalformedFieldIsNamed) {
  const std::pair<const char*, const char*> cases[] = {
      {"", "not valid JSON"},
      {"{\"messages\": [", "not valid JSON"},
      {"{\"messages\": [{\"role\": \"user\", \"content\": \"\xFF\"}]}", "not valid JSON"},
      {"3", "body: wanted a JSON object"},
      {"{}", "messages: wanted a non-empty array, found nothing"},
      {R"({"messages": []})", "messages: wanted a non-empty array, found an empty array"},
      {R"({"messages": "hi"})", "messages: wanted a non-empty array, found \"hi\""},
      {R"({"messages": ["hi"]})", "messages[0]: wanted an object"},
      {R"({"messages": [{"content": "x"}]})", "messages[0].role"},
      {R"({"messages": [{"role": "narrator", "content": "x"}]})", "found \"narrator\""},
      {R"({"messages": [{"role": "user"}]})", "messages[0].content: wanted a string"},
      {R"({"messages": [{"role": "user", "content": null}]})", "messages[0].content"},
      {R"({"messages": [{"role": "user", "content": 4}]})", "messages[0].content"},
      {R"({"messages": [{"role": "user", "content": ["x"]}]})", "messages[0].content[0]"},
      {R"({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]})",
       "messages[0].content[0].type: wanted \"text\", found \"image_url\""},
      {R"({"messages": [{"role": "user", "content": [{"type": "text"}]}]})",
       "messages[0].content[0].text"},
      {R"({"messages": [{"role": "assistant", "prefix": 1}]})", "messages[0].prefix"},
      {R"({"messages": [{"role": "assistant", "reasoning_content": 1}]})",
       "messages[0].reasoning_content"},
      {R"({"messages": [{"role": "assistant", "tool_calls": {}}]})", "messages[0].tool_calls"},
      {R"({"messages": [{"role": "assistant", "tool_calls": [1]}]})", "tool_calls[0]"},
      {R"({"messages": [{"role": "assistant", "tool_calls": [{"type": "custom"}]}]})",
       "tool_calls[0].type"},
      {R"({"messages": [{"role": "assistant", "tool_calls": [{}]}]})", "tool_calls[0].function"},
      {R"({"messages": [{"role": "assistant", "tool_calls": [{"function": {"arguments": ""}}]}]})",
       "tool_calls[0].function.name"},
      {R"({"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f"}}]}]})",
       "tool_calls[0].function.arguments"},
      {R"({"messages": [{"role": "user", "content": ""}], "tools": {}})", "tools: wanted an array"},
      {R"({"messages": [{"role": "user", "content": ""}], "tools": [{}]})", "tools[0].type"},
      {R"({"messages": [{"role": "user", "content": ""}], "tools": [{"type": "function"}]})",
       "tools[0].function"},
      {R"({"messages": [{"role": "user", "content": ""}],
           "tools": [{"type": "function", "function": {"name": "f", "parameters": []}}]})",
       "tools[0].function.parameters"},
      {R"({"messages": [{"role": "user", "content": ""}], "thinking": true})", "thinking: wanted"},
      {R"({"messages": [{"role": "user", "content": ""}], "thinking": {"type": "auto"}})",
       "thinking.type"},
      {R"({"messages": [{"role": "user", "content": ""}], "chat_template_kwargs": 1})",
       "chat_template_kwargs"},
      {R"({"messages": [{"role": "user", "content": ""}],
           "chat_template_kwargs": {"thinking": "yes"}})",
       "chat_template_kwargs.thinking"},
      {R"({"messages": [{"role": "user", "content": ""}], "reasoning_effort": 3})",
       "reasoning_effort"},
      {R"({"messages": [{"role": "user", "content": ""}], "add_generation_prompt": 0})",
       "add_generation_prompt"},
  };
  for (const auto& [body, part] : cases) {
    ExpectError(ParseChatBody(body).status(), absl::StatusCode::kInvalidArgument, part);
  }
}

TEST(ChatBody, ReadsEveryForm) {
  const ChatRequest request = Parse(R"({
    "model": "any", "temperature": 0.5, "unknown": [1],
    "messages": [
      {"role": "developer", "content": "s", "name": "n"},
      {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
      {"role": "assistant", "content": null, "reasoning_content": "r", "tool_calls": [
        {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{ \"a\" :1}"}},
        {"id": "2", "function": {"name": "g", "arguments": {"b": [1, 2.50], "a": "é"}}}]},
      {"role": "tool", "tool_call_id": "1", "content": ""},
      {"role": "assistant", "content": "tail", "prefix": true, "tool_calls": null}],
    "tools": [{"type": "function", "function": {"name": "f", "description": "d",
               "parameters": {"z": 1, "a": {}}}},
              {"type": "function", "function": {"name": "g"}}],
    "add_generation_prompt": false})");
  ASSERT_EQ(request.messages.size(), 5u);
  EXPECT_EQ(request.messages[0].role, ChatRole::kSystem);
  EXPECT_EQ(request.messages[1].content, "a\nb");
  EXPECT_EQ(request.messages[2].reasoning_content, "r");
  ASSERT_EQ(request.messages[2].tool_calls.size(), 2u);
  EXPECT_EQ(request.messages[2].tool_calls[0].arguments, "{ \"a\" :1}");
  EXPECT_EQ(request.messages[2].tool_calls[1].arguments, R"({"b": [1, 2.5], "a": "é"})");
  EXPECT_EQ(request.messages[3].tool_call_id, "1");
  EXPECT_TRUE(request.messages[4].prefix);
  ASSERT_EQ(request.tools.size(), 2u);
  EXPECT_EQ(request.tools[0].parameters, R"({"z": 1, "a": {}})");
  EXPECT_EQ(request.tools[1].parameters, R"({"type": "object", "properties": {}})");
  EXPECT_FALSE(request.add_generation_prompt);
  EXPECT_EQ(request.thinking, std::nullopt);
}

TEST(ChatBody, ToolChoiceNoneHidesTheTools) {
  const std::string head = R"({"messages": [{"role": "user", "content": ""}],
      "tools": [{"type": "function", "function": {"name": "f"}}])";
  EXPECT_EQ(Parse(head + "}").tools.size(), 1u);
  EXPECT_EQ(Parse(head + R"(, "tool_choice": "auto"})").tools.size(), 1u);
  EXPECT_EQ(Parse(head + R"(, "tool_choice": "none"})").tools.size(), 0u);
}

TEST(ChatBody, ThinkingFromTheMostSpecificField) {
  const auto thinking = [](absl::string_view fields) {
    return Parse(absl::StrCat(R"({"messages": [{"role": "user", "content": ""}], )", fields, "}"))
        .thinking;
  };
  EXPECT_EQ(thinking(R"("thinking": null)"), std::nullopt);
  EXPECT_EQ(thinking(R"("thinking": {"type": "enabled"})"), true);
  EXPECT_EQ(thinking(R"("thinking": {"type": "disabled"}, "reasoning_effort": "high")"), false);
  EXPECT_EQ(thinking(R"("chat_template_kwargs": {"thinking": true})"), true);
  EXPECT_EQ(thinking(R"("chat_template_kwargs": {"enable_thinking": true})"), true);
  EXPECT_EQ(thinking(R"("chat_template_kwargs": {"thinking": false}, "reasoning_effort": "low")"),
            false);
  EXPECT_EQ(thinking(R"("chat_template_kwargs": {"thinking": true},
                        "thinking": {"type": "disabled"})"),
            false);
  EXPECT_EQ(thinking(R"("reasoning_effort": "none")"), false);
  EXPECT_EQ(thinking(R"("reasoning_effort": "medium")"), true);
}

TEST(ChatBody, HostileShapesEndQuickly) {
  const std::string message = R"({"messages": [{"role": "user", "content": ""}], "x": )";
  const auto nested = [&](int depth) {
    return absl::StrCat(message, std::string(depth, '['), std::string(depth, ']'), "}");
  };
  EXPECT_TRUE(ParseChatBody(nested(kMaxJsonDepth - 1)).ok());
  ExpectError(ParseChatBody(nested(kMaxJsonDepth)).status(), absl::StatusCode::kInvalidArgument,
              "nested deeper than 100 levels");
  ExpectError(ParseChatBody(nested(1000000)).status(), absl::StatusCode::kInvalidArgument,
              "nested deeper");
  const auto begin = std::chrono::steady_clock::now();
  std::string many_keys = absl::StrCat(message, "{");
  for (int i = 0; i < 200000; ++i) absl::StrAppend(&many_keys, i == 0 ? "" : ",", "\"", i, "\":1");
  EXPECT_TRUE(ParseChatBody(absl::StrCat(many_keys, "}}")).ok());
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(10));
}

TEST(PythonJson, WritesWhatPythonWrites) {
  // Left: as sent. Right: json.dumps(json.loads(left), ensure_ascii=False) of CPython 3.11.
  const std::pair<const char*, const char*> cases[] = {
      {"[20.50, 1E+3, 1.5e-7, 1e-5, 0.0001, 0.1, -0.0, 1e22, 5e-324]",
       "[20.5, 1000.0, 1.5e-07, 1e-05, 0.0001, 0.1, -0.0, 1e+22, 5e-324]"},
      {"[1e15, 1e16, 123456789.123456789, 9007199254740993.0, 1.7976931348623157e308]",
       "[1000000000000000.0, 1e+16, 123456789.12345679, 9007199254740992.0, "
       "1.7976931348623157e+308]"},
      {"[12345678901234567890, 123456789012345678901234567890, -9223372036854775809, -5, -0]",
       "[12345678901234567890, 123456789012345678901234567890, -9223372036854775809, -5, 0]"},
      {R"({"k": 1, "j": 0, "k": 2})", R"({"k": 2, "j": 0})"},
      {R"(["\u4e2d\ud83d\ude42 \u0007 \/ \u2028 \u007f", "a\tb\n\r\f\b\"\\", "<&>'"])",
       "[\"中🙂 \\u0007 / \u2028 \x7F\", \"a\\tb\\n\\r\\f\\b\\\"\\\\\", \"<&>'\"]"},
      {"[null,true,false,[],{},[[]]]", "[null, true, false, [], {}, [[]]]"},
  };
  for (const auto& [sent, python] : cases) {
    const absl::StatusOr<nlohmann::ordered_json> json = ParseJsonText(sent);
    ASSERT_TRUE(json.ok()) << json.status();
    EXPECT_EQ(ToPythonJson(*json), python);
  }
  ExpectError(ParseJsonText("[1e400]").status(), absl::StatusCode::kInvalidArgument, "overflow");
  ExpectError(ParseJsonText("1 2").status(), absl::StatusCode::kInvalidArgument, "not valid JSON");
}

// --- Formats
// ---------------------------------------------------------------------------------------

TEST(ChatFormats, NamesGoBothWays) {
  for (const char* name : {"v2", "v3", "r1", "r1-0528", "v3.1"}) {
    EXPECT_EQ(ChatFormatName(ParseChatFormat(name).value()), name);
  }
  ExpectError(ParseChatFormat("v4").status(), absl::StatusCode::kInvalidArgument, "\"v4\"");
}

TEST(ChatFormats, ToldFromTheTemplate) {
  const std::pair<const char*, ChatFormat> cases[] = {
      {"{{'User: ' + m}}{{'Assistant:'}}", ChatFormat::kV2},
      {"{{'<｜User｜>' + m}}{{'<｜Assistant｜>'}}", ChatFormat::kV3},
      {"{% if '</think>' in c %}{{'<｜Assistant｜><think>\\n'}}", ChatFormat::kR1},
      {"{% if '</think>' in c %}{{'<｜Assistant｜>'}}", ChatFormat::kR1_0528},
      {"{% if not thinking %}{{'<｜Assistant｜>'}}{{'</think>'}}", ChatFormat::kV31}};
  for (const auto& [text, format] : cases) {
    EXPECT_EQ(DetectChatFormatOfTemplate(text).value(), format) << text;
  }
  ExpectError(DetectChatFormatOfTemplate("<|im_start|>").status(), absl::StatusCode::kUnimplemented,
              "--chat-format");
}

TEST(ChatFormats, ToldFromTheDirectory) {
  const std::string directory = testing::TempDir() + "/chat_formats";
  std::filesystem::remove_all(directory);
  std::filesystem::create_directories(directory);
  const auto write = [&](const char* name, const char* text) {
    std::ofstream(directory + "/" + name) << text;
  };
  EXPECT_TRUE(absl::IsNotFound(DetectChatFormat(directory).status()));
  write("tokenizer_config.json", "{}");
  ExpectError(DetectChatFormat(directory).status(), absl::StatusCode::kNotFound, "--chat-format");
  write("tokenizer_config.json", R"({"chat_template": [{"name": "tool", "template": "x"},
        {"name": "default", "template": "<｜Assistant｜>"}]})");
  EXPECT_EQ(DetectChatFormat(directory).value(), ChatFormat::kV3);
  write("chat_template.jinja", "<｜Assistant｜><think> </think>");
  EXPECT_EQ(DetectChatFormat(directory).value(), ChatFormat::kR1);
  write("chat_template.jinja", "something else");
  ExpectError(DetectChatFormat(directory).status(), absl::StatusCode::kUnimplemented,
              "chat_formats");
  std::filesystem::remove_all(directory);
}

ChatMessage Message(ChatRole role, const std::string& content) {
  ChatMessage message;
  message.role = role;
  message.content = content;
  return message;
}

TEST(ChatFormats, WhatAFormatCannotExpressIsRefused) {
  const auto refuse = [](ChatFormat format, const ChatRequest& request, absl::string_view part) {
    ExpectError(RenderChat(format, request).status(), absl::StatusCode::kInvalidArgument, part);
  };
  refuse(ChatFormat::kV3, {}, "messages");
  ChatRequest request;
  request.messages = {Message(ChatRole::kUser, "q")};
  request.tools = {Tool{"f", "", "{}"}};
  for (const ChatFormat format :
       {ChatFormat::kV2, ChatFormat::kV3, ChatFormat::kR1, ChatFormat::kR1_0528}) {
    refuse(format, request, absl::StrCat("tools: the chat format ", ChatFormatName(format)));
  }
  EXPECT_TRUE(RenderChat(ChatFormat::kV31, request).ok());
  request.tools.clear();
  request.messages = {Message(ChatRole::kUser, "q"), Message(ChatRole::kTool, "r")};
  refuse(ChatFormat::kV2, request, "messages[1].role");
  request.messages[1] = Message(ChatRole::kAssistant, "");
  request.messages[1].tool_calls = {ToolCall{"", "function", "f", "{}"}};
  refuse(ChatFormat::kV2, request, "messages[1].tool_calls");
  request.messages[1].prefix = true;
  refuse(ChatFormat::kV31, request, "messages[1].prefix");
  request.messages[1].tool_calls.clear();
  EXPECT_TRUE(RenderChat(ChatFormat::kV31, request).ok());
  request.messages[1].role = ChatRole::kUser;
  refuse(ChatFormat::kV31, request, "messages[1].prefix");
  request.messages[1].role = ChatRole::kAssistant;
  request.messages.push_back(Message(ChatRole::kUser, "q"));
  refuse(ChatFormat::kR1, request, "messages[1].prefix");
  request.messages[0].tool_calls = {ToolCall{"", "function", "f", "{}"}};
  refuse(ChatFormat::kR1, request, "messages[0].tool_calls");
}

TEST(ChatFormats, PrefixIsLeftOpen) {
  ChatRequest request;
  request.messages = {Message(ChatRole::kUser, "q"), Message(ChatRole::kAssistant, "It is")};
  request.messages[1].prefix = true;
  const std::string begin = "<｜begin▁of▁sentence｜>";
  const auto render = [&](ChatFormat format) { return RenderChat(format, request).value(); };
  EXPECT_EQ(render(ChatFormat::kV2).text, begin + "User: q\n\nAssistant: It is");
  const std::string v3 = begin + "<｜User｜>q<｜Assistant｜>It is";
  EXPECT_EQ(render(ChatFormat::kV3).text, v3);
  EXPECT_EQ(render(ChatFormat::kR1).text, v3);
  EXPECT_FALSE(render(ChatFormat::kR1).starts_in_reasoning);
  EXPECT_EQ(render(ChatFormat::kV31).text, begin + "<｜User｜>q<｜Assistant｜></think>It is");
  EXPECT_FALSE(render(ChatFormat::kV31).starts_in_reasoning);
  request.thinking = true;
  EXPECT_EQ(render(ChatFormat::kV31).text, begin + "<｜User｜>q<｜Assistant｜><think>It is");
  EXPECT_TRUE(render(ChatFormat::kV31).starts_in_reasoning);
}

TEST(ChatFormats, StartsInReasoningWhenThePromptOpensTheThought) {
  ChatRequest request;
  request.messages = {Message(ChatRole::kUser, "q")};
  const auto starts = [&](ChatFormat format) {
    return RenderChat(format, request).value().starts_in_reasoning;
  };
  EXPECT_TRUE(starts(ChatFormat::kR1));
  EXPECT_FALSE(starts(ChatFormat::kR1_0528));  // the model writes <think> itself
  EXPECT_FALSE(starts(ChatFormat::kV31));
  request.thinking = true;
  EXPECT_TRUE(starts(ChatFormat::kV31));
  EXPECT_FALSE(starts(ChatFormat::kV3));
  request.add_generation_prompt = false;
  EXPECT_FALSE(starts(ChatFormat::kR1));
  EXPECT_FALSE(starts(ChatFormat::kV31));
  request.add_generation_prompt = true;
  request.messages.push_back(Message(ChatRole::kAssistant, "a"));
  EXPECT_FALSE(starts(ChatFormat::kV31));  // its template opens a turn only after a user's
}

TEST(ChatFormats, SegmentsMarkTheTemplatesTokens) {
  ChatRequest request;
  request.messages = {Message(ChatRole::kSystem, "<｜User｜>"), Message(ChatRole::kUser, "")};
  const RenderedPrompt prompt = RenderChat(ChatFormat::kV3, request).value();
  std::vector<std::pair<std::string, bool>> parts;
  for (const Segment& segment : prompt.segments) {
    parts.emplace_back(prompt.text.substr(segment.begin, segment.end - segment.begin),
                       segment.special);
  }
  const std::vector<std::pair<std::string, bool>> wanted = {{"<｜begin▁of▁sentence｜>", true},
                                                            {"<｜User｜>", false},
                                                            {"<｜User｜>", true},
                                                            {"<｜Assistant｜>", true}};
  EXPECT_EQ(parts, wanted);
}

TEST(ChatFormats, ATokenizerWithoutTheTokensIsNamed) {
  const std::string directory = std::string(SHOAL_SOURCE_DIR) + "/tests/golden/text/tiny-tokenizer";
  const auto tokenizer = Tokenizer::Load(directory).value();
  RenderedPrompt prompt;
  prompt.text = "<｜Nobody｜>";
  prompt.segments = {{0, prompt.text.size(), true}};
  ExpectError(EncodePrompt(*tokenizer, prompt).status(), absl::StatusCode::kFailedPrecondition,
              "<｜Nobody｜>");
}

}  // namespace
}  // namespace shoal
