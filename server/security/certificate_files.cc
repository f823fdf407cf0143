#include "server/security/certificate_files.h"

#include <ctime>
#include <vector>

#include <absl/strings/str_cat.h>
#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>

#include "base/diagnostics.h"
#include "base/file.h"
#include "base/log.h"

namespace emoe::server {
namespace {

constexpr size_t kLargestPem = 4 << 20;

template <auto kFree>
struct Deleter {
  template <typename T>
  void operator()(T* object) const {
    kFree(object);
  }
};
using Bio = std::unique_ptr<BIO, Deleter<BIO_free_all>>;
using X509Pointer = std::unique_ptr<X509, Deleter<X509_free>>;
using KeyPointer = std::unique_ptr<EVP_PKEY, Deleter<EVP_PKEY_free>>;

// A key with a passphrase is refused: there is nobody to ask.
int no_passphrase(char*, int, int, void*) {
  return -1;
}

Bio bio_of(const std::string& pem) {
  return Bio(BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())));
}

std::vector<X509Pointer> certificates_of(const std::string& pem) {
  std::vector<X509Pointer> found;
  const Bio bio = bio_of(pem);
  while (X509* one = PEM_read_bio_X509(bio.get(), nullptr, no_passphrase, nullptr)) {
    found.emplace_back(one);
  }
  ERR_clear_error();  // that there is no more
  return found;
}

std::string read_pem(const char* key, const std::string& file, Diagnostics& problems) {
  Result<std::string> text = read_file(file, kLargestPem);
  if (text.ok()) return *std::move(text);
  problems.add(key, std::string(text.status().message()));
  return "";
}

int64_t unix_seconds(const ASN1_TIME* time) {
  std::tm parts{};
  if (ASN1_TIME_to_tm(time, &parts) != 1) return 0;
  return timegm(&parts);
}

// What is wrong with each and with both together; when the first certificate expires.
int64_t check_pair(const v1::Tls& tls, const Certificates& pem, Diagnostics& problems) {
  const auto chain = certificates_of(pem.certificate);
  const Bio bio = bio_of(pem.key);
  const KeyPointer key(PEM_read_bio_PrivateKey(bio.get(), nullptr, no_passphrase, nullptr));
  if (chain.empty()) problems.add("tls.certificate", tls.certificate() + ": no certificate in PEM");
  if (key == nullptr) {
    problems.add("tls.key", tls.key() + ": no private key in PEM without a passphrase");
  }
  if (!chain.empty() && key != nullptr && X509_check_private_key(chain[0].get(), key.get()) != 1) {
    problems.add("tls.key", absl::StrCat(tls.key(), " is not the key of ", tls.certificate(),
                                         " (whose first certificate is the server's own)"));
  }
  if (!tls.client_ca().empty() && certificates_of(pem.client_ca).empty()) {
    problems.add("tls.client_ca", tls.client_ca() + ": no certificate in PEM");
  }
  ERR_clear_error();
  return chain.empty() ? 0 : unix_seconds(X509_get0_notAfter(chain[0].get()));
}

std::vector<std::filesystem::path> files_of(const v1::Tls& tls) {
  std::vector<std::filesystem::path> files{tls.certificate(), tls.key()};
  if (!tls.client_ca().empty()) files.emplace_back(tls.client_ca());
  return files;
}

}  // namespace

CertificateFiles::CertificateFiles(const v1::Tls& tls, SecurityProbe& probe)
    : tls_(tls),
      probe_(probe),
      files_(files_of(tls),
             {.read = [this] { return read(); },
              .check = [this](const Certificates& fresh) -> Status {
                if (fresh.expires >= std::time(nullptr)) return ok_status();
                return absl::InvalidArgumentError(tls_.certificate() + " has expired");
              },
              .taken =
                  [this](const Certificates& fresh) {
                    log_info("%s: a new certificate is in use", tls_.certificate());
                    probe_.reloaded("certificate", true);
                    probe_.certificate_expires(static_cast<double>(fresh.expires));
                  },
              .refused =
                  [this](const Status& why) {
                    probe_.reloaded("certificate", false);
                    log_error("the old certificate stays in use: %s", std::string(why.message()));
                  }}) {}

Result<std::unique_ptr<CertificateFiles>> CertificateFiles::open(const v1::Tls& tls,
                                                                 SecurityProbe& probe) {
  auto files = std::unique_ptr<CertificateFiles>(new CertificateFiles(tls, probe));
  EMOE_RETURN_IF_ERROR(files->files_.open());
  const int64_t expires = files->current()->expires;
  probe.certificate_expires(static_cast<double>(expires));
  if (expires < std::time(nullptr))
    log_warning("%s has expired: clients will refuse it", tls.certificate());
  return files;
}

Result<std::shared_ptr<const Certificates>> CertificateFiles::read() const {
  Diagnostics problems;
  auto pem = std::make_shared<Certificates>();
  pem->certificate = read_pem("tls.certificate", tls_.certificate(), problems);
  pem->key = read_pem("tls.key", tls_.key(), problems);
  if (!tls_.client_ca().empty()) {
    pem->client_ca = read_pem("tls.client_ca", tls_.client_ca(), problems);
  }
  EMOE_RETURN_IF_ERROR(problems.to_status());
  pem->expires = check_pair(tls_, *pem, problems);
  EMOE_RETURN_IF_ERROR(problems.to_status());
  return std::shared_ptr<const Certificates>(std::move(pem));
}

bool CertificateFiles::covers(const std::string& host) {
  const auto chain = certificates_of(current()->certificate);
  if (chain.empty()) return false;
  return X509_check_ip_asc(chain[0].get(), host.c_str(), 0) == 1 ||
         X509_check_host(chain[0].get(), host.c_str(), host.size(), 0, nullptr) == 1;
}

}  // namespace emoe::server
