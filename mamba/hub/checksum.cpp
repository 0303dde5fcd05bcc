#include "mamba/hub/checksum.h"

#include <openssl/evp.h>

#include "mamba/base/error.h"
#include "mamba/hub/names.h"

namespace mamba::hub {
namespace {

EVP_MD_CTX* as_context(void* context) {
  return static_cast<EVP_MD_CTX*>(context);
}

}  // namespace

void Checksum::Free::operator()(void* context) const {
  EVP_MD_CTX_free(as_context(context));
}

Checksum::Checksum(const char* algorithm) : context_(EVP_MD_CTX_new()) {
  const EVP_MD* kind = EVP_get_digestbyname(algorithm);
  check(context_ != nullptr && kind != nullptr && EVP_DigestInit_ex(as_context(context_.get()), kind, nullptr) == 1,
        "OpenSSL offers no {} on this machine, which checking a download needs", algorithm);
}

Checksum Checksum::sha256() {
  return Checksum("SHA256");
}

Checksum Checksum::git_blob(int64_t size) {
  Checksum sum("SHA1");
  const std::string head = fmt::format("blob {}", size);
  sum.update(head.c_str(), head.size() + 1);  // the zero belongs to it
  return sum;
}

std::optional<Checksum> Checksum::of_etag(std::string_view etag, int64_t size) {
  if (etag.size() == 64 && is_hex(etag)) {
    return sha256();
  }
  if (etag.size() == 40 && is_hex(etag) && size >= 0) {
    return git_blob(size);
  }
  return std::nullopt;
}

void Checksum::update(const void* data, size_t size) {
  check(EVP_DigestUpdate(as_context(context_.get()), data, size) == 1, "OpenSSL cannot go on with a checksum");
}

std::string Checksum::hex() {
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned int length = 0;
  check(EVP_DigestFinal_ex(as_context(context_.get()), digest, &length) == 1, "OpenSSL cannot end a checksum");
  std::string out;
  for (unsigned int i = 0; i < length; ++i) {
    out += fmt::format("{:02x}", digest[i]);
  }
  return out;
}

}  // namespace mamba::hub
