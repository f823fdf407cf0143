#include "launcher/kubernetes/launch_script.h"

namespace emoe::launcher {

const char* launch_script() {
  return R"script(set -u
cd "$EMOE_ATTEMPT_DIR" || {
  echo "the folder $EMOE_ATTEMPT_DIR is not to be seen in this pod: jobs_root must lie on a volume that coordinator and pods mount at the same path (launcher.kubernetes.template)"
  exit 74
}
# To make a link is to take the attempt: it can be done once, on network file systems too.
if ! ln -s "$EMOE_POD" kubernetes_run && [ "$(readlink kubernetes_run)" != "$EMOE_POD" ]; then
  echo "the attempt belongs to $(readlink kubernetes_run), not to $EMOE_POD: ending at once"
  exit 73
fi
exec > >(tee -a output.log) 2>&1
log=$!
. ./rank_environment
mpirun=()
while [ "$1" != -- ]; do mpirun+=("$1") && shift; done
shift
for name in $(compgen -e); do
  case $name in EMOE_* | OMP_* | NCCL_* | UCX_* | PATH | LD_LIBRARY_PATH) mpirun+=(-x "$name") ;; esac
done
# mpirun ends its ranks at a SIGTERM, but hands SIGUSR1 on to them: they checkpoint and leave with 75.
# Before all of them can hear it there is nothing to save.
stop() {
  if [ "$(ls rank_*.start 2>/dev/null | wc -l)" -ge "$EMOE_RANKS" ]; then kill -USR1 "$step"; else kill -TERM "$step"; fi
}
step='' asked=''
trap 'asked=yes; if [ -n "$step" ]; then stop; fi' TERM INT
# Prometheus finds a rank by the address of its pod, which the rank's host name is not.
"${mpirun[@]}" -n "$EMOE_RANKS" bash -c '
  address=$(hostname -i 2>/dev/null | cut -d" " -f1)
  case $address in "") address=0.0.0.0 ;; *:*) address="[$address]" ;; esac
  export EMOE_METRICS_LISTEN="${EMOE_METRICS_LISTEN:-$address:0}"
  exec "$@"' emoe-rank "$@" &
step=$!
if [ -n "$asked" ]; then stop; fi
wait "$step"
code=$?
while kill -0 "$step" 2>/dev/null; do # a signal interrupted the wait
  wait "$step"
  code=$?
done
echo "$code" >kubernetes_exit
exec >&- 2>&-
wait "$log"
exit "$code"
)script";
}

}  // namespace emoe::launcher
