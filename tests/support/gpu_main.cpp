// The same for tests with kernels: without a GPU they are skipped, which ctest shows, never passed.
#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include <cstdio>

bool has_gpu(); // has_gpu.cu: this file stays away from nvcc, which takes 19 s for doctest

int main(int argc, char** argv) {
  if (!has_gpu()) {
    std::puts("skipped: no GPU");
    return 77;
  }
  return doctest::Context{argc, argv}.run();
}
