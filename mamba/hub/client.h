// What the hub is asked, with retries, and its refusals as errors that say what to do.
#pragma once

#include <chrono>
#include <functional>
#include <optional>
#include <string>

#include "mamba/hub/http.h"
#include "mamba/hub/names.h"

namespace mamba::hub {

// What the hub says about one file.
struct FileMetadata {
  bool exists = true;  // false: the commit has no such file; only `commit` counts then, and may be empty
  std::string commit;
  std::string etag;
  int64_t size = -1;
};

// Pauses between tries; counts those in a row that brought nothing.
class Retries {
 public:
  // `idle` is called while it waits, and may throw to cancel.
  Retries(const Options& options, int tries, const std::function<void()>& idle);

  void progressed() { failed_ = 0; }

  // After a failed try: true when another is worth it, once it is time for it.
  bool again(const HttpResponse& response);

  int failed() const { return failed_; }

 private:
  const Options& options_;
  int tries_;
  const std::function<void()>& idle_;
  int failed_ = 0;
};

class Client {
 public:
  // `idle` is called now and then while nothing else happens. Both must outlive this object.
  Client(const Options& options, std::function<void()> idle);

  // `tries` is the most that are made.
  FileMetadata metadata(const FileId& file, int tries);
  ModelInfo info(const std::string& repo, const std::string& revision, int tries);

  // One GET of the file's content as of `commit`, from byte `from` on.
  HttpResponse get(const FileId& file, const std::string& commit, int64_t from, const HttpSink& sink);

  const Options& options() const { return options_; }
  const std::function<void()>& idle() const { return idle_; }

  // Throws the HubError that fits a failure or a status that is not 2xx. `subject` is what was asked for.
  [[noreturn]] void fail(const HttpResponse& response, const FileId& file, const std::string& subject) const;

 private:
  HttpResponse ask(HttpRequest request, int tries);

  const Options& options_;
  std::function<void()> idle_;
  Http http_;
};

}  // namespace mamba::hub
