// URLs, taken apart by libcurl so that we and the requests agree on what they mean.
#pragma once

#include <string>
#include <string_view>

namespace mamba::hub {

// Scheme, host and port, in lower case: "https://huggingface.co:443". Empty when it is not a URL.
std::string origin_of(const std::string& url);

// The host alone; empty when it is not a URL.
std::string host_of(const std::string& url);

// What `location` means in an answer from `base`. Empty unless the result is an http or https URL.
std::string resolved_url(const std::string& base, const std::string& location);

// ASCII letters only, whatever the locale.
std::string lower_case(std::string_view text);

}  // namespace mamba::hub
