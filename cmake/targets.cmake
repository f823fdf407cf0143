# A source costs a second or two of its own, and two to ten for the headers it includes; so sources are compiled in batches:
# files that include some of SRCS one after another. Batches are bounded, so that a change of one file is compiled in a few
# seconds. For the sources it means that names in anonymous namespaces are unique within a target. Whether each includes
# what it uses is seen by clang-tidy, which gets them one by one (preset lint).
set(EMOE_BATCH_BYTES 30000 CACHE STRING "sources compiled together, up to about so many bytes; 0: each by itself")
# A class may have members of types of its source's anonymous namespace; in a batch GCC takes the source for a header.
set(EMOE_BATCH_WARNINGS -Wno-subobject-linkage)

# _emoe_batches(OUT NAME TORCH FILE…): sets OUT to what is to be compiled for FILEs of the target NAME: batches of about
# equal size, in the order given. Code with tensors (TORCH is true) takes twice the time.
function(_emoe_batches out name torch)
  set(${out} "${ARGN}" PARENT_SCOPE)
  if(EMOE_BATCH_BYTES EQUAL 0)
    return()
  endif()
  set(total 0)
  foreach(source IN LISTS ARGN)
    file(SIZE "${CMAKE_CURRENT_SOURCE_DIR}/${source}" size)
    math(EXPR total "${total} + ${size}")
  endforeach()
  set(most ${EMOE_BATCH_BYTES})
  if(torch)
    math(EXPR most "${most} / 2")
  endif()
  math(EXPR share "${total} / (${total} / ${most} + 1)")
  file(RELATIVE_PATH folder "${CMAKE_SOURCE_DIR}" "${CMAKE_CURRENT_SOURCE_DIR}")
  set(done 0)
  set(batches "")
  foreach(source IN LISTS ARGN)
    file(SIZE "${CMAKE_CURRENT_SOURCE_DIR}/${source}" size)
    math(EXPR number "(${done} + ${size} / 2) / ${share}")  # by where the file's middle lies
    math(EXPR done "${done} + ${size}")
    list(APPEND batch_${number} "${source}")
    list(APPEND batches ${number})
  endforeach()
  list(REMOVE_DUPLICATES batches)
  set(compiled "")
  foreach(number IN LISTS batches)
    list(LENGTH batch_${number} length)
    if(length EQUAL 1)
      list(APPEND compiled "${batch_${number}}")
      continue()
    endif()
    list(TRANSFORM batch_${number} REPLACE "(.+)" "#include \"${folder}/\\1\"\n")
    string(CONCAT text ${batch_${number}})
    set(file "${CMAKE_CURRENT_BINARY_DIR}/${name}_${number}.cc")
    file(CONFIGURE OUTPUT "${file}" CONTENT "${text}" @ONLY)
    list(APPEND compiled "${file}")
  endforeach()
  set(${out} "${compiled}" PARENT_SCOPE)
endfunction()

# emoe_library(NAME SRCS a.cc … DEPS x …)  static library emoe_NAME with the alias emoe::NAME.
# NAME is the folder's path with '_' for '/'. A TORCH library uses the shared precompiled header.
# ALONE: sources that are compiled by themselves, because they have flags or third-party headers of their own.
function(emoe_library name)
  cmake_parse_arguments(arg "TORCH" "" "SRCS;ALONE;DEPS" ${ARGN})
  _emoe_batches(sources ${name} "${arg_TORCH}" ${arg_SRCS})
  add_library(emoe_${name} STATIC ${sources} ${arg_ALONE})
  add_library(emoe::${name} ALIAS emoe_${name})
  _emoe_settings(emoe_${name} "${arg_TORCH}")
  target_compile_options(emoe_${name} PRIVATE ${EMOE_BATCH_WARNINGS})
  target_link_libraries(emoe_${name} PUBLIC ${arg_DEPS})
endfunction()

# emoe_program(NAME SRCS … DEPS … [TOOL])  an executable in build/bin; the target `programs` (make build) makes all but
# the tools of developers.
add_custom_target(programs)
function(emoe_program name)
  cmake_parse_arguments(arg "TORCH;TOOL" "" "SRCS;DEPS" ${ARGN})
  _emoe_batches(sources ${name} "${arg_TORCH}" ${arg_SRCS})
  add_executable(${name} ${sources})
  _emoe_settings(${name} "${arg_TORCH}")
  target_compile_options(${name} PRIVATE ${EMOE_BATCH_WARNINGS})
  target_link_libraries(${name} PRIVATE ${arg_DEPS})
  if(NOT arg_TOOL)
    add_dependencies(programs ${name})
  endif()
endfunction()

# emoe_test(NAME SRCS … DEPS … [LABELS unit|integration|dist|reference|fault|end_to_end …]
#           [RANKS n …] [TIMEOUT seconds] [TORCH] [NO_MAIN] [AVX2])
# One GoogleTest program, registered with ctest once, or once per rank count under mpirun.
# AVX2: where numbers depend on the instruction set, the test runs a second time, as NAME.avx2, as on a CPU without AVX-512.
# A program whose tests all skip exits with 77 (tests/support/test_main.cc), which ctest shows as skipped. The environment
# every test gets is set in _emoe_test_properties; sanitizers get four times the time.
function(emoe_test name)
  cmake_parse_arguments(arg "TORCH;NO_MAIN;AVX2" "TIMEOUT" "SRCS;DEPS;LABELS;RANKS" ${ARGN})
  if(NOT arg_TIMEOUT)
    set(arg_TIMEOUT 60)
  endif()
  add_executable(${name} ${arg_SRCS})
  _emoe_settings(${name} "${arg_TORCH}")
  target_link_libraries(${name} PRIVATE ${arg_DEPS} GTest::gtest)
  if(NOT arg_NO_MAIN)
    target_link_libraries(${name} PRIVATE emoe_test_main)
  endif()
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY "${CMAKE_BINARY_DIR}/tests")
  if(arg_RANKS)
    foreach(ranks ${arg_RANKS})
      add_test(NAME ${name}.${ranks} COMMAND ${EMOE_MPIRUN} -n ${ranks} $<TARGET_FILE:${name}>)
      _emoe_test_properties(${name}.${ranks} "${arg_LABELS}" ${arg_TIMEOUT} ${ranks} 0)
    endforeach()
  else()
    add_test(NAME ${name} COMMAND ${name})
    _emoe_test_properties(${name} "${arg_LABELS}" ${arg_TIMEOUT} 1 1)
    if(arg_AVX2)
      add_test(NAME ${name}.avx2 COMMAND ${EMOE_WITH_AVX2} $<TARGET_FILE:${name}>)
      _emoe_test_properties(${name}.avx2 "${arg_LABELS}" ${arg_TIMEOUT} 1 1)
    endif()
  endif()
endfunction()
set(EMOE_WITH_AVX2 "${CMAKE_SOURCE_DIR}/tests/support/with_avx2.sh")

# emoe_script_test(NAME COMMAND … [LABELS …] [TIMEOUT s] [PROCESSORS n] [AVX2])  a test that is a command.
function(emoe_script_test name)
  cmake_parse_arguments(arg "AVX2" "TIMEOUT;PROCESSORS" "COMMAND;LABELS" ${ARGN})
  if(NOT arg_TIMEOUT)
    set(arg_TIMEOUT 120)
  endif()
  if(NOT arg_PROCESSORS)
    set(arg_PROCESSORS 1)
  endif()
  add_test(NAME ${name} COMMAND ${arg_COMMAND})
  _emoe_test_properties(${name} "${arg_LABELS}" ${arg_TIMEOUT} ${arg_PROCESSORS} 0)
  if(arg_AVX2)
    add_test(NAME ${name}.avx2 COMMAND ${EMOE_WITH_AVX2} ${arg_COMMAND})
    _emoe_test_properties(${name}.avx2 "${arg_LABELS}" ${arg_TIMEOUT} ${arg_PROCESSORS} 0)
  endif()
endfunction()

# mpirun as the tests start it: as root in a container, more ranks than cores allowed, no core
# binding (two tests may run at once and would be bound to the same core).
set(EMOE_MPIRUN mpirun --allow-run-as-root --oversubscribe --bind-to none)

# ASan: leaks are looked for in programs of one process only (Open MPI keeps what it allocated, in modules it has unloaded
# by then, which no suppression can name); no check of new against free, because SentencePiece's module binds its own
# operator new (RTLD_DEEPBIND, see format/sentencepiece_module.cc).
function(_emoe_test_properties test labels timeout processors leaks)
  if(EMOE_SANITIZE)
    math(EXPR timeout "${timeout} * 4")
  endif()
  set_tests_properties(${test} PROPERTIES
    ENVIRONMENT_MODIFICATION "EMOE_CACHE_DIR=unset:;PYTHONOPTIMIZE=unset:"
    LABELS "${labels}" TIMEOUT ${timeout} PROCESSORS ${processors} SKIP_RETURN_CODE 77
    ENVIRONMENT "OMP_NUM_THREADS=1;EMOE_SOURCE_DIR=${CMAKE_SOURCE_DIR};EMOE_BIN_DIR=${EMOE_BIN_DIR};EMOE_PYTHON=${EMOE_PYTHON};ASAN_OPTIONS=detect_leaks=${leaks}:alloc_dealloc_mismatch=0;TSAN_OPTIONS=suppressions=${CMAKE_SOURCE_DIR}/tests/support/tsan.supp;OMPI_MCA_rmaps_base_oversubscribe=1")
endfunction()

function(_emoe_settings target torch)
  target_include_directories(${target} PRIVATE "${CMAKE_SOURCE_DIR}")
  target_compile_options(${target} PRIVATE ${EMOE_WARNINGS})
  set_target_properties(${target} PROPERTIES CXX_VISIBILITY_PRESET hidden)
  if(torch)
    target_link_libraries(${target} PRIVATE emoe::torch)
    # A program's objects would get -fPIE, and the precompiled header is made with -fPIC.
    set_target_properties(${target} PROPERTIES POSITION_INDEPENDENT_CODE OFF)
    target_compile_options(${target} PRIVATE -fPIC)
    target_precompile_headers(${target} REUSE_FROM emoe_torch_pch)
  endif()
endfunction()

# The one precompiled header of all code that sees tensors: ATen and autograd cost 8 s a file otherwise.
function(emoe_torch_precompiled_header header source)
  add_library(emoe_torch_pch STATIC ${source})
  _emoe_settings(emoe_torch_pch "")
  target_link_libraries(emoe_torch_pch PUBLIC emoe::torch)
  target_precompile_headers(emoe_torch_pch PRIVATE ${header})
endfunction()
