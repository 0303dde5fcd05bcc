#include "mamba/hub/hub.h"

#include <algorithm>
#include <set>

#include "mamba/base/file.h"
#include "mamba/base/json.h"
#include "mamba/hub/session.h"

namespace mamba::hub {
namespace {

namespace fs = std::filesystem;
using Kind = HubError::Kind;

constexpr std::string_view kIndexEnd = ".index.json";
constexpr uint64_t kMaxIndexBytes = uint64_t{64} << 20;
constexpr size_t kMaxShards = 10'000;

// The files that an index names, relative to the repository, each once.
std::vector<std::string> shards_of(const fs::path& path, const std::string& name) {
  const Json json = parse_json(read_file(path, kMaxIndexBytes), path.string());
  const JsonObject index(json, path.string());
  const JsonObject map = index.object("weight_map");
  const std::string folder = name.substr(0, name.find_last_of('/') + 1);
  std::set<std::string> names;
  for (const auto& [tensor, file] : map.json().items()) {
    if (!file.is_string()) {
      index.fail(fmt::format("field \"weight_map\" must name a file for {}", quote(tensor)));
    }
    names.insert(folder + file.get<std::string>());
    if (names.size() > kMaxShards) {
      index.fail(fmt::format("field \"weight_map\" names more than {} files", kMaxShards));
    }
  }
  std::for_each(names.begin(), names.end(), check_file_name);
  return {names.begin(), names.end()};
}

bool is_index(const std::string& name) {
  return name.ends_with(kIndexEnd);
}

// All of `names` together must fit; what is there or half there counts.
void check_space(const Options& options, const RepoCache& cache, const ModelInfo& info,
                 const std::vector<std::string>& names) {
  uint64_t needed = 0;
  for (const RemoteFile& file : info.files) {
    const bool wanted = std::find(names.begin(), names.end(), file.name) != names.end();
    if (!wanted || file.size < 0 || file.etag.empty() || present(cache.pointer(info.commit, file.name)) ||
        present(cache.blob(file.etag))) {
      continue;
    }
    std::error_code error;
    const uintmax_t half = fs::file_size(cache.partial(file.etag), error);
    const auto size = static_cast<uint64_t>(file.size);
    needed += size - std::min<uint64_t>(error ? 0 : half, size);
  }
  std::error_code error;
  const fs::space_info space = fs::space(options.cache_directory, error);
  check(error || space.capacity == 0 || needed <= space.available,
        "{}: {} more bytes are needed but the disk has {} free: make room, or set HF_HOME to a larger disk",
        options.cache_directory.string(), needed, space.available);
}

std::string shown(const Wanted& wanted) {
  return fmt::format("{}", fmt::join(wanted.any_of, ", "));
}

Snapshot snapshot_online(Session& session, const Options& options, const RepoCache& cache, const std::string& repo,
                         const std::string& revision, const ModelInfo& info, const std::vector<Wanted>& wanted) {
  const auto listed = [&](const std::string& name) {
    return std::any_of(info.files.begin(), info.files.end(), [&](const RemoteFile& file) { return file.name == name; });
  };
  const auto obtain = [&](const std::string& name) {
    const FileId file{.repo = repo, .name = name, .revision = info.commit};
    std::optional<fs::path> path = session.obtain(file);
    if (!path) {
      throw HubError(Kind::kEntryNotFound, fmt::format("{}: the repository has no such file", file.shown()));
    }
    return *path;
  };
  Snapshot out{.folder = cache.snapshot(info.commit), .commit = info.commit, .files = {}};
  for (const Wanted& one : wanted) {
    const auto name = std::find_if(one.any_of.begin(), one.any_of.end(), listed);
    if (name == one.any_of.end()) {
      if (one.required) {
        throw HubError(Kind::kEntryNotFound,
                       fmt::format("{} (revision {}) has none of {}: it is not a model that can be read here", repo,
                                   revision, shown(one)));
      }
      std::for_each(one.any_of.begin(), one.any_of.end(),
                    [&](const std::string& absent) { cache.remember_missing(info.commit, absent); });
      continue;
    }
    out.files.push_back(*name);
    if (is_index(*name)) {
      const std::vector<std::string> shards = shards_of(obtain(*name), *name);
      out.files.insert(out.files.end(), shards.begin(), shards.end());
    }
  }
  make_directories(options.cache_directory);
  check_space(options, cache, info, out.files);
  for (const std::string& name : out.files) {
    obtain(name);
  }
  cache.remember_commit(revision, info.commit);
  return out;
}

// What the cache has of `commit`; nothing when something required is missing, which `missing` then names.
std::optional<Snapshot> snapshot_cached(const RepoCache& cache, const std::string& commit,
                                        const std::vector<Wanted>& wanted, std::string* missing) {
  const auto cached = [&](const std::string& name) { return present(cache.pointer(commit, name)); };
  Snapshot out{.folder = cache.snapshot(commit), .commit = commit, .files = {}};
  for (const Wanted& one : wanted) {
    bool found = false;
    for (const std::string& name : one.any_of) {
      if (!cached(name)) {
        continue;
      }
      const std::vector<std::string> shards =
          is_index(name) ? shards_of(cache.pointer(commit, name), name) : std::vector<std::string>();
      const auto absent = std::find_if_not(shards.begin(), shards.end(), cached);
      if (absent != shards.end()) {
        *missing = *absent;
        continue;
      }
      out.files.push_back(name);
      out.files.insert(out.files.end(), shards.begin(), shards.end());
      found = true;
      break;
    }
    if (!found && one.required) {
      *missing = missing->empty() ? shown(one) : *missing;
      return std::nullopt;
    }
    missing->clear();
  }
  return out;
}

}  // namespace

std::optional<fs::path> try_download(const std::string& repo_id, const std::string& filename,
                                     const std::string& revision, const Options& options, const ProgressFn& progress) {
  Session session(options, progress);
  return session.obtain({.repo = repo_id, .name = filename, .revision = revision});
}

fs::path download(const std::string& repo_id, const std::string& filename, const std::string& revision,
                  const Options& options, const ProgressFn& progress) {
  std::optional<fs::path> path = try_download(repo_id, filename, revision, options, progress);
  if (!path) {
    const FileId file{.repo = repo_id, .name = filename, .revision = revision};
    throw HubError(Kind::kEntryNotFound, fmt::format("{}: the repository has no such file", file.shown()));
  }
  return *path;
}

std::optional<fs::path> find_cached(const std::string& repo_id, const std::string& filename,
                                    const std::string& revision, const Options& options) {
  return RepoCache(options, repo_id).find(revision, filename);
}

ModelInfo model_info(const std::string& repo_id, const std::string& revision, const Options& options) {
  check_repo_id(repo_id);
  check_revision(revision);
  if (options.offline) {
    throw HubError(Kind::kNotCached, fmt::format("{}: the hub cannot be asked about it in offline mode "
                                                 "(HF_HUB_OFFLINE)",
                                                 repo_id));
  }
  const ProgressFn silent;
  return Session(options, silent).info(repo_id, revision, options.tries);
}

std::vector<Wanted> model_files() {
  return {{.any_of = {"config.json"}},
          {.any_of = {"generation_config.json"}, .required = false},
          {.any_of = {"tokenizer.json"}, .required = false},
          {.any_of = {"tokenizer_config.json"}, .required = false},
          {.any_of = {"special_tokens_map.json"}, .required = false},
          {.any_of = {"model.safetensors", "model.safetensors.index.json", "pytorch_model.bin",
                      "pytorch_model.bin.index.json"}}};
}

std::vector<Wanted> tokenizer_files() {
  return {{.any_of = {"tokenizer.json"}},
          {.any_of = {"tokenizer_config.json"}, .required = false},
          {.any_of = {"special_tokens_map.json"}, .required = false}};
}

Snapshot download_files(const std::string& repo_id, const std::string& revision, const std::vector<Wanted>& wanted,
                        const Options& options, const ProgressFn& progress) {
  const RepoCache cache(options, repo_id);
  const std::optional<std::string> known = cache.commit_of(revision);
  std::string missing;
  const std::optional<Snapshot> cached =
      known ? snapshot_cached(cache, *known, wanted, &missing) : std::optional<Snapshot>();
  if (options.offline) {
    if (!cached) {
      throw HubError(
          Kind::kNotCached,
          fmt::format("{} (revision {}): {} not in the cache {}, and offline mode is on: fetch it once "
                      "without HF_HUB_OFFLINE=1",
                      repo_id, revision, known ? missing + " is" : "it is", options.cache_directory.string()));
    }
    return *cached;
  }
  Session session(options, progress);
  ModelInfo info;
  try {
    info = session.info(repo_id, revision, cached ? 1 : options.tries);
  } catch (const HubError& error) {
    if (!cached || !cache_may_serve(error)) {
      throw;
    }
    warn_served_from_cache(fmt::format("{} (revision {})", repo_id, revision), error);
    return *cached;
  }
  return snapshot_online(session, options, cache, repo_id, revision, info, wanted);
}

}  // namespace mamba::hub
