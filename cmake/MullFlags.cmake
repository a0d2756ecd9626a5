# Compiler flags every target of ours carries: warnings are errors, hardening in release,
# sanitizers on request. Kernels that need wider instructions set them per file.
add_library(mull_flags INTERFACE)
target_compile_definitions(mull_flags INTERFACE _GNU_SOURCE MULL_VERSION="${PROJECT_VERSION}")
target_include_directories(mull_flags INTERFACE ${CMAKE_SOURCE_DIR})
target_compile_options(mull_flags INTERFACE
  $<$<COMPILE_LANGUAGE:C>:-Wall -Wextra -Werror -Wshadow -Wpointer-arith -Wstrict-prototypes
    -Wmissing-prototypes -Wwrite-strings -Wundef -Wvla -Wformat=2 -Wimplicit-fallthrough
    -Wno-missing-field-initializers -Wno-format-nonliteral>
  $<$<COMPILE_LANGUAGE:C>:-fno-math-errno -fno-common -fstack-protector-strong>)
if(CMAKE_BUILD_TYPE STREQUAL "Release")
  # _FORTIFY_SOURCE collides with the sanitizers' interceptors, so it is left out with them.
  if(NOT MULL_SANITIZE)
    target_compile_options(mull_flags INTERFACE $<$<COMPILE_LANGUAGE:C>:-U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=2>)
  endif()
  target_link_options(mull_flags INTERFACE -Wl,-z,relro,-z,now)
  set(CMAKE_POSITION_INDEPENDENT_CODE ON)
endif()
if(MULL_FUZZ)
  # Coverage of the code under test: without it libFuzzer sees its own harness only and mutates blindly.
  target_compile_options(mull_flags INTERFACE $<$<COMPILE_LANGUAGE:C>:-fsanitize=fuzzer-no-link>)
endif()
if(MULL_SANITIZE)
  target_compile_options(mull_flags INTERFACE
    $<$<COMPILE_LANGUAGE:C>:-fsanitize=${MULL_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all>)
  target_link_options(mull_flags INTERFACE -fsanitize=${MULL_SANITIZE})
endif()

# mull_pkg(NAME MODULES...): an imported target PkgConfig::NAME or one clear error.
macro(mull_pkg name)
  pkg_check_modules(${name} IMPORTED_TARGET ${ARGN})
  if(NOT ${name}_FOUND)
    message(FATAL_ERROR "${ARGN} not found by pkg-config: run ops/deps to install what mull needs")
  endif()
endmacro()
