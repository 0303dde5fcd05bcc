// HTTP as a hub needs it, over libcurl: redirects are followed here and not by curl, since they decide who gets the
// token; bodies go to a sink or into a bounded string.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>

#include "mamba/hub/hub.h"

namespace mamba::hub {

struct HttpResponse {
  enum class Failure {
    kNone,
    kNoConnection,  // the name is unknown or nobody answers there
    kBroken,        // cut, reset, silent for too long
    kFatal,         // asking again cannot help: TLS verification, a protocol that is not HTTP(S)
  };

  int status = 0;
  std::map<std::string, std::string> headers;  // lower-case names; only those of interest
  std::string url;                             // the last one asked
  std::string body;                            // without a sink; up to the request's limit
  Failure failure = Failure::kNone;
  std::string reason;  // of the failure, for people

  bool ok() const { return failure == Failure::kNone && status >= 200 && status < 300; }
  const std::string* header(const std::string& name) const;
  int64_t number(const std::string& name) const;  // a header's whole number; -1 when absent or something else
};

// Receives a 2xx body. What its functions throw ends the request and comes out of Http::request.
struct HttpSink {
  std::function<void(const HttpResponse&)> start;  // once, status and headers known, before any data
  std::function<void(std::string_view)> data;
};

struct HttpRequest {
  std::string url;
  bool head = false;
  bool leave_hub = false;                       // follow redirects to other hosts, without the token
  int64_t from = 0;                             // > 0: Range: bytes=<from>-
  std::chrono::milliseconds timeout{0};         // to connect, and the longest silence
  std::chrono::milliseconds whole{0};           // bounds the request as a whole; 0: nothing does
  size_t body_limit = size_t{16} << 20;         // without a sink; a longer body throws HubError
  const HttpSink* sink = nullptr;               // must outlive the request
  const std::function<void()>* idle = nullptr;  // called about once a second; may throw to cancel
};

// One connection pool; one thread at a time.
class Http {
 public:
  explicit Http(const Options& options);  // `options` must outlive this object
  ~Http();
  Http(const Http&) = delete;
  Http& operator=(const Http&) = delete;

  // Follows redirects within the endpoint's origin and to huggingface.co; the token goes to the endpoint's origin
  // only. A redirect elsewhere is the response itself unless `leave_hub`. Network failures are in the response.
  HttpResponse request(const HttpRequest& request);

 private:
  struct Call;
  HttpResponse once(const HttpRequest& request, const std::string& url, bool authorize);

  const Options& options_;
  void* curl_;
};

}  // namespace mamba::hub
