// The options of one command: parsed from the command line, shown by --help, offered by shell completion. All three
// read the same table, so none can be out of date.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

// CLI11's headers take seconds to compile, so option_table.cpp alone reads them.
namespace CLI {
class App;
class Option;
}  // namespace CLI

namespace mamba::cli {

// What a shell may offer as an option's value.
enum class Offer { kNothing, kFiles, kFolders, kWords };

struct Option {
  std::string name;        // "--prompt" or "-p,--prompt"; of a positional argument its name in capitals
  std::string value_name;  // "TEXT"; empty for a flag
  std::string help;
  std::string group;
  Offer offer = Offer::kNothing;
  std::vector<std::string> words = {};  // for Offer::kWords, and nothing else is accepted then
  bool repeats = false;
  bool takes_many = false;  // values up to the next option
  std::function<void(const std::string& value)> assign = {};
  std::string short_name = {};  // "-p", taken out of `name` when it is added
  CLI::Option* parsed = nullptr;

  bool is_flag() const { return value_name.empty(); }
  bool is_positional() const { return name.front() != '-'; }
};

class OptionTable {
 public:
  // `command` is for messages: "mlx-mamba generate".
  explicit OptionTable(std::string command);
  ~OptionTable();

  // Options declared from here on stand under this title.
  void group(std::string title) { group_ = std::move(title); }

  // Each writes to `value` when the option is given; it must outlive parse().
  void flag(const std::string& name, bool* value, const std::string& help);
  void switched(const std::string& name, std::function<void()> assign, const std::string& help);
  void text(const std::string& name, const std::string& value_name, std::optional<std::string>* value,
            const std::string& help, Offer offer = Offer::kNothing);
  void texts(const std::string& name, const std::string& value_name, std::vector<std::string>* values,
             const std::string& help);
  void choice(const std::string& name, const std::string& value_name, std::vector<std::string> words,
              std::optional<std::string>* value, const std::string& help);
  void choice(const std::string& name, const std::string& value_name, std::vector<std::string> words,
              std::function<void(const std::string&)> assign, const std::string& help);
  void integer(const std::string& name, const std::string& value_name, std::function<void(int64_t)> assign, int64_t low,
               int64_t high, const std::string& help);
  void number(const std::string& name, const std::string& value_name, float* value, const std::string& help);
  // In double precision, between `low` and `high`.
  void real(const std::string& name, const std::string& value_name, std::function<void(double)> assign, double low,
            double high, const std::string& help);
  // One or more values behind the name, which may also be given again.
  void paths(const std::string& name, const std::string& value_name, std::vector<std::string>* values,
             const std::string& help);

  enum class Asked { kRun, kHelp, kVersion };

  // Throws UsageError, with a pointer to --help, for options that are unknown, repeated, lack a value or have a bad
  // one. The program's name and the command's are not among `arguments`.
  Asked parse(const std::vector<std::string>& arguments);

  const std::string& command() const { return command_; }
  const std::deque<Option>& options() const { return options_; }

 private:
  void add(Option option);
  void take(const Option& option);
  std::vector<std::string> separated(const std::vector<std::string>& arguments) const;
  [[noreturn]] void fail(const std::string& message) const;
  [[noreturn]] void fail_unexpected(const std::string& argument) const;

  std::string command_;
  std::string group_ = "Options";
  std::unique_ptr<CLI::App> app_;
  std::deque<Option> options_;
  bool help_ = false;
  bool version_ = false;
};

// The one of `words` that `word` is most likely a slip for; empty when none is near.
std::string nearest(const std::string& word, const std::vector<std::string>& words);

}  // namespace mamba::cli
