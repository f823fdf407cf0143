#include "base/version.h"

namespace emoe {

const char* version() {
  return EMOE_VERSION;
}

}  // namespace emoe
