// The folder of a training run:
//
//   config.json            what the run is: settings, data, model, version
//   metrics.jsonl          one line for each step
//   report.html            the same to look at
//   checkpoints/step-N     after N steps: the model's files and trainer.json, optimizer.safetensors
//   last, best             links to two of these
//
// Every file appears whole or not at all: a checkpoint is written beside its place and renamed into it, links are
// replaced in one step, and metrics.jsonl grows by whole lines.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "mamba/base/file_lock.h"
#include "mamba/base/json.h"

namespace mamba::train {

class RunFolder {
 public:
  // Throws UsageError when the folder holds a run already.
  static void check_free(const std::filesystem::path& path);

  // Makes a new run's folder with its config.json. Throws as check_free() does, and Error when another process
  // trains there or nothing can be written.
  static RunFolder create(const std::filesystem::path& path, const Json& config);

  // Opens one that exists, removing what a killed process left half-written. Throws UsageError when there is none.
  static RunFolder open(const std::filesystem::path& path);

  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path checkpoint_path(int64_t step) const;  // checkpoints/step-N

  Json config() const;
  void write_config(const Json& config);

  // The steps whose checkpoints are there, ascending.
  std::vector<int64_t> checkpoints() const;
  std::optional<int64_t> last() const;  // the newest, where the link is lost
  std::optional<int64_t> best() const;

  // `write` fills the folder it is given, which then becomes checkpoints/step-N and `last`, and `best` when asked.
  // When `write` throws, nothing has changed.
  void save(int64_t step, bool is_best, const std::function<void(const std::filesystem::path&)>& write);

  // The checkpoint of this step turned out to be bad: `last`, and `best` when asked, name the newest before it, where
  // there is one and they named it or a later one.
  void step_back(int64_t step, bool best_too);

  // Removes checkpoints but the newest `count`, `last` and `best`.
  void keep(int64_t count);

  // Appends a line to metrics.jsonl. Throws Error on a full disk; the line is then not there.
  void append_metrics(const Json& line);

  // Removes the lines from step `step` on, and returns those before.
  std::vector<Json> rewind_metrics(int64_t step);

 private:
  explicit RunFolder(std::filesystem::path path);  // locks it

  void link(const char* name, int64_t step);
  void clean();

  std::filesystem::path path_;
  std::unique_ptr<FileLock> lock_;
};

}  // namespace mamba::train
