// A row of the program's table of commands.
#pragma once

#include <functional>
#include <span>

#include "apps/mlx-mamba/option_table.h"

namespace mamba::cli {

struct Command {
  const char* name;
  const char* summary;   // one line, for the list of commands
  const char* notes;     // a paragraph under the options; may be empty
  const char* examples;  // lines, each a command
  // Declares the options and returns what to do once they are parsed; that returns the exit code.
  std::function<int()> (*declare)(OptionTable& options);
};

std::span<const Command> commands();

extern const Command kGenerate;
extern const Command kScore;
extern const Command kTrain;
extern const Command kFinetune;
extern const Command kConvert;
extern const Command kMerge;
extern const Command kQuantize;
extern const Command kTokenize;
extern const Command kBench;
extern const Command kInfo;
extern const Command kCompletion;

}  // namespace mamba::cli
