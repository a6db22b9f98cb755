// Loads both modules into one process, symbols visible to each other, and asks each of them before
// and after the other has worked.
#include <dlfcn.h>

#include <cstdint>
#include <cstdio>

namespace {

using probe_function = std::int64_t(std::int32_t);

probe_function* load(const char* path) {
  void* const module = dlopen(path, RTLD_NOW | RTLD_GLOBAL);
  if (module == nullptr) {
    std::puts(dlerror());
    return nullptr;
  }
  return reinterpret_cast<probe_function*>(dlsym(module, "probe"));
}

} // namespace

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  probe_function* const one = load(argv[1]);
  if (one == nullptr) return 1;
  const std::int64_t alone = one(16);
  const std::int64_t refused = one(8);

  probe_function* const two = load(argv[2]);
  if (two == nullptr || two == one) return 1;
  const bool same = two(16) == alone && two(8) == refused && one(16) == alone && one(8) == refused;
  if (alone != 12 || refused >= 0 || !same) {
    std::puts("two modules of one process disagree");
    return 1;
  }
  return 0;
}
