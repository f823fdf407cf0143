#pragma once

#include <string>

namespace emoe {

// The names under which the programs of one attempt (coordinator, supervisor, ranks) meet: variables
// in a rank's environment and files that one program writes and another reads.

// Set by the coordinator; without the first a rank works alone.
inline constexpr char kCoordinatorVariable[] = "EMOE_COORDINATOR";  // HOST:PORT
// Files by which a rank verifies the coordinator, and which it shows where it is asked for a certificate;
// without the first there is no TLS.
inline constexpr char kTlsCaVariable[] = "EMOE_RANK_TLS_CA";
inline constexpr char kTlsCertificateVariable[] = "EMOE_RANK_TLS_CERT";
inline constexpr char kTlsKeyVariable[] = "EMOE_RANK_TLS_KEY";
// Folders below which a rank may read files, with colons between them, beside those of the attempt itself;
// without it anywhere.
inline constexpr char kAllowedRootsVariable[] = "EMOE_ALLOWED_ROOTS";
inline constexpr char kAttemptTokenVariable[] = "EMOE_ATTEMPT_TOKEN";
inline constexpr char kReconnectGraceVariable[] = "EMOE_RECONNECT_GRACE_SECONDS";
// Set by the launcher.
inline constexpr char kJobIdVariable[] = "EMOE_JOB_ID";
inline constexpr char kAttemptVariable[] = "EMOE_ATTEMPT";         // its number, from 1
inline constexpr char kAttemptDirVariable[] = "EMOE_ATTEMPT_DIR";  // absolute
// Where a rank serves /metrics: HOST:PORT, "off"; its user's where that is set.
inline constexpr char kMetricsListenVariable[] = "EMOE_METRICS_LISTEN";
// Threads a rank computes with. The coordinator's own value is what its launcher passes on.
inline constexpr char kThreadsVariable[] = "OMP_NUM_THREADS";

// Where a rank keeps tokenised rows, partitions and hashes; without it kCacheFolder in its output folder.
inline constexpr char kCacheVariable[] = "EMOE_CACHE_DIR";
inline constexpr char kCacheFolder[] = "cache";

// In the attempt's folder: reports that a rank could not send, because no coordinator was there.
inline std::string left_reports_file(int rank) {
  return "rank_" + std::to_string(rank) + ".reports";
}
// Beside the job file that the coordinator gives its ranks, which is resolved: what was to be said of
// the job before, a list as in the output folder's file of that name.
inline constexpr char kWarningsFile[] = "warnings.json";
// The phase that rank 0 reports while it exports: the job is EXPORTING then.
inline constexpr char kExportPhase[] = "export";
// In a checkpoint's folder, written last: a folder without it is no checkpoint.
inline constexpr char kCheckpointManifestFile[] = "manifest.json";

}  // namespace emoe
