#include "mamba/hub/http.h"

#include <curl/curl.h>
#include <pthread.h>
#include <signal.h>  // NOLINT(modernize-deprecated-headers): pthread_sigmask is POSIX

#include <algorithm>
#include <charconv>
#include <cstring>
#include <exception>
#include <set>

#include "mamba/hub/url.h"

namespace mamba::hub {
namespace {

using Failure = HttpResponse::Failure;

constexpr int kMaxRedirects = 10;
constexpr size_t kMaxHeaderBytes = size_t{1} << 20;
constexpr size_t kMaxErrorBody = size_t{64} << 10;
constexpr curl_off_t kSlowestBytesPerSecond = 64;  // below this for the whole timeout counts as silence

// A write to a connection that the server has closed raises SIGPIPE inside OpenSSL; the default action ends the
// process. Blocked for this thread while curl works, and taken out of the queue afterwards.
class SigpipeBlocked {
 public:
  SigpipeBlocked() {
    sigset_t pending;
    sigpending(&pending);
    was_pending_ = sigismember(&pending, SIGPIPE) == 1;
    sigemptyset(&pipe_);
    sigaddset(&pipe_, SIGPIPE);
    pthread_sigmask(SIG_BLOCK, &pipe_, &before_);
  }
  ~SigpipeBlocked() {
    sigset_t pending;
    sigpending(&pending);
    if (!was_pending_ && sigismember(&pending, SIGPIPE) == 1) {
      int signal = 0;
      sigwait(&pipe_, &signal);
    }
    pthread_sigmask(SIG_SETMASK, &before_, nullptr);
  }
  SigpipeBlocked(const SigpipeBlocked&) = delete;
  SigpipeBlocked& operator=(const SigpipeBlocked&) = delete;

 private:
  sigset_t pipe_;
  sigset_t before_;
  bool was_pending_ = false;
};

std::string_view trimmed(std::string_view text) {
  constexpr std::string_view kBlanks = " \t\r\n";
  const size_t begin = text.find_first_not_of(kBlanks);
  return begin == std::string_view::npos ? "" : text.substr(begin, text.find_last_not_of(kBlanks) - begin + 1);
}

bool interesting(const std::string& name) {
  static const std::set<std::string> names = {"etag",          "location",         "retry-after",    "content-length",
                                              "content-range", "content-encoding", "x-repo-commit",  "x-linked-etag",
                                              "x-linked-size", "x-error-code",     "x-error-message"};
  return names.count(name) > 0;
}

// Where huggingface.co itself may send a request for metadata that a mirror passes on.
bool is_hub_origin(const std::string& origin) {
  return origin == "https://huggingface.co:443" || origin == "https://hf.co:443";
}

void init_curl_once() {
  static const CURLcode result = curl_global_init(CURL_GLOBAL_DEFAULT);
  check(result == CURLE_OK, "libcurl cannot be started: {}", curl_easy_strerror(result));
}

template <typename... Values>
void set(CURL* curl, CURLoption option, Values... values) {
  const CURLcode result = curl_easy_setopt(curl, option, values...);
  check(result == CURLE_OK, "libcurl refuses an option ({}): {}", static_cast<int>(option), curl_easy_strerror(result));
}

}  // namespace

const std::string* HttpResponse::header(const std::string& name) const {
  const auto it = headers.find(name);
  return it == headers.end() || it->second.empty() ? nullptr : &it->second;
}

int64_t HttpResponse::number(const std::string& name) const {
  const std::string* text = header(name);
  int64_t value = -1;
  if (text == nullptr) {
    return -1;
  }
  const auto [end, error] = std::from_chars(text->data(), text->data() + text->size(), value);
  return error == std::errc() && end == text->data() + text->size() && value >= 0 ? value : -1;
}

Http::Http(const Options& options) : options_(options), curl_(nullptr) {
  init_curl_once();
  for (const char c : options.token) {
    if (c <= 0x20 || c >= 0x7f) {
      throw UsageError("the token has a blank, a control character or a byte outside ASCII: check HF_TOKEN");
    }
  }
  if (resolved_url(options.endpoint, "/").empty()) {
    throw UsageError(fmt::format("the endpoint must be an https:// or http:// URL but is {}", quote(options.endpoint)));
  }
  curl_ = curl_easy_init();
  check(curl_ != nullptr, "libcurl cannot be started");
}

Http::~Http() {
  curl_easy_cleanup(curl_);
}

// What curl's callbacks share. They run under C frames, so exceptions wait in `thrown` until curl has returned.
struct Http::Call {
  const HttpRequest& request;
  CURL* curl;
  HttpResponse response;
  size_t header_bytes = 0;
  size_t discarded = 0;
  bool started = false;
  bool enough = false;  // we ended the transfer on purpose
  bool silent = false;  // we ended it since nothing came for too long
  curl_off_t bytes = 0;
  std::chrono::steady_clock::time_point last_byte = std::chrono::steady_clock::now();
  std::exception_ptr thrown;

  template <typename F>
  bool guarded(F&& body) {
    try {
      body();
      return true;
    } catch (...) {
      thrown = std::current_exception();
      return false;
    }
  }

  void start() {
    if (!started) {
      started = true;
      long status = 0;
      curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &status);
      response.status = static_cast<int>(status);
      if (request.sink != nullptr && response.ok()) {
        request.sink->start(response);
      }
    }
  }

  void receive(std::string_view data) {
    start();
    if (!response.ok()) {
      discarded += data.size();
      enough = discarded > kMaxErrorBody;
    } else if (request.sink != nullptr) {
      request.sink->data(data);
    } else if (response.body.size() + data.size() > request.body_limit) {
      throw HubError(HubError::Kind::kServer,
                     fmt::format("{}: the answer is longer than the {} bytes that make sense here",
                                 origin_of(response.url), request.body_limit));
    } else {
      response.body.append(data);
    }
  }

  void receive_header(std::string_view line) {
    header_bytes += line.size();
    if (header_bytes > kMaxHeaderBytes) {
      throw HubError(HubError::Kind::kServer,
                     fmt::format("{}: the answer's headers do not end", origin_of(response.url)));
    }
    if (line.starts_with("HTTP/")) {  // after a 1xx
      response.headers.clear();
      return;
    }
    const size_t colon = line.find(':');
    if (colon != std::string_view::npos) {
      const std::string name = lower_case(line.substr(0, colon));
      if (interesting(name)) {
        response.headers[name] = trimmed(line.substr(colon + 1));
      }
    }
  }

  static size_t on_data(char* data, size_t size, size_t count, void* self) {
    Call& call = *static_cast<Call*>(self);
    const size_t bytes = size * count;
    return call.guarded([&] { call.receive({data, bytes}); }) && !call.enough ? bytes : bytes + 1;
  }

  static size_t on_header(char* data, size_t size, size_t count, void* self) {
    Call& call = *static_cast<Call*>(self);
    const size_t bytes = size * count;
    return call.guarded([&] { call.receive_header({data, bytes}); }) ? bytes : 0;
  }

  // curl calls this about once a second, and more often while data comes. Its own measure of low speed averages over
  // the last seconds and notices silence late.
  static int on_progress(void* self, curl_off_t, curl_off_t bytes, curl_off_t, curl_off_t) {
    Call& call = *static_cast<Call*>(self);
    const auto now = std::chrono::steady_clock::now();
    if (bytes != call.bytes) {
      call.bytes = bytes;
      call.last_byte = now;
    } else if (now - call.last_byte > call.request.timeout) {
      call.silent = true;
      return 1;
    }
    return call.request.idle == nullptr || call.guarded(*call.request.idle) ? 0 : 1;
  }

  void finish(CURLcode code, const char* detail) {
    const std::string host = quote(host_of(response.url), 120);
    switch (code) {
      case CURLE_OK:
        return;
      case CURLE_COULDNT_RESOLVE_HOST:
        return fail(Failure::kNoConnection, fmt::format("the name {} is not known", host));
      case CURLE_COULDNT_RESOLVE_PROXY:
        return fail(Failure::kNoConnection, "the proxy's name is not known");
      case CURLE_COULDNT_CONNECT: {
        long error = 0;
        curl_easy_getinfo(curl, CURLINFO_OS_ERRNO, &error);
        return fail(Failure::kNoConnection,
                    error != 0 ? fmt::format("{}: {}", host, std::strerror(static_cast<int>(error))) : detail);
      }
      case CURLE_OPERATION_TIMEDOUT:
        return fail(Failure::kBroken,
                    fmt::format("no answer from {} within {:.3g} s", host, request.timeout.count() / 1000.0));
      case CURLE_PEER_FAILED_VERIFICATION:
      case CURLE_SSL_CACERT_BADFILE:
      case CURLE_UNSUPPORTED_PROTOCOL:
      case CURLE_URL_MALFORMAT:
        return fail(Failure::kFatal, detail);
      case CURLE_PARTIAL_FILE:
      case CURLE_GOT_NOTHING:
      case CURLE_RECV_ERROR:
        return fail(Failure::kBroken, fmt::format("{} closed the connection early", host));
      case CURLE_OUT_OF_MEMORY:
        throw std::bad_alloc();
      default:
        return fail(Failure::kBroken, detail);
    }
  }

  void fail(Failure failure, std::string reason) {
    response.failure = failure;
    response.reason = std::move(reason);
  }
};

HttpResponse Http::once(const HttpRequest& request, const std::string& url, bool authorize) {
  CURL* curl = curl_;
  Call call{.request = request, .curl = curl, .response = {.url = url}};
  curl_easy_reset(curl);  // keeps connections
  char detail[CURL_ERROR_SIZE] = "";
  set(curl, CURLOPT_ERRORBUFFER, static_cast<char*>(detail));
  set(curl, CURLOPT_URL, url.c_str());
  set(curl, CURLOPT_NOSIGNAL, 1L);
#if CURL_AT_LEAST_VERSION(7, 85, 0)
  set(curl, CURLOPT_PROTOCOLS_STR, "http,https");
#else
  set(curl, CURLOPT_PROTOCOLS, static_cast<long>(CURLPROTO_HTTP | CURLPROTO_HTTPS));
#endif
  set(curl, CURLOPT_FOLLOWLOCATION, 0L);
  set(curl, CURLOPT_SSL_VERIFYPEER, 1L);
  set(curl, CURLOPT_SSL_VERIFYHOST, 2L);
  if (!options_.certificates.empty()) {
    set(curl, CURLOPT_CAINFO, options_.certificates.c_str());
  }
  set(curl, CURLOPT_USERAGENT, "mlx-mamba/" MAMBA_VERSION);
  set(curl, CURLOPT_HEADEROPT, static_cast<long>(CURLHEADER_SEPARATE));  // a proxy never sees the token
  set(curl, request.head ? CURLOPT_NOBODY : CURLOPT_HTTPGET, 1L);
  const long timeout = std::max(1L, static_cast<long>(request.timeout.count()));
  set(curl, CURLOPT_CONNECTTIMEOUT_MS, timeout);
  if (request.whole.count() > 0) {
    set(curl, CURLOPT_TIMEOUT_MS, static_cast<long>(request.whole.count()));
  }
  set(curl, CURLOPT_LOW_SPEED_LIMIT, static_cast<long>(kSlowestBytesPerSecond));
  set(curl, CURLOPT_LOW_SPEED_TIME, (timeout + 999) / 1000);
  set(curl, CURLOPT_WRITEFUNCTION, &Call::on_data);
  set(curl, CURLOPT_WRITEDATA, static_cast<void*>(&call));
  set(curl, CURLOPT_HEADERFUNCTION, &Call::on_header);
  set(curl, CURLOPT_HEADERDATA, static_cast<void*>(&call));
  set(curl, CURLOPT_NOPROGRESS, 0L);
  set(curl, CURLOPT_XFERINFOFUNCTION, &Call::on_progress);
  set(curl, CURLOPT_XFERINFODATA, static_cast<void*>(&call));
  // Refused while a failed request still holds the buffer; only speed depends on it.
  curl_easy_setopt(curl, CURLOPT_BUFFERSIZE, 256L << 10);

  struct ListFree {
    void operator()(curl_slist* list) const { curl_slist_free_all(list); }
  };
  std::unique_ptr<curl_slist, ListFree> headers;
  const auto add_header = [&](const std::string& line) {
    curl_slist* longer = curl_slist_append(headers.get(), line.c_str());
    if (longer == nullptr) {
      throw std::bad_alloc();
    }
    headers.release();
    headers.reset(longer);
  };
  // Sizes and hashes are those of the plain bytes.
  add_header("Accept-Encoding: identity");
  if (authorize && !options_.token.empty()) {
    add_header("Authorization: Bearer " + options_.token);
  }
  if (request.from > 0) {
    add_header(fmt::format("Range: bytes={}-", request.from));
  }
  set(curl, CURLOPT_HTTPHEADER, headers.get());

  CURLcode code = CURLE_OK;
  {
    const SigpipeBlocked blocked;
    code = curl_easy_perform(curl);
  }
  if (call.thrown) {
    std::rethrow_exception(call.thrown);
  }
  if (call.enough && code == CURLE_WRITE_ERROR) {
    code = CURLE_OK;
  }
  if (call.silent && code == CURLE_ABORTED_BY_CALLBACK) {
    code = CURLE_OPERATION_TIMEDOUT;
  }
  if (code == CURLE_OK) {
    call.start();  // an empty body
  }
  call.finish(code, detail[0] != '\0' ? static_cast<const char*>(detail) : curl_easy_strerror(code));
  return std::move(call.response);
}

HttpResponse Http::request(const HttpRequest& request) {
  const std::string home = origin_of(options_.endpoint);
  std::string url = request.url;
  for (int hop = 0; hop <= kMaxRedirects; ++hop) {
    const std::string origin = origin_of(url);
    HttpResponse response = once(request, url, origin == home);
    const std::string* location = response.header("location");
    if (response.failure != Failure::kNone || response.status / 100 != 3 || location == nullptr) {
      return response;
    }
    const std::string target = resolved_url(url, *location);
    if (target.empty()) {
      throw HubError(HubError::Kind::kServer,
                     fmt::format("{}: redirects to {}, which is not an HTTP address", origin, quote(*location)));
    }
    const std::string next = origin_of(target);
    if (!request.leave_hub && next != origin && next != home && !is_hub_origin(next)) {
      return response;
    }
    url = target;
  }
  throw HubError(HubError::Kind::kServer,
                 fmt::format("{}: more than {} redirects in a row", origin_of(request.url), kMaxRedirects));
}

}  // namespace mamba::hub
