// HTTPS: certificates are checked.
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rsa.h>
#include <openssl/x509v3.h>

#include <cstdio>
#include <memory>

#include "mamba/hub/testing/fixture.h"

namespace mamba::hub::testing {
namespace {

namespace fs = std::filesystem;

// A self-signed certificate for `name` (an IP address), good for a day.
void make_certificate(const fs::path& certificate_path, const fs::path& key_path, const std::string& name) {
  EVP_PKEY* key = EVP_RSA_gen(2048);
  X509* certificate = X509_new();
  X509_set_version(certificate, 2);
  ASN1_INTEGER_set(X509_get_serialNumber(certificate), 1);
  X509_gmtime_adj(X509_getm_notBefore(certificate), -60);
  X509_gmtime_adj(X509_getm_notAfter(certificate), 86'400);
  X509_set_pubkey(certificate, key);
  X509_NAME_add_entry_by_txt(X509_get_subject_name(certificate), "CN", MBSTRING_ASC,
                             reinterpret_cast<const unsigned char*>("hub"), -1, -1, 0);
  X509_set_issuer_name(certificate, X509_get_subject_name(certificate));
  X509_EXTENSION* names = X509V3_EXT_conf_nid(nullptr, nullptr, NID_subject_alt_name, ("IP:" + name).c_str());
  X509_add_ext(certificate, names, -1);
  X509_EXTENSION_free(names);
  ASSERT_GT(X509_sign(certificate, key, EVP_sha256()), 0);
  std::FILE* file = std::fopen(certificate_path.c_str(), "w");
  PEM_write_X509(file, certificate);
  std::fclose(file);
  file = std::fopen(key_path.c_str(), "w");
  PEM_write_PrivateKey(file, key, nullptr, nullptr, 0, nullptr, nullptr);
  std::fclose(file);
  X509_free(certificate);
  EVP_PKEY_free(key);
}

TEST_F(HubTest, CertificatesAreChecked) {
  make_certificate(directory_ / "right.pem", directory_ / "right.key", "127.0.0.1");
  HubServer server(directory_ / "right.pem", directory_ / "right.key");
  const std::string weights = noise(300'000);
  server.put("o/n", {{"w.bin", weights}});
  options_.endpoint = server.endpoint();
  options_.token = "secret";
  const auto get = [&] { return read_file(download("o/n", "w.bin", "main", options_)); };
  expect_error(HubError::Kind::kUnreachable, "certificate", get);
  EXPECT_TRUE(server.requests().empty());
  options_.certificates = directory_ / "right.pem";
  EXPECT_TRUE(get() == weights);
  options_.certificates = directory_ / "absent.pem";
  expect_error(HubError::Kind::kUnreachable, "absent.pem", [&] { download("o/n", "x.bin", "main", options_); });
}

TEST_F(HubTest, CertificatesForAnotherHostAreRefused) {
  make_certificate(directory_ / "wrong.pem", directory_ / "wrong.key", "127.0.0.2");
  HubServer server(directory_ / "wrong.pem", directory_ / "wrong.key");
  server.put("o/n", {{"w.bin", "w"}});
  options_.endpoint = server.endpoint();
  options_.certificates = directory_ / "wrong.pem";
  expect_error(HubError::Kind::kUnreachable, "127.0.0.1", [&] { download("o/n", "w.bin", "main", options_); });
}

}  // namespace
}  // namespace mamba::hub::testing
