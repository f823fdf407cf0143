// The C++ side of bench/service.py: clients that cost less than the service, what it is compared with,
// and a database of a million jobs.
#include "bench/service_bench.h"

#include <iostream>

int main(int argc, char** argv) {
  CLI::App app{"what bench/service.py runs"};
  app.require_subcommand(1);
  emoe::bench::add_calls(app);
  emoe::bench::add_streams(app);
  emoe::bench::add_database(app);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error);
  } catch (const std::exception& error) {
    std::cerr << error.what() << "\n";
    return 1;
  }
  return 0;
}
