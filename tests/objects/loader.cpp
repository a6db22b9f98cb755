// Loads shared objects that embed the library and calls each twice, in turn: kernels of the one
// must not answer for those of the other.
#include <dlfcn.h>

#include <cstdio>

int main(int argc, char** argv) {
  int (*entries[8])(int) = {};
  for (int i = 1; i < argc && i < 8; ++i) {
    void* const module = dlopen(argv[i], RTLD_NOW | RTLD_GLOBAL);
    if (module == nullptr) {
      std::puts(dlerror());
      return 2;
    }
    entries[i] = reinterpret_cast<int (*)(int)>(dlsym(module, "entry"));
    if (entries[i] == nullptr) return 2;
  }
  for (int round = 0; round < 2; ++round) {
    for (int i = 1; i < argc && i < 8; ++i) {
      const int result = entries[i](100 * i + round);
      if (result != 0) {
        std::printf("module %d answers %d\n", i, result);
        return result;
      }
    }
  }
  return 0;
}
