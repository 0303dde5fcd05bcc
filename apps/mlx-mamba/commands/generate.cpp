#include <chrono>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "apps/mlx-mamba/command.h"
#include "apps/mlx-mamba/console.h"
#include "apps/mlx-mamba/json_output.h"
#include "apps/mlx-mamba/model_options.h"
#include "apps/mlx-mamba/ordered_text.h"
#include "apps/mlx-mamba/prompts.h"
#include "apps/mlx-mamba/quantize_options.h"
#include "mamba/base/file.h"
#include "mamba/base/memory.h"
#include "mamba/generate/generator.h"

namespace mamba::cli {
namespace {

using Clock = std::chrono::steady_clock;

struct GenerateArguments {
  ModelOptions model;
  QuantizeOptions quantize;
  std::optional<std::string> prompt;
  std::optional<std::string> prompt_file;
  std::optional<std::string> tokens;
  std::optional<std::string> batch_file;
  int max_tokens = 256;
  generate::SamplingParams sampling{.temperature = 0.8f, .top_p = 0.95f};
  std::optional<uint64_t> seed;
  std::vector<std::string> stop;
  bool ignore_eos = false;
  std::optional<std::string> save_state;
  std::optional<std::string> load_state;
  bool json = false;
  bool stats = false;
};

// Everything that can be told from the options alone, before a model is loaded.
void check_options(const GenerateArguments& o) {
  const int sources = (o.prompt ? 1 : 0) + (o.prompt_file ? 1 : 0) + (o.tokens ? 1 : 0) + (o.batch_file ? 1 : 0);
  if (sources > 1) {
    throw UsageError("give one of --prompt, --prompt-file, --tokens and --batch-file");
  }
  if (o.batch_file && (o.save_state || o.load_state)) {
    throw UsageError("--save-state and --load-state go with one prompt, not with --batch-file");
  }
  for (const std::string& stop : o.stop) {
    if (stop.empty()) {
      throw UsageError("--stop must not be empty: it would end the text before it begins");
    }
  }
  o.sampling.validate();
  o.quantize.check();
  if (o.save_state) {
    const AtomicFile probe(*o.save_state);  // before minutes of work, not after
  }
}

std::vector<Prompt> read_prompts(const GenerateArguments& o) {
  if (o.batch_file) {
    return read_batch(*o.batch_file);
  }
  if (o.prompt_file) {
    const std::string where = *o.prompt_file == "-" ? "standard input" : *o.prompt_file;
    return {{where, read_text(*o.prompt_file), {}}};
  }
  if (o.tokens) {
    return {{"--tokens", "", parse_ids(*o.tokens, "--tokens")}};
  }
  if (o.prompt) {
    return {{"--prompt", *o.prompt, {}}};
  }
  return {};
}

// What a text begins with when nobody said anything yet.
int32_t start_token(const generate::LoadedModel& loaded) {
  const models::Config& config = loaded.model.config();
  if (config.bos_token_id >= 0) {
    return config.bos_token_id;
  }
  if (!config.eos_token_ids.empty()) {
    return config.eos_token_ids.front();
  }
  if (loaded.tokenizer) {
    if (const auto id = loaded.tokenizer->token_to_id("<|endoftext|>")) {
      return *id;
    }
  }
  throw UsageError("this model has no start token to begin from: give --prompt or --tokens");
}

std::vector<generate::Request> make_requests(const GenerateArguments& o, const std::vector<Prompt>& prompts,
                                             const generate::LoadedModel& loaded, uint64_t seed) {
  generate::Request common;
  common.sampling = o.sampling;
  common.sampling.seed = seed;
  common.max_tokens = o.max_tokens;
  common.stop = o.stop;
  common.ignore_eos = o.ignore_eos;
  common.keep_state = o.save_state.has_value();
  if (o.load_state) {
    common.from = generate::load_session(*o.load_state, loaded.model);
  }
  std::vector<generate::Request> requests;
  for (const Prompt& prompt : prompts) {
    requests.push_back(common);
    requests.back().prompt = encode(prompt, loaded.tokenizer.get(), !o.load_state);
  }
  if (requests.empty()) {
    requests.push_back(common);
    if (!o.load_state) {
      requests.back().prompt = {start_token(loaded)};
    }
  }
  return requests;
}

// Streams text; a model without a tokenizer gives its ids instead.
std::vector<generate::Result> print_text(const generate::LoadedModel& loaded,
                                         const std::vector<generate::Request>& requests, generate::Timings* timings) {
  OrderedText out(requests.size());
  generate::Callbacks callbacks;
  callbacks.on_text = [&](size_t index, const std::string& piece) { out.append(index, piece); };
  callbacks.on_token = [&](size_t index, int32_t token, double) {
    check_interrupted();
    if (!loaded.tokenizer) {
      out.append(index, fmt::format("{}{}", out.empty(index) ? "" : ",", token));
    }
  };
  callbacks.on_result = [&](size_t index, const generate::Result&) { out.finish(index); };
  return generate::generate(loaded.model, loaded.tokenizer.get(), requests, callbacks, timings);
}

OrderedJson to_json(const generate::Request& request, const generate::Result& result) {
  return {{"prompt_tokens", request.prompt},
          {"tokens", result.tokens},
          {"logprobs", result.logprobs},
          {"text", result.text},
          {"finish_reason", result.finish_reason}};
}

// A line for each prompt, in their order, each as soon as those before it are out.
std::vector<generate::Result> print_json(const generate::LoadedModel& loaded,
                                         const std::vector<generate::Request>& requests, generate::Timings* timings) {
  std::vector<std::string> lines(requests.size());
  size_t next = 0;
  generate::Callbacks callbacks;
  callbacks.on_token = [](size_t, int32_t, double) { check_interrupted(); };
  callbacks.on_result = [&](size_t index, const generate::Result& result) {
    lines[index] = json_line(to_json(requests[index], result));
    for (; next < lines.size() && !lines[next].empty(); ++next) {
      put(lines[next]);
      lines[next] = {};
      if (next + 1 == lines.size()) {
        break;
      }
    }
  };
  return generate::generate(loaded.model, loaded.tokenizer.get(), requests, callbacks, timings);
}

double rate(int64_t count, double seconds) {
  return seconds > 0 ? static_cast<double>(count) / seconds : 0;
}

void print_stats(double load_seconds, const generate::Timings& timings, uint64_t seed) {
  note(fmt::format("seed: {}", seed));
  note(fmt::format("load: {:.2f} s", load_seconds));
  note(fmt::format("prompt: {} tokens, {:.1f} tokens/s", timings.prompt_tokens,
                   rate(timings.prompt_tokens, timings.prompt_seconds)));
  note(fmt::format("generation: {} tokens, {:.1f} tokens/s", timings.generated_tokens,
                   rate(timings.generated_tokens, timings.generation_seconds)));
  note(fmt::format("peak memory: {:.0f} MB", static_cast<double>(peak_memory_bytes()) / 1e6));
}

int run_generate(const GenerateArguments& o) {
  check_options(o);
  const std::vector<Prompt> prompts = read_prompts(o);
  const uint64_t seed = o.seed ? *o.seed : std::random_device{}();
  const auto start = Clock::now();
  const bool has_text = o.prompt || o.prompt_file || o.batch_file || !o.stop.empty();
  generate::LoadedModel loaded = o.model.load(
      has_text ? ModelOptions::TokenizerIs::kNeeded : ModelOptions::TokenizerIs::kWanted, o.quantize.weights());
  const std::string quantized = o.quantize.apply(loaded.model);
  const double load_seconds = std::chrono::duration<double>(Clock::now() - start).count();

  const std::vector<generate::Request> requests = make_requests(o, prompts, loaded, seed);
  generate::Timings timings;
  const std::vector<generate::Result> results =
      o.json ? print_json(loaded, requests, &timings) : print_text(loaded, requests, &timings);
  if (o.save_state) {
    generate::save_session(*o.save_state, *results.front().session, loaded.model.config());
  }
  if (o.stats) {
    if (!quantized.empty()) {
      note("quantised: " + quantized);
    }
    print_stats(load_seconds, timings, seed);
  }
  return 0;
}

std::function<int()> declare_generate(OptionTable& table) {
  const auto o = std::make_shared<GenerateArguments>();
  table.group("Prompt (without one the text begins from the model's start token)");
  table.text("--prompt", "TEXT", &o->prompt, "the text to continue");
  table.text("--prompt-file", "FILE", &o->prompt_file, "the same from a file, byte for byte; - is standard input",
             Offer::kFiles);
  table.text("--tokens", "IDS", &o->tokens, "the same as token ids, 1,2,3; works without a tokenizer");
  table.text("--batch-file", "FILE", &o->batch_file,
             "one prompt a line; in a .jsonl file a JSON string or an object with \"prompt\" or \"tokens\"",
             Offer::kFiles);
  table.group("Model");
  o->model.declare_source(table);
  o->model.declare_adapter(table);
  o->model.declare_dtype(table);
  o->quantize.declare(table);
  o->model.declare_machine(table);
  table.group("Text");
  table.integer(
      "--max-tokens", "N", [o](int64_t n) { o->max_tokens = static_cast<int>(n); }, 0, INT32_MAX,
      "tokens to write at most (default: 256)");
  table.number("--temperature", "T", &o->sampling.temperature,
               "0 takes the likeliest token each time, more is bolder (default: 0.8)");
  table.integer(
      "--top-k", "K", [o](int64_t n) { o->sampling.top_k = static_cast<int>(n); }, 0, INT32_MAX,
      "choose among the K likeliest tokens (default: 0, all)");
  table.number("--top-p", "P", &o->sampling.top_p,
               "choose among the likeliest tokens that together have probability P (default: 0.95)");
  table.number("--min-p", "P", &o->sampling.min_p,
               "drop tokens with less than P times the likeliest one's probability (default: 0)");
  table.number("--repetition-penalty", "R", &o->sampling.repetition_penalty,
               "above 1 makes tokens seen before less likely (default: 1)");
  table.texts("--stop", "TEXT", &o->stop, "end before this text; may be given several times");
  table.integer(
      "--seed", "N", [o](int64_t n) { o->seed = static_cast<uint64_t>(n); }, 0, INT64_MAX,
      "the same seed gives the same text (default: a random one, which --stats shows)");
  table.flag("--ignore-eos", &o->ignore_eos, "go on after an end-of-text token");
  table.group("State");
  table.text("--save-state", "FILE", &o->save_state, "keep where this text ends, to go on from there later",
             Offer::kFiles);
  table.text("--load-state", "FILE", &o->load_state, "go on from there; a prompt, if any, is read next", Offer::kFiles);
  table.group("Output");
  table.flag("--json", &o->json,
             "a line for each prompt: prompt_tokens, tokens, logprobs, text, finish_reason (stop or length)");
  table.flag("--stats", &o->stats, "load time, speeds and peak memory on standard error");
  return [o] { return run_generate(*o); };
}

}  // namespace

const Command kGenerate = {
    "generate", "Continues a prompt and streams the text.",
    "Only the continuation is printed, as it comes, with a newline at the end. Several prompts each get a line "
    "\"==> prompt 2 <==\" first. A model without a tokenizer prints token ids.",
    "  mlx-mamba generate --prompt \"ROMEO:\" --max-tokens 100\n"
    "  mlx-mamba generate --model state-spaces/mamba-130m --prompt \"The sea was\" --temperature 0.7 --seed 1\n"
    "  mlx-mamba generate --adapter run/adapter --prompt \"Once\"\n"
    "  mlx-mamba generate --prompt-file story.txt --save-state story.state && "
    "mlx-mamba generate --load-state story.state\n"
    "  mlx-mamba generate --batch-file prompts.txt --temperature 0 --json > results.jsonl\n",
    declare_generate};

}  // namespace mamba::cli
