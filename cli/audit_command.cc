#include <memory>

#include <CLI/CLI.hpp>

#include "cli/command.h"
#include "cli/format.h"
#include "cli/table.h"

namespace emoe::cli {
namespace {

struct AuditOptions {
  std::string filter;
  int limit = 50;
};

std::string audit_table(const v1::ListAuditEntriesResponse& all, int width) {
  Table table({{.title = "TIME"},
               {.title = "WHO"},
               {.title = "ROLE", .optional = true},
               {.title = "PROJECT", .optional = true},
               {.title = "FROM", .elastic = true},
               {.title = "CALL"},
               {.title = "JOB", .elastic = true, .optional = true},
               {.title = "RESULT"}});
  const auto cell = [](const std::string& text) { return text.empty() ? "-" : printable(text); };
  for (const v1::AuditEntry& entry : all.entries()) {
    const std::string result =
        entry.reason().empty() ? entry.code() : entry.code() + " " + entry.reason();
    table.add({time_text(entry.time()), cell(entry.principal()), cell(entry.role()),
               cell(entry.project()), cell(entry.peer()), cell(entry.method()),
               cell(entry.job_id()), cell(result)});
  }
  return table.render(width);
}

int audit(const Command& command, const AuditOptions& options, Client& client) {
  v1::ListAuditEntriesRequest request;
  request.set_filter(options.filter);
  request.set_page_size(1000);
  v1::ListAuditEntriesResponse all;
  const auto status = client.list(&v1::FineTuning::Stub::ListAuditEntries, request,
                                  &v1::ListAuditEntriesResponse::entries_size, options.limit, all);
  if (!status.ok()) return command.fail(status);
  return command.print(all, [&] {
    return audit_table(all, command.terminal.out_width) +
           (all.next_page_token().empty() ? "" : "… and more: raise --limit (0: all)\n");
  });
}

}  // namespace

void add_audit_command(CLI::App& app, Command& command) {
  const auto options = std::make_shared<AuditOptions>();
  CLI::App* audit_app =
      app.add_subcommand("audit", "Who changed what, newest first (takes the role admin)");
  audit_app->add_option(
      "--filter", options->filter,
      "Terms joined by AND: principal=ci, role=user, project=x, method=CreateJob,\n"
      "job_id=…, code=OK, reason=…");
  audit_app->add_option("--limit", options->limit, "Most entries shown; 0: all")
      ->check(not_negative())
      ->capture_default_str();
  on_call(*audit_app, command, options, audit);
}

}  // namespace emoe::cli
