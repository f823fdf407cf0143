set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
set(EMOE_BIN_DIR "${CMAKE_BINARY_DIR}/bin" CACHE PATH "where the programs go")
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY "${EMOE_BIN_DIR}")
if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release)
endif()

option(EMOE_BUILD_TESTS "Build the tests" ON)
option(EMOE_BUILD_BENCH "Build the benchmarks" ON)
set(EMOE_SANITIZE "" CACHE STRING "address (with undefined), thread, fuzzer (clang), or empty")

# -O2: the time goes into LibTorch's kernels, and -O3 only lengthens builds. The assertions of the
# standard library stay on: an out-of-range index in a training run must stop it, not bend a number.
set(CMAKE_CXX_FLAGS_RELEASE "-O2")
set(CMAKE_CXX_FLAGS_DEBUG "-O0 -g")
add_compile_definitions($<$<CONFIG:Release>:_GLIBCXX_ASSERTIONS>)

find_program(EMOE_CCACHE ccache)
if(EMOE_CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  set(CMAKE_CXX_COMPILER_LAUNCHER "${EMOE_CCACHE}")
  set(CMAKE_C_COMPILER_LAUNCHER "${EMOE_CCACHE}")
endif()

set(EMOE_WARNINGS -Wall -Wextra -Werror -Wno-missing-field-initializers -Wshadow=local
    -Wnon-virtual-dtor -Woverloaded-virtual -Wimplicit-fallthrough)

if(EMOE_SANITIZE STREQUAL "address")
  add_compile_options(-fsanitize=address,undefined -fno-omit-frame-pointer -g1
                      -fno-sanitize-recover=undefined)
  add_link_options(-fsanitize=address,undefined)
elseif(EMOE_SANITIZE STREQUAL "thread")
  # Debian's protobuf and abseil are built without the sanitizer, and their headers lay out classes otherwise when they
  # see this macro (google/protobuf/map_field.h): a crash, not a report. libstdc++ is told by its own macro.
  add_compile_options(-fsanitize=thread -fno-omit-frame-pointer -g1 -U__SANITIZE_THREAD__)
  add_compile_definitions(_GLIBCXX_TSAN=1)
  add_link_options(-fsanitize=thread)
elseif(EMOE_SANITIZE STREQUAL "fuzzer")
  # clang: coverage for libFuzzer in our own code; _GLIBCXX_ASSERTIONS is on as elsewhere.
  add_compile_options(-fsanitize=fuzzer-no-link,address,undefined -fno-omit-frame-pointer -g1
                      -fno-sanitize-recover=undefined -fno-sanitize=vptr,function)
  add_link_options(-fsanitize=address,undefined)
  list(REMOVE_ITEM EMOE_WARNINGS -Werror)  # GCC's warnings count; clang has others
elseif(EMOE_SANITIZE)
  message(FATAL_ERROR "EMOE_SANITIZE=${EMOE_SANITIZE}: use address, thread, fuzzer or nothing")
endif()
