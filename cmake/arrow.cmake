# Arrow and Parquet out of PyPI's pyarrow, where it is in the environment that has LibTorch: EMOE_PARQUET_LIBRARY and
# EMOE_ARROW_LIBRARY, else empty. The set-up for tests installs it; for others "build/python/bin/pip install pyarrow".
set(EMOE_ARROW_DIR "${EMOE_SITE_PACKAGES}/pyarrow")
file(GLOB EMOE_PARQUET_LIBRARY "${EMOE_ARROW_DIR}/libparquet.so.*")
file(GLOB EMOE_ARROW_LIBRARY "${EMOE_ARROW_DIR}/libarrow.so.*")
if(EMOE_PARQUET_LIBRARY)
  message(STATUS "Parquet: ${EMOE_PARQUET_LIBRARY}")
else()
  message(STATUS "Parquet: no pyarrow in ${EMOE_SITE_PACKAGES}; .parquet files will be refused")
endif()
