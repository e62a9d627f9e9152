# The package: headers, targets, and the config that finds what they need. The build folder is a package too (set dapt_DIR to it).
include(CMakePackageConfigHelpers)
set(package_folder "${CMAKE_INSTALL_LIBDIR}/cmake/dapt")
set(package_files
  "${CMAKE_CURRENT_LIST_DIR}/dapt_dependencies.cmake" "${CMAKE_CURRENT_LIST_DIR}/dapt_libtorch.cmake" "${CMAKE_CURRENT_LIST_DIR}/dapt_cuda.cmake")

configure_package_config_file("${CMAKE_CURRENT_LIST_DIR}/dapt-config.cmake.in" "${PROJECT_BINARY_DIR}/dapt-config.cmake"
                              INSTALL_DESTINATION ${package_folder} NO_SET_AND_CHECK_MACRO)
# Before 1.0 a minor version may break users.
write_basic_package_version_file("${PROJECT_BINARY_DIR}/dapt-config-version.cmake" COMPATIBILITY SameMinorVersion ARCH_INDEPENDENT)

install(TARGETS dapt_headers EXPORT dapt-targets FILE_SET HEADERS DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(DIRECTORY "${PROJECT_SOURCE_DIR}/include/dapt/kernels/cuda" DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}/dapt/kernels" FILES_MATCHING PATTERN "*.cu" PATTERN "*.cuh")
install(EXPORT dapt-targets NAMESPACE dapt:: DESTINATION ${package_folder})
install(FILES "${PROJECT_BINARY_DIR}/dapt-config.cmake" "${PROJECT_BINARY_DIR}/dapt-config-version.cmake" ${package_files} DESTINATION ${package_folder})
install(FILES "${PROJECT_SOURCE_DIR}/LICENSE" DESTINATION ${CMAKE_INSTALL_DOCDIR})

export(EXPORT dapt-targets NAMESPACE dapt:: FILE "${PROJECT_BINARY_DIR}/dapt-targets.cmake")
file(COPY ${package_files} DESTINATION "${PROJECT_BINARY_DIR}")
