#include "base/module.h"

#include <absl/strings/str_cat.h>
#include <dlfcn.h>

namespace emoe {

Result<const void*> load_module(const Module& module) {
  std::error_code ignored;
  std::filesystem::path file =
      std::filesystem::read_symlink("/proc/self/exe", ignored).parent_path() /
      module.built.filename();
  if (!std::filesystem::exists(file, ignored)) file = module.built;
  if (!std::filesystem::exists(file, ignored)) {
    return absl::NotFoundError(absl::StrCat(file.string(), ": is not there"));
  }
  // dlmopen into the base namespace is dlopen, but the sanitizers do not forbid RTLD_DEEPBIND in
  // it; no memory crosses a module's border, so that what they fear cannot happen.
  const int flags = RTLD_NOW | RTLD_LOCAL | (module.binds_itself ? RTLD_DEEPBIND : 0);
  void* handle = ::dlmopen(LM_ID_BASE, file.c_str(), flags);
  using Entry = const void* (*)();
  const auto entry =
      handle == nullptr ? nullptr : reinterpret_cast<Entry>(::dlsym(handle, module.entry.c_str()));
  if (entry != nullptr) return entry();
  return absl::FailedPreconditionError(absl::StrCat("cannot load a module: ", ::dlerror()));
}

}  // namespace emoe
