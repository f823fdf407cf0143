#include "metrics/tls_context.h"

#include <exception>
#include <memory>

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>

#include "base/log.h"

namespace emoe::metrics {
namespace {

using Bio = std::unique_ptr<BIO, decltype(&BIO_free_all)>;
using Certificate = std::unique_ptr<X509, decltype(&X509_free)>;
using Key = std::unique_ptr<EVP_PKEY, decltype(&EVP_PKEY_free)>;
using Store = std::unique_ptr<X509_STORE, decltype(&X509_STORE_free)>;

Bio bio_of(const std::string& pem) {
  return {BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())), &BIO_free_all};
}

Certificate next_certificate(const Bio& bio) {
  return {PEM_read_bio_X509(bio.get(), nullptr, nullptr, nullptr), &X509_free};
}

bool use_certificate(SSL* connection, const ServerTls& tls) {
  const Bio chain = bio_of(tls.certificate);
  const Certificate own = next_certificate(chain);
  const Bio key_text = bio_of(tls.key);
  const Key key(PEM_read_bio_PrivateKey(key_text.get(), nullptr, nullptr, nullptr), &EVP_PKEY_free);
  if (own == nullptr || key == nullptr || SSL_use_certificate(connection, own.get()) != 1 ||
      SSL_use_PrivateKey(connection, key.get()) != 1) {
    return false;
  }
  while (const Certificate issuer = next_certificate(chain)) {
    if (SSL_add1_chain_cert(connection, issuer.get()) != 1) return false;
  }
  return true;
}

bool ask_client(SSL* connection, const ServerTls& tls) {
  if (tls.client_ca.empty()) return true;
  const Store store(X509_STORE_new(), &X509_STORE_free);
  const Bio text = bio_of(tls.client_ca);
  bool any = false;
  while (const Certificate ca = next_certificate(text)) {
    if (X509_STORE_add_cert(store.get(), ca.get()) != 1) return false;
    if (SSL_add_client_CA(connection, ca.get()) != 1) return false;
    any = true;
  }
  if (!any || SSL_set1_verify_cert_store(connection, store.get()) != 1) return false;
  SSL_set_verify(connection, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, nullptr);
  return true;
}

// An exception must not pass through OpenSSL's C frames.
int on_connection(SSL* connection, void* source) {
  try {
    const ServerTls tls = (*static_cast<const std::function<ServerTls()>*>(source))();
    const bool usable = use_certificate(connection, tls) && ask_client(connection, tls);
    ERR_clear_error();  // that the last certificate was the last
    return usable ? 1 : 0;
  } catch (const std::exception& error) {
    log_error("metrics server: %s", error.what());
    return 0;
  }
}

}  // namespace

bool set_up_tls(void* ssl_context, const std::function<ServerTls()>& source) {
  auto* const context = static_cast<SSL_CTX*>(ssl_context);
  SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
  SSL_CTX_set_options(context, SSL_OP_NO_TICKET | SSL_OP_NO_RENEGOTIATION);
  SSL_CTX_set_cert_cb(context, &on_connection, const_cast<std::function<ServerTls()>*>(&source));
  return SSL_CTX_set_min_proto_version(context, TLS1_2_VERSION) == 1;
}

}  // namespace emoe::metrics
