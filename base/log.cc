#include "base/log.h"

#include <spdlog/pattern_formatter.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

namespace emoe {
namespace {

spdlog::level::level_enum to_spdlog(LogLevel level) {
  constexpr spdlog::level::level_enum kLevels[] = {spdlog::level::debug, spdlog::level::info,
                                                   spdlog::level::warn, spdlog::level::err};
  return kLevels[static_cast<int>(level)];
}

}  // namespace

void init_logging(const std::string& name, LogLevel level) {
  auto logger = spdlog::default_logger();
  logger->sinks() = {std::make_shared<spdlog::sinks::stderr_sink_mt>()};
  logger->set_level(to_spdlog(level));
  logger->set_formatter(std::make_unique<spdlog::pattern_formatter>(
      "%Y-%m-%dT%H:%M:%S.%eZ %l " + name + " pid=%P: %v", spdlog::pattern_time_type::utc));
  logger->flush_on(spdlog::level::info);
}

void log(LogLevel level, std::string_view text) {
  spdlog::default_logger_raw()->log(to_spdlog(level),
                                    spdlog::string_view_t(text.data(), text.size()));
}

}  // namespace emoe
