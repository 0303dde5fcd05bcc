#include "mamba/train/run_folder.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <utility>

#include "mamba/base/error.h"
#include "mamba/base/file.h"

namespace mamba::train {

namespace fs = std::filesystem;

namespace {

constexpr const char* kConfig = "config.json";
constexpr const char* kCheckpoints = "checkpoints";
constexpr const char* kUnfinished = ".unfinished-";  // before a name: not to be taken for a checkpoint
constexpr const char* kMetrics = "metrics.jsonl";

std::string step_name(int64_t step) {
  return fmt::format("step-{}", step);
}

std::optional<int64_t> step_of(const std::string& name) {
  constexpr std::string_view kPrefix = "step-";
  int64_t step = 0;
  if (!name.starts_with(kPrefix)) {
    return std::nullopt;
  }
  const char* const end = name.data() + name.size();
  const auto [stop, error] = std::from_chars(name.data() + kPrefix.size(), end, step);
  return error == std::errc() && stop == end && step >= 0 ? std::optional(step) : std::nullopt;
}

void remove_whole(const fs::path& path) {
  std::error_code error;
  fs::remove_all(path, error);
}

// The step that a link names.
std::optional<int64_t> linked(const fs::path& link) {
  std::error_code error;
  const fs::path target = fs::read_symlink(link, error);
  return error || !fs::exists(link, error) ? std::nullopt : step_of(target.filename().string());
}

void rename_or_throw(const fs::path& from, const fs::path& to) {
  std::error_code error;
  fs::rename(from, to, error);
  check(!error, "{}: cannot be renamed to {}: {}", from.string(), to.filename().string(), error.message());
}

}  // namespace

RunFolder::RunFolder(fs::path path)
    : path_(std::move(path)), lock_(std::make_unique<FileLock>(path_ / ".lock", [this] {
        throw Error(fmt::format("{}: another process is training in this folder", path_.string()));
      })) {}

void RunFolder::check_free(const fs::path& path) {
  std::error_code ignored;
  if (fs::exists(path / kConfig, ignored)) {
    throw UsageError(
        fmt::format("--out {}: a run (or a model) is there already: go on with it by --resume, or name another folder",
                    path.string()));
  }
}

RunFolder RunFolder::create(const fs::path& path, const Json& config) {
  check_free(path);
  make_directories(path / kCheckpoints);
  RunFolder folder(path);
  folder.clean();
  folder.write_config(config);
  return folder;
}

RunFolder RunFolder::open(const fs::path& path) {
  std::error_code ignored;
  if (!fs::exists(path / kConfig, ignored) || !fs::is_directory(path / kCheckpoints, ignored)) {
    throw UsageError(fmt::format("--out {}: there is no run to resume", path.string()));
  }
  RunFolder folder(path);
  folder.clean();
  return folder;
}

void RunFolder::clean() {
  std::error_code ignored;
  for (const fs::directory_entry& entry : fs::directory_iterator(path_ / kCheckpoints, ignored)) {
    if (entry.path().filename().string().starts_with(kUnfinished)) {
      remove_whole(entry.path());
    }
  }
  for (const char* name : {"last", "best"}) {
    fs::remove(path_ / (std::string(kUnfinished) + name), ignored);
  }
  for (const char* place : {".", "adapter", "tokenizer"}) {
    for (const fs::path& file : unfinished_files(path_ / place)) {
      fs::remove(file, ignored);
    }
  }
}

fs::path RunFolder::checkpoint_path(int64_t step) const {
  return path_ / kCheckpoints / step_name(step);
}

Json RunFolder::config() const {
  return read_json(path_ / kConfig);
}

void RunFolder::write_config(const Json& config) {
  write_file(path_ / kConfig, json_text(config, 2) + "\n");
}

std::vector<int64_t> RunFolder::checkpoints() const {
  std::vector<int64_t> steps;
  std::error_code ignored;
  for (const fs::directory_entry& entry : fs::directory_iterator(path_ / kCheckpoints, ignored)) {
    if (const auto step = step_of(entry.path().filename().string())) {
      steps.push_back(*step);
    }
  }
  std::sort(steps.begin(), steps.end());
  return steps;
}

std::optional<int64_t> RunFolder::last() const {
  if (const auto step = linked(path_ / "last")) {
    return step;
  }
  const std::vector<int64_t> steps = checkpoints();
  return steps.empty() ? std::nullopt : std::optional(steps.back());
}

std::optional<int64_t> RunFolder::best() const {
  return linked(path_ / "best");
}

void RunFolder::link(const char* name, int64_t step) {
  const fs::path unfinished = path_ / (std::string(kUnfinished) + name);
  remove_whole(unfinished);
  std::error_code error;
  fs::create_directory_symlink(fs::path(kCheckpoints) / step_name(step), unfinished, error);
  check(!error, "{}: cannot be written: {}", unfinished.string(), error.message());
  const fs::path place = path_ / name;
  if (fs::is_directory(fs::symlink_status(place, error))) {
    remove_whole(place);  // what a copy that follows links made of one
  }
  rename_or_throw(unfinished, place);
  sync_directory(path_);
}

void RunFolder::save(int64_t step, bool is_best, const std::function<void(const fs::path&)>& write) {
  const fs::path place = checkpoint_path(step);
  const fs::path unfinished = path_ / kCheckpoints / (kUnfinished + step_name(step));
  remove_whole(unfinished);
  make_directories(unfinished);
  try {
    write(unfinished);
    sync_directory(unfinished);
  } catch (...) {
    remove_whole(unfinished);
    throw;
  }
  // A checkpoint of this step from an earlier try gives way.
  if (fs::exists(place)) {
    const fs::path old = path_ / kCheckpoints / (kUnfinished + std::string("old-") + step_name(step));
    remove_whole(old);
    rename_or_throw(place, old);
    rename_or_throw(unfinished, place);
    remove_whole(old);
  } else {
    rename_or_throw(unfinished, place);
  }
  sync_directory(path_ / kCheckpoints);
  link("last", step);
  if (is_best) {
    link("best", step);
  }
}

void RunFolder::step_back(int64_t step, bool best_too) {
  std::optional<int64_t> before;
  for (const int64_t other : checkpoints()) {
    if (other < step) {
      before = other;
    }
  }
  if (before && last() >= step) {
    link("last", *before);
  }
  if (before && best_too && best() >= step) {
    link("best", *before);
  }
}

void RunFolder::keep(int64_t count) {
  const std::vector<int64_t> steps = checkpoints();
  const std::optional<int64_t> newest = last();
  const std::optional<int64_t> finest = best();
  const auto superfluous = std::max<int64_t>(0, static_cast<int64_t>(steps.size()) - count);
  for (int64_t i = 0; i < superfluous; ++i) {
    const int64_t step = steps[static_cast<size_t>(i)];
    if (step == newest || step == finest) {
      continue;
    }
    // Renamed first, so that no half-removed folder is ever taken for a checkpoint.
    const fs::path doomed = path_ / kCheckpoints / (kUnfinished + std::string("old-") + step_name(step));
    rename_or_throw(checkpoint_path(step), doomed);
    remove_whole(doomed);
  }
}

void RunFolder::append_metrics(const Json& line) {
  const fs::path file = path_ / kMetrics;
  const std::string text = json_text(line) + "\n";
  const int fd = ::open(file.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0666);
  check(fd >= 0, "{}: cannot be written: {}", file.string(), std::strerror(errno));
  struct stat before = {};
  ::fstat(fd, &before);
  const ssize_t written = ::write(fd, text.data(), text.size());
  const int reason = written < 0 ? errno : ENOSPC;
  const bool whole = written == static_cast<ssize_t>(text.size());
  if (!whole && ::ftruncate(fd, before.st_size) != 0) {
    // The torn line is left out when the run is resumed.
  }
  ::close(fd);
  check(whole, "{}: cannot be written: {}", file.string(), std::strerror(reason));
}

std::vector<Json> RunFolder::rewind_metrics(int64_t step) {
  std::vector<Json> kept;
  const fs::path file = path_ / kMetrics;
  if (!fs::exists(file)) {
    return kept;
  }
  const std::string text = read_file(file);
  std::string whole;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = text.find('\n', begin);
    if (end == std::string::npos) {
      break;
    }
    const std::string line = text.substr(begin, end - begin);
    const Json json = Json::parse(line, nullptr, false);
    if (json.is_object() && json.value("step", step) < step) {
      whole += line + "\n";
      kept.push_back(json);
    }
    begin = end + 1;
  }
  if (whole.size() != text.size()) {
    write_file(file, whole);
  }
  return kept;
}

}  // namespace mamba::train
