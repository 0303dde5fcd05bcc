// A table of commands, and the only place that catches.

#include <csignal>
#include <new>
#include <string>
#include <vector>

#include "apps/mlx-mamba/command.h"
#include "apps/mlx-mamba/console.h"
#include "apps/mlx-mamba/help.h"
#include "mamba/base/error.h"
#include "mamba/base/memory.h"
#include "mamba/ops/gpu/kernel.h"

namespace mamba::cli {

std::span<const Command> commands() {
  static const Command table[] = {kGenerate, kScore,    kTrain, kFinetune, kMerge,     kConvert,
                                  kQuantize, kTokenize, kInfo,  kBench,    kCompletion};
  return table;
}

namespace {

constexpr int kFailed = 1;
constexpr int kWrongUsage = 2;

const Command& find_command(const std::string& name) {
  std::vector<std::string> names;
  for (const Command& command : commands()) {
    if (name == command.name) {
      return command;
    }
    names.emplace_back(command.name);
  }
  if (name.starts_with('-')) {
    throw UsageError(
        fmt::format("{}: a command goes first, such as mlx-mamba generate (see mlx-mamba --help)", quote(name)));
  }
  const std::string meant = nearest(name, names);
  throw UsageError(fmt::format("there is no command {}{} (see mlx-mamba --help)", quote(name),
                               meant.empty() ? "" : "; did you mean " + meant + "?"));
}

int run_command(const Command& command, const std::vector<std::string>& arguments) {
  OptionTable options(fmt::format("mlx-mamba {}", command.name));
  const std::function<int()> body = command.declare(options);
  switch (options.parse(arguments)) {
    case OptionTable::Asked::kHelp:
      put(command_help(command, options));
      return 0;
    case OptionTable::Asked::kVersion:
      put(version_text());
      return 0;
    case OptionTable::Asked::kRun:
      break;
  }
  return body();
}

int run(std::vector<std::string> arguments) {
  if (arguments.empty()) {
    note_text(program_help());
    return kWrongUsage;
  }
  const std::string name = arguments.front();
  arguments.erase(arguments.begin());
  if (name == "--help" || name == "-h" || name == "help") {
    if (arguments.empty()) {
      put(program_help());
      return 0;
    }
    return run_command(find_command(arguments.front()), {"--help"});
  }
  if (name == "--version") {
    put(version_text());
    return 0;
  }
  return run_command(find_command(name), arguments);
}

int fail(const std::string& message, int code) noexcept {
  end_line();
  note("mlx-mamba: " + message);
  return code;
}

}  // namespace
}  // namespace mamba::cli

int main(int argc, char** argv) {
  using namespace mamba::cli;  // NOLINT(google-build-using-namespace)
  mamba::keep_freed_memory();
  mamba::ops::gpu::launch_singly();
  start_console();
  try {
    return run({argv + (argc > 0 ? 1 : 0), argv + argc});
  } catch (const Interrupted& e) {
    end_line();
    return 128 + e.signal;
  } catch (const BrokenPipe&) {
    return 128 + SIGPIPE;
  } catch (const mamba::UsageError& e) {
    return fail(e.what(), kWrongUsage);
  } catch (const std::bad_alloc&) {
    return fail("out of memory", kFailed);
  } catch (const std::exception& e) {
    return fail(e.what(), kFailed);
  }
}
