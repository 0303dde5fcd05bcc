#include "mamba/hub/url.h"

#include <curl/curl.h>

#include <algorithm>
#include <memory>

#include "mamba/base/error.h"

namespace mamba::hub {
namespace {

struct UrlFree {
  void operator()(CURLU* url) const { curl_url_cleanup(url); }
};
using Url = std::unique_ptr<CURLU, UrlFree>;

std::string part_of(CURLU* url, CURLUPart part, unsigned flags = 0) {
  char* text = nullptr;
  if (curl_url_get(url, part, &text, flags) != CURLUE_OK) {
    return "";
  }
  std::string out(text);
  curl_free(text);
  return out;
}

}  // namespace

std::string lower_case(std::string_view text) {
  std::string out(text);
  std::transform(out.begin(), out.end(), out.begin(),
                 [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; });
  return out;
}

std::string origin_of(const std::string& text) {
  const Url url(curl_url());
  if (!url || curl_url_set(url.get(), CURLUPART_URL, text.c_str(), 0) != CURLUE_OK) {
    return "";
  }
  const std::string host = lower_case(part_of(url.get(), CURLUPART_HOST));
  return host.empty() ? ""
                      : fmt::format("{}://{}:{}", lower_case(part_of(url.get(), CURLUPART_SCHEME)), host,
                                    part_of(url.get(), CURLUPART_PORT, CURLU_DEFAULT_PORT));
}

std::string host_of(const std::string& text) {
  const Url url(curl_url());
  return url && curl_url_set(url.get(), CURLUPART_URL, text.c_str(), 0) == CURLUE_OK
             ? part_of(url.get(), CURLUPART_HOST)
             : "";
}

std::string resolved_url(const std::string& base, const std::string& location) {
  const Url url(curl_url());
  if (!url || curl_url_set(url.get(), CURLUPART_URL, base.c_str(), 0) != CURLUE_OK ||
      curl_url_set(url.get(), CURLUPART_URL, location.c_str(), 0) != CURLUE_OK) {
    return "";
  }
  const std::string scheme = lower_case(part_of(url.get(), CURLUPART_SCHEME));
  return scheme == "http" || scheme == "https" ? part_of(url.get(), CURLUPART_URL) : "";
}

}  // namespace mamba::hub
