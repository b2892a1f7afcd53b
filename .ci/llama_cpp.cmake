# Read by CMake in llama-cpp-python's project(). Its llama-common, half of all that is compiled, serves llama.cpp's own
# programs, which the package does not build: this variable goes before the cache entry that asks for it.
set(LLAMA_BUILD_COMMON OFF)
