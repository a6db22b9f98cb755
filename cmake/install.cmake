# `cmake --install` and `find_package(dpgather 0.1 CONFIG)`.
if(NOT DPGATHER_INSTALL)
  return()
endif()
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

# Header-only, hence share/ and a version file that fits every architecture.
set(_package_dir "${CMAKE_INSTALL_DATADIR}/cmake/dpgather")

install(TARGETS dpgather EXPORT dpgather_targets FILE_SET HEADERS)
install(EXPORT dpgather_targets NAMESPACE dpgather:: FILE dpgather-targets.cmake
        DESTINATION "${_package_dir}")

configure_package_config_file(cmake/dpgather-config.cmake.in dpgather-config.cmake
                              INSTALL_DESTINATION "${_package_dir}")
write_basic_package_version_file(dpgather-config-version.cmake COMPATIBILITY SameMinorVersion
                                 ARCH_INDEPENDENT)
install(FILES "${CMAKE_CURRENT_BINARY_DIR}/dpgather-config.cmake"
              "${CMAKE_CURRENT_BINARY_DIR}/dpgather-config-version.cmake"
              cmake/cuda_cxx20.cmake cmake/FindNCCL.cmake
        DESTINATION "${_package_dir}")
unset(_package_dir)
