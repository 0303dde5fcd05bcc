// Models by name: files of a Hugging Face hub, kept in the cache that Python's huggingface_hub uses, in both
// directions.
//
//   $HF_HOME/hub/models--owner--name/blobs/<etag>                 the content, under its hash
//                                    snapshots/<commit>/<file>    relative links to it
//                                    refs/<revision>              the commit that a branch or tag was last seen at
//                                    .no_exist/<commit>/<file>    empty: the commit has no such file
//   $HF_HOME/hub/.locks/models--owner--name/<etag>.lock           held (flock) while the content is fetched
//
// Every function may be called from several threads and several processes at once.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "mamba/base/error.h"
#include "mamba/base/progress.h"

namespace mamba::hub {

struct Options {
  std::string endpoint = "https://huggingface.co";
  std::string token;                      // empty: none is sent
  std::filesystem::path cache_directory;  // holds the models--owner--name folders
  bool offline = false;                   // only what the cache holds
  bool symlinks = true;                   // false: snapshots hold the files themselves
  std::filesystem::path certificates;     // PEM bundle to trust instead of the system's; empty: the system's
  std::chrono::milliseconds metadata_timeout{10'000};  // connecting, and the answer to a small request
  std::chrono::milliseconds download_timeout{10'000};  // connecting, and the longest silence within a download
  int tries = 5;                                       // in a row without progress, before a download is given up
  std::chrono::milliseconds retry_delay{1'000};        // before the second try; doubles up to eight times this

  // HF_ENDPOINT; HF_TOKEN, HUGGING_FACE_HUB_TOKEN, or the file HF_TOKEN_PATH or $HF_HOME/token, unless
  // HF_HUB_DISABLE_IMPLICIT_TOKEN; HF_HUB_CACHE, HUGGINGFACE_HUB_CACHE or $HF_HOME/hub, where HF_HOME is by default
  // $XDG_CACHE_HOME/huggingface or ~/.cache/huggingface; HF_HUB_OFFLINE, TRANSFORMERS_OFFLINE;
  // HF_HUB_DISABLE_SYMLINKS; HF_HUB_ETAG_TIMEOUT and HF_HUB_DOWNLOAD_TIMEOUT in seconds; SSL_CERT_FILE,
  // REQUESTS_CA_BUNDLE or CURL_CA_BUNDLE. A variable set to nothing counts as not set. Throws UsageError for values
  // that make no sense.
  static Options from_environment();
};

// What went wrong between us and the hub. Failures of the local disk are plain Errors.
class HubError : public Error {
 public:
  enum class Kind {
    kUnauthorized,        // 401, 403: no token, a wrong one, or a gated repository
    kRepositoryNotFound,  // also 404 without a reason
    kRevisionNotFound,
    kEntryNotFound,  // the repository lacks the file
    kNotCached,      // offline, and the cache does not have it
    kUnreachable,    // no connection, or none that lasts
    kServer,         // 5xx, 429, and answers that a hub does not give
    kBadContent,     // size or checksum differ from what was announced
  };

  HubError(Kind kind, const std::string& message) : Error(message), kind_(kind) {}
  Kind kind() const { return kind_; }

 private:
  Kind kind_;
};

// True for "name" and "owner/name" as the hub allows them. A folder of that name may exist all the same: look first.
bool looks_like_repo_id(const std::string& text);

// The file's place under snapshots/, fetched unless it is there. With a network a branch or tag is looked up anew;
// when the hub cannot be reached, what is cached serves, with a warning. `progress` gets the file's name and bytes,
// those of an earlier, cut download included, and "<file> (waiting for another process)" while one fetches the same
// content; what it throws cancels, and a later call goes on from there.
std::filesystem::path download(const std::string& repo_id, const std::string& filename,
                               const std::string& revision = "main",
                               const Options& options = Options::from_environment(), const ProgressFn& progress = {});

// The same, but nothing when the repository has no such file.
std::optional<std::filesystem::path> try_download(const std::string& repo_id, const std::string& filename,
                                                  const std::string& revision = "main",
                                                  const Options& options = Options::from_environment(),
                                                  const ProgressFn& progress = {});

// Where the cache has the file at what `revision` was last known to be. Never uses the network.
std::optional<std::filesystem::path> find_cached(const std::string& repo_id, const std::string& filename,
                                                 const std::string& revision = "main",
                                                 const Options& options = Options::from_environment());

struct RemoteFile {
  std::string name;   // as the server says it: not yet checked for ".." and the like
  int64_t size = -1;  // -1: not told
  std::string etag;   // its blob's name in the cache; empty: not told
};

struct ModelInfo {
  std::string commit;  // 40 hex digits
  std::vector<RemoteFile> files;
};

// What `revision` is now and which files it has.
ModelInfo model_info(const std::string& repo_id, const std::string& revision = "main",
                     const Options& options = Options::from_environment());

// One thing that a caller needs: the first of `any_of` that the repository has. A name ending in ".index.json" brings
// the files of its "weight_map" along.
struct Wanted {
  std::vector<std::string> any_of;
  bool required = true;
};

// config.json and weights, safetensors before PyTorch's, one file before shards; tokenizer.json, tokenizer_config.json,
// special_tokens_map.json and generation_config.json where the repository has them.
std::vector<Wanted> model_files();

// tokenizer.json, and tokenizer_config.json and special_tokens_map.json where the repository has them.
std::vector<Wanted> tokenizer_files();

struct Snapshot {
  std::filesystem::path folder;    // snapshots/<commit>
  std::string commit;              // 40 hex digits
  std::vector<std::string> files;  // relative to `folder`; shards included
};

// Fetches what is wanted, all of one commit. refs/<revision> moves only when everything is there, so an earlier
// snapshot stays usable offline until then. Offline, or when the hub cannot be reached, the cache must hold each
// required file of the commit that the revision was last seen at.
Snapshot download_files(const std::string& repo_id, const std::string& revision, const std::vector<Wanted>& wanted,
                        const Options& options = Options::from_environment(), const ProgressFn& progress = {});

}  // namespace mamba::hub
