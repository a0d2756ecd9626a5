# What `cmake --install` puts where (GNU layout), and the .deb that CPack makes of it. Manual pages and completions are
# written by the programs themselves when everything is built.
include(GNUInstallDirs)
set(MULL_LIBDIR ${CMAKE_INSTALL_LIBDIR}/mull)

install(TARGETS mull-engine RUNTIME)
if(NOT MULL_ENGINE_ONLY)
  install(TARGETS mull mull-scheduler mull-worker mull-sim RUNTIME)
endif()
# Arrow's libraries come along when they are not the system's; the engine finds them beside itself.
if(MULL_HAVE_PARQUET AND IS_DIRECTORY "${parquet_from}")
  install(FILES ${arrow_so} ${parquet_so} DESTINATION ${MULL_LIBDIR})
  set_target_properties(mull-engine PROPERTIES INSTALL_RPATH "$ORIGIN/../${MULL_LIBDIR}")
endif()

# mull_page(NAME SECTION PROGRAM COMMAND...): a manual page from a program's own words; it must have been built.
set(MULL_PAGES "")
function(mull_page name section program)
  set(page ${CMAKE_BINARY_DIR}/man/${name}.${section})
  set(from ${program})
  if(NOT name STREQUAL mull) # that one's words are all in its tables
    list(APPEND from ${page_of} ${CMAKE_SOURCE_DIR}/ops/man/${name}.${section}.tail)
  endif()
  add_custom_command(OUTPUT ${page}
    COMMAND sh -c "\"$@\" >${page}.new && mv ${page}.new ${page}" page ${ARGN}
    DEPENDS ${from} VERBATIM)
  install(FILES ${page} DESTINATION ${CMAKE_INSTALL_MANDIR}/man${section})
  set(MULL_PAGES ${MULL_PAGES} ${page} PARENT_SCOPE)
endfunction()
function(mull_completion shell file folder)
  set(out ${CMAKE_BINARY_DIR}/completions/${file})
  add_custom_command(OUTPUT ${out} COMMAND sh -c "\"$1\" completion ${shell} >${out}" completion $<TARGET_FILE:mull>
    DEPENDS mull VERBATIM)
  install(FILES ${out} DESTINATION ${CMAKE_INSTALL_DATADIR}/${folder})
  set(MULL_PAGES ${MULL_PAGES} ${out} PARENT_SCOPE)
endfunction()
file(MAKE_DIRECTORY ${CMAKE_BINARY_DIR}/man ${CMAKE_BINARY_DIR}/completions)
set(page_of ${CMAKE_SOURCE_DIR}/ops/man/page)
set(stamp ${PROJECT_VERSION} ${MULL_RELEASED})
mull_page(mull-engine 1 mull-engine ${page_of} $<TARGET_FILE:mull-engine> 1 ${stamp})
if(NOT MULL_ENGINE_ONLY)
  mull_page(mull 1 mull $<TARGET_FILE:mull> man)
  mull_page(mull-sim 1 mull-sim ${page_of} $<TARGET_FILE:mull-sim> 1 ${stamp})
  mull_page(mull-scheduler 8 mull-scheduler ${page_of} $<TARGET_FILE:mull-scheduler> 8 ${stamp})
  mull_page(mull-worker 8 mull-worker ${page_of} $<TARGET_FILE:mull-worker> 8 ${stamp})
  mull_completion(bash mull bash-completion/completions)
  mull_completion(zsh _mull zsh/vendor-completions)
  mull_completion(fish mull.fish fish/vendor_completions.d)
endif()
# Not from instrumented programs: those are for tests.
if(NOT MULL_SANITIZE AND NOT MULL_FUZZ)
  set(in_all ALL)
endif()
add_custom_target(mull_pages ${in_all} DEPENDS ${MULL_PAGES})

install(DIRECTORY ops/configs ops/monitor ops/kubernetes DESTINATION ${CMAKE_INSTALL_DATADIR}/mull)
install(PROGRAMS ops/elastic/slurm ops/elastic/kubernetes DESTINATION ${CMAKE_INSTALL_DATADIR}/mull/elastic)
install(FILES ops/install.md ops/elastic.md ops/webhooks.md ops/backup.md ops/runbook.md ops/capacity.md DESTINATION ${CMAKE_INSTALL_DOCDIR})
install(FILES README.md DESTINATION ${CMAKE_INSTALL_DOCDIR})
if(NOT MULL_ENGINE_ONLY)
  install(PROGRAMS ops/backup DESTINATION ${CMAKE_INSTALL_BINDIR} RENAME mull-backup)
  install(PROGRAMS ops/restore DESTINATION ${CMAKE_INSTALL_BINDIR} RENAME mull-restore)
  install(FILES ops/systemd/mull-retain.timer DESTINATION lib/systemd/system)
  foreach(unit mull-scheduler.service mull-worker@.service mull-retain.service)
    # The prefix is known when things are installed: cmake --install --prefix and CPack may give another.
    install(CODE "set(MULL_BINDIR \${CMAKE_INSTALL_PREFIX}/${CMAKE_INSTALL_BINDIR})
      configure_file(${CMAKE_SOURCE_DIR}/ops/systemd/${unit}.in ${CMAKE_BINARY_DIR}/systemd/${unit} @ONLY)")
    install(FILES ${CMAKE_BINARY_DIR}/systemd/${unit} DESTINATION lib/systemd/system)
  endforeach()
  install(FILES ops/systemd/mull.sysusers DESTINATION lib/sysusers.d RENAME mull.conf)
  install(FILES ops/systemd/scheduler.env ops/systemd/worker.env ops/systemd/redis-mull.conf
    DESTINATION ${CMAKE_INSTALL_DATADIR}/mull/examples)
endif()

# The package: cpack -G DEB in the build folder, after configuring with CMAKE_INSTALL_PREFIX=/usr.
set(CPACK_GENERATOR DEB)
set(CPACK_PACKAGE_NAME mull)
set(CPACK_PACKAGE_VERSION ${PROJECT_VERSION})
set(CPACK_PACKAGE_CONTACT "mull maintainers <mull@localhost>")
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "train, evaluate and serve Qwen2.5-VL with Mull tokens through a queue")
set(CPACK_PACKAGE_DESCRIPTION "A batch system for vision-language models: an engine that computes, a worker
on each machine, a scheduler with an HTTP front door, and one command, mull.
PostgreSQL holds the truth and Redis moves it.")
set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
set(CPACK_STRIP_FILES ON)
set(CPACK_INSTALL_DEFAULT_DIRECTORY_PERMISSIONS
  OWNER_READ OWNER_WRITE OWNER_EXECUTE GROUP_READ GROUP_EXECUTE WORLD_READ WORLD_EXECUTE)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_SECTION science)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_PACKAGE_RECOMMENDS "redis-server, postgresql")
set(CPACK_DEBIAN_PACKAGE_CONTROL_EXTRA "${CMAKE_SOURCE_DIR}/ops/deb/postinst;${CMAKE_SOURCE_DIR}/ops/deb/postrm")
set(CPACK_DEBIAN_PACKAGE_CONTROL_STRICT_PERMISSION ON)
# Debian wants a copyright file, a compressed changelog and compressed manual pages; elsewhere nobody does.
configure_file(ops/deb/finish.cmake.in ${CMAKE_BINARY_DIR}/deb-finish.cmake @ONLY)
set(CPACK_PRE_BUILD_SCRIPTS ${CMAKE_BINARY_DIR}/deb-finish.cmake)
include(CPack)
