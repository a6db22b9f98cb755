// The same for tests with kernels: without as many GPUs as they need they are skipped, which ctest
// shows, never passed.
#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include <cstdio>

int gpu_count(); // gpu_count.cu: this file stays away from nvcc, which takes 19 s for doctest

int main(int argc, char** argv) {
  const int gpus = gpu_count();
  if (gpus < DPGATHER_TEST_GPUS) {
    std::printf("skipped: %d GPUs, needs %d\n", gpus, DPGATHER_TEST_GPUS);
    return 77;
  }
  return doctest::Context{argc, argv}.run();
}
