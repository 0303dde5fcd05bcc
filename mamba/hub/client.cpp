#include "mamba/hub/client.h"

#include <algorithm>
#include <thread>

#include "mamba/base/json.h"
#include "mamba/hub/url.h"

namespace mamba::hub {
namespace {

using Kind = HubError::Kind;
using Failure = HttpResponse::Failure;

constexpr std::chrono::seconds kLongestRetryAfter{60};
constexpr std::chrono::milliseconds kSlice{50};
constexpr int kConnectTries = 2;  // a name that is unknown twice, a port closed twice: that is an answer
constexpr int kBodyPatience = 6;  // times the timeout of an answer without a body
constexpr size_t kMaxInfoBytes = size_t{32} << 20;
constexpr size_t kMaxFiles = 100'000;

bool worth_retrying(int status) {
  return status == 408 || status == 429 || status == 500 || status == 502 || status == 503 || status == 504;
}

std::string file_url(const Options& options, const FileId& file, const std::string& revision) {
  return fmt::format("{}/{}/resolve/{}/{}", options.endpoint, file.repo, url_quote(revision, false),
                     url_quote(file.name, true));
}

std::string checked_commit(const std::string& commit, const std::string& endpoint) {
  if (!is_commit(commit)) {
    throw HubError(Kind::kServer, fmt::format("{}: the server's commit {} is refused: it must be 40 hex digits",
                                              endpoint, quote(commit)));
  }
  return commit;
}

}  // namespace

Retries::Retries(const Options& options, int tries, const std::function<void()>& idle)
    : options_(options), tries_(std::max(1, tries)), idle_(idle) {}

bool Retries::again(const HttpResponse& response) {
  ++failed_;
  const bool transient =
      response.failure == Failure::kNone ? worth_retrying(response.status) : response.failure != Failure::kFatal;
  const int limit = response.failure == Failure::kNoConnection ? std::min(tries_, kConnectTries) : tries_;
  if (!transient || failed_ >= limit) {
    return false;
  }
  std::chrono::milliseconds pause = options_.retry_delay * (1 << std::min(failed_ - 1, 3));
  if (const int64_t seconds = response.number("retry-after"); seconds >= 0) {
    if (seconds > kLongestRetryAfter.count()) {
      return false;
    }
    pause = std::chrono::seconds(seconds);
  }
  const auto end = std::chrono::steady_clock::now() + pause;
  for (auto now = std::chrono::steady_clock::now(); now < end; now = std::chrono::steady_clock::now()) {
    if (idle_) {
      idle_();
    }
    std::this_thread::sleep_for(std::min(std::chrono::duration_cast<std::chrono::milliseconds>(end - now), kSlice) +
                                std::chrono::milliseconds(1));
  }
  return true;
}

Client::Client(const Options& options, std::function<void()> idle)
    : options_(options), idle_(std::move(idle)), http_(options) {}

void Client::fail(const HttpResponse& response, const FileId& file, const std::string& subject) const {
  if (response.failure != Failure::kNone) {
    throw HubError(Kind::kUnreachable,
                   fmt::format("{}: cannot be fetched from {}: {}; check the network and HF_ENDPOINT, or set "
                               "HF_HUB_OFFLINE=1 to use what is already there",
                               subject, options_.endpoint, response.reason));
  }
  const int status = response.status;
  const std::string* code_header = response.header("x-error-code");
  const std::string code = code_header == nullptr ? "" : *code_header;
  const std::string* words = response.header("x-error-message");
  const std::string said = words == nullptr ? "" : fmt::format(" and says {}", quote(*words, 160));
  if (code == "RevisionNotFound") {
    throw HubError(Kind::kRevisionNotFound, fmt::format("{} has no revision {}: give one of its branches, tags or "
                                                        "commits, such as main",
                                                        file.repo, quote(file.revision)));
  }
  if (code == "EntryNotFound") {
    throw HubError(Kind::kEntryNotFound, fmt::format("{}: the repository has no such file", subject));
  }
  if (code == "GatedRepo" || (status == 403 && code != "RepoNotFound")) {
    throw HubError(Kind::kUnauthorized,
                   fmt::format("{}: access is refused ({}){}: accept the model's terms at {}/{}, and set HF_TOKEN to a "
                               "token that may read it",
                               subject, status, said, options_.endpoint, file.repo));
  }
  if (status == 401 && options_.token.empty()) {
    // The hub does not tell strangers which private repositories exist.
    throw HubError(Kind::kUnauthorized,
                   fmt::format("{}: the hub asks who we are ({}): either {} does not exist, or it is private or gated; "
                               "check the name, or set HF_TOKEN to a token that may read it",
                               subject, status, file.repo));
  }
  if (status == 401) {
    throw HubError(Kind::kUnauthorized,
                   fmt::format("{}: the hub does not accept the token for it ({}){}: either HF_TOKEN is wrong or "
                               "expired, or {} does not exist or is not for this token",
                               subject, status, said, file.repo));
  }
  if (status == 404 || code == "RepoNotFound") {
    throw HubError(Kind::kRepositoryNotFound,
                   fmt::format("{}: not found at {}: check the name {}; a private repository needs HF_TOKEN", subject,
                               options_.endpoint, quote(file.repo)));
  }
  if (status == 429) {
    const int64_t seconds = response.number("retry-after");
    throw HubError(Kind::kServer, fmt::format("{}: the hub asks for fewer requests (429): try again {}{}", subject,
                                              seconds >= 0 ? fmt::format("in {} seconds", seconds) : "later",
                                              options_.token.empty() ? "; HF_TOKEN raises the limit" : ""));
  }
  throw HubError(Kind::kServer,
                 fmt::format("{}: {} answers {}{}: {}", subject, origin_of(response.url), status, said,
                             status >= 500 ? "the hub has a problem, try again later" : "check HF_ENDPOINT"));
}

HttpResponse Client::ask(HttpRequest request, int tries) {
  request.timeout = options_.metadata_timeout;
  request.whole = options_.metadata_timeout * (request.head ? 1 : kBodyPatience);
  request.idle = idle_ ? &idle_ : nullptr;
  Retries retries(options_, tries, idle_);
  for (;;) {
    HttpResponse response = http_.request(request);
    if ((response.failure == Failure::kNone && response.status < 400) || !retries.again(response)) {
      return response;
    }
  }
}

FileMetadata Client::metadata(const FileId& file, int tries) {
  const HttpResponse response = ask({.url = file_url(options_, file, file.revision), .head = true}, tries);
  FileMetadata out;
  const std::string* commit = response.header("x-repo-commit");
  const std::string* code = response.header("x-error-code");
  if (response.failure == Failure::kNone && response.status == 404 && code != nullptr && *code == "EntryNotFound") {
    out.exists = false;
    out.commit = commit == nullptr ? "" : checked_commit(*commit, options_.endpoint);
    return out;
  }
  const bool redirect = response.status / 100 == 3;
  if (response.failure != Failure::kNone || !(response.ok() || redirect)) {
    fail(response, file, file.shown());
  }
  if (commit == nullptr) {
    const std::string* location = redirect ? response.header("location") : nullptr;
    throw HubError(
        Kind::kServer,
        fmt::format("{}: {} does not answer as a hub does (no X-Repo-Commit){}: check HF_ENDPOINT and proxies",
                    file.shown(), options_.endpoint,
                    location == nullptr ? "" : fmt::format(", it sends us to {}", quote(origin_of(*location)))));
  }
  out.commit = checked_commit(*commit, options_.endpoint);
  const std::string* linked = response.header("x-linked-etag");
  const std::string* etag = linked != nullptr ? linked : response.header("etag");
  if (etag == nullptr) {
    throw HubError(Kind::kServer, fmt::format("{}: {} tells no ETag, so the content could not be checked: check "
                                              "HF_ENDPOINT",
                                              file.shown(), options_.endpoint));
  }
  out.etag = checked_etag(*etag);
  out.size = response.number("x-linked-size");
  if (out.size < 0 && !redirect) {
    out.size = response.number("content-length");
  }
  return out;
}

HttpResponse Client::get(const FileId& file, const std::string& commit, int64_t from, const HttpSink& sink) {
  // By commit, so that every try gets the same content, and through the hub, whose redirects expire.
  return http_.request({.url = file_url(options_, file, commit),
                        .leave_hub = true,
                        .from = from,
                        .timeout = options_.download_timeout,
                        .sink = &sink,
                        .idle = idle_ ? &idle_ : nullptr});
}

ModelInfo Client::info(const std::string& repo, const std::string& revision, int tries) {
  const FileId id{.repo = repo, .name = "", .revision = revision};
  const std::string subject = fmt::format("{} (revision {})", repo, revision);
  const HttpResponse response = ask({.url = fmt::format("{}/api/models/{}/revision/{}?blobs=true", options_.endpoint,
                                                        repo, url_quote(revision, false)),
                                     .body_limit = kMaxInfoBytes},
                                    tries);
  if (!response.ok()) {
    fail(response, id, subject);
  }
  const std::string where = fmt::format("{}'s answer about {}", options_.endpoint, repo);
  const Json json = parse_json(response.body, where);
  const JsonObject object(json, where);
  ModelInfo info;
  info.commit = checked_commit(object.string("sha"), options_.endpoint);
  const Json* files = object.find("siblings");
  if (files == nullptr || !files->is_array() || files->size() > kMaxFiles) {
    object.fail(fmt::format("field \"siblings\" must be a list of at most {} files", kMaxFiles));
  }
  for (const Json& entry : *files) {
    const JsonObject described(entry, where, "siblings[]");
    RemoteFile file{.name = described.string("rfilename")};
    file.size = described.integer_or("size", -1, -1, INT64_MAX);
    if (described.has("lfs")) {
      file.etag = described.object("lfs").string_or("sha256", "");
      file.size = described.object("lfs").integer_or("size", file.size, -1, INT64_MAX);
    } else {
      file.etag = described.string_or("blobId", "");
    }
    if (!is_commit(file.etag)) {  // 40 or 64 hex digits as well
      file.etag.clear();
    }
    info.files.push_back(std::move(file));
  }
  return info;
}

}  // namespace mamba::hub
