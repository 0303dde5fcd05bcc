#include "mamba/hub/session.h"

#include <charconv>

#include "mamba/base/warning.h"
#include "mamba/hub/partial.h"

namespace mamba::hub {
namespace {

namespace fs = std::filesystem;
using Kind = HubError::Kind;
using Failure = HttpResponse::Failure;

constexpr std::chrono::milliseconds kReportEvery{50};

// A try that brought this much makes the count of failed ones start anew: long downloads outlive many cuts, while a
// server that gives a few bytes each time does not keep us for ever.
constexpr int64_t kWorthwhileBytes = int64_t{1} << 20;

// "bytes 100-199/200" or "bytes */200"; -1 for what is not told.
struct ContentRange {
  int64_t begin = -1;
  int64_t total = -1;
};

ContentRange parse_content_range(const std::string* header) {
  ContentRange range;
  const std::string text = header == nullptr ? "" : *header;
  constexpr std::string_view kUnit = "bytes ";
  const size_t slash = text.find('/');
  if (!text.starts_with(kUnit) || slash == std::string::npos) {
    return range;
  }
  const char* end = text.data() + text.size();
  if (std::from_chars(text.data() + kUnit.size(), end, range.begin).ec != std::errc()) {
    range.begin = -1;
  }
  if (std::from_chars(text.data() + slash + 1, end, range.total).ec != std::errc()) {
    range.total = -1;
  }
  return range;
}

// The server does not continue where we are: drop what there is and ask for the whole.
struct StartOver {};

bool complete_blob(const fs::path& blob, int64_t size) {
  std::error_code error;
  const uintmax_t there = fs::file_size(blob, error);  // follows links to Python's shared blobs
  return !error && (size < 0 || there == static_cast<uintmax_t>(size));
}

}  // namespace

void Meter::begin(std::string what) {
  last_ = Progress{.what = std::move(what)};
  reported_ = false;
}

void Meter::update(int64_t done, int64_t total) {
  last_.done = done;
  last_.total = total;
  idle();
}

void Meter::idle() {
  if (std::chrono::steady_clock::now() - when_ >= kReportEvery) {
    report(false);
  }
}

void Meter::finish() {
  if (reported_) {
    report(true);
  }
}

void Meter::report(bool finished) {
  if (progress_) {
    when_ = std::chrono::steady_clock::now();
    reported_ = true;
    last_.finished = finished;
    progress_(last_);
  }
}

bool cache_may_serve(const HubError& error) {
  return error.kind() != Kind::kRevisionNotFound && error.kind() != Kind::kEntryNotFound;
}

void warn_served_from_cache(const std::string& subject, const HubError& error) {
  warn_once(fmt::format("using the cached copy of {}: {}", subject, error.what()));
}

Session::Session(const Options& options, const ProgressFn& progress)
    : options_(options), meter_(progress), client_(options, [this] { meter_.idle(); }) {}

std::optional<fs::path> Session::obtain(const FileId& file) {
  const RepoCache cache(options_, file.repo);
  check_file_name(file.name);
  const std::optional<fs::path> cached = cache.find(file.revision, file.name);
  if (is_commit(file.revision)) {  // never changes: no need to ask
    if (cached) {
      return cached;
    }
    if (cache.known_missing(file.revision, file.name)) {
      return std::nullopt;
    }
  }
  if (options_.offline) {
    if (cached) {
      return cached;
    }
    const std::optional<std::string> commit = cache.commit_of(file.revision);
    if (commit && cache.known_missing(*commit, file.name)) {
      return std::nullopt;
    }
    throw HubError(Kind::kNotCached, fmt::format("{}: not in the cache {}, and offline mode is on: fetch it once "
                                                 "without HF_HUB_OFFLINE=1",
                                                 file.shown(), options_.cache_directory.string()));
  }
  meter_.begin(file.name);
  FileMetadata metadata;
  try {
    metadata = client_.metadata(file, cached ? 1 : options_.tries);
  } catch (const HubError& error) {
    if (!cached || !cache_may_serve(error)) {
      throw;
    }
    warn_served_from_cache(file.shown(), error);
    meter_.finish();
    return cached;
  }
  if (!metadata.exists) {
    if (!metadata.commit.empty()) {
      cache.remember_missing(metadata.commit, file.name);
      cache.remember_commit(file.revision, metadata.commit);
    }
    meter_.finish();
    return std::nullopt;
  }
  fs::path pointer = cache.pointer(metadata.commit, file.name);
  if (!present(pointer)) {
    fetch(file, metadata, cache, pointer);
  }
  meter_.finish();
  cache.remember_commit(file.revision, metadata.commit);
  return pointer;
}

void Session::fetch(const FileId& file, const FileMetadata& metadata, const RepoCache& cache, const fs::path& pointer) {
  cache.make_folders(metadata.etag, pointer);
  bool waited = false;
  const FileLock lock(cache.lock(metadata.etag), [&] {
    if (!waited) {
      waited = true;
      meter_.begin(file.name + " (waiting for another process)");
    }
    meter_.idle();
  });
  if (waited) {
    meter_.finish();
    meter_.begin(file.name);
  }
  if (present(pointer)) {
    return;
  }
  const bool there = complete_blob(cache.blob(metadata.etag), metadata.size);
  if (!there) {
    transfer(file, metadata, cache);
  }
  cache.link(metadata.etag, pointer, !there);
}

void Session::transfer(const FileId& file, const FileMetadata& metadata, const RepoCache& cache) {
  PartialFile partial(cache, metadata.etag, metadata.size, client_.idle());
  int64_t total = metadata.size;
  const auto bad_content = [&](const std::string& what) {
    partial.remove();
    throw HubError(Kind::kBadContent, fmt::format("{}: {}; the partial file is removed: try again, and if it stays so "
                                                  "check HF_ENDPOINT and proxies",
                                                  file.shown(), what));
  };
  const HttpSink sink{
      .start =
          [&](const HttpResponse& response) {
            const std::string* encoding = response.header("content-encoding");
            if (encoding != nullptr && *encoding != "identity") {
              throw HubError(Kind::kServer, fmt::format("{}: the server sends it compressed ({}) although we asked for "
                                                        "plain bytes: check HF_ENDPOINT and proxies",
                                                        file.shown(), quote(*encoding)));
            }
            int64_t length = response.number("content-length");
            if (response.status == 206) {
              const ContentRange range = parse_content_range(response.header("content-range"));
              if (range.begin != partial.size()) {
                throw StartOver{};
              }
              length = range.total;
            } else if (partial.size() > 0) {
              partial.restart();
            }
            if (total >= 0 && length >= 0 && length != total) {
              bad_content(fmt::format("the server offers {} bytes but announced {}", length, total));
            }
            total = total < 0 ? length : total;
            meter_.update(partial.size(), total);
          },
      .data =
          [&](std::string_view data) {
            if (total >= 0 && static_cast<int64_t>(data.size()) > total - partial.size()) {
              bad_content(fmt::format("the server sends more than the {} bytes it announced", total));
            }
            partial.append(data);
            meter_.update(partial.size(), total);
          }};

  Retries retries(options_, options_.tries, client_.idle());
  for (;;) {
    while (total < 0 || partial.size() < total) {
      const int64_t before = partial.size();
      HttpResponse response;
      try {
        response = client_.get(file, metadata.commit, before, sink);
      } catch (const StartOver&) {
        response.failure = Failure::kBroken;
        response.reason = "the server answers with another range than we asked for";
        partial.restart();
      }
      if (response.ok() && total < 0) {
        total = partial.size();  // a body of unknown length ends where the server ends it
      }
      if (response.ok() && partial.size() == total) {
        break;
      }
      if (response.failure == Failure::kNone && response.status == 416) {
        const int64_t whole = parse_content_range(response.header("content-range")).total;
        if (total < 0 && whole == before) {
          total = whole;
          break;
        }
        partial.restart();
        response.failure = Failure::kBroken;
        response.reason = "the server has no such range";
      } else if (response.ok()) {
        response.failure = Failure::kBroken;
        response.reason = "the server ended the file early";
      }
      if (partial.size() - before >= kWorthwhileBytes) {
        retries.progressed();
      }
      if (!retries.again(response)) {
        client_.fail(response, file,
                     fmt::format("{} (after {} of {} bytes, which are kept)", file.shown(), partial.size(),
                                 total < 0 ? "?" : std::to_string(total)));
      }
    }
    const bool resumed = partial.resumed();
    const std::optional<std::string> wrong = partial.mismatch();
    if (!wrong) {
      break;
    }
    if (!resumed) {
      bad_content(fmt::format("its checksum is {} but the server announced {}", *wrong, metadata.etag));
    }
    partial.restart();  // what an earlier run left may be to blame
  }
  meter_.update(partial.size(), total);
  partial.commit();
}

}  // namespace mamba::hub
