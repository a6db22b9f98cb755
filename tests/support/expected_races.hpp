#pragma once

/// @file
/// Races that a test provokes on purpose: counted, not reported. Include in one unit of a test.

#if defined(__SANITIZE_THREAD__)
#define DPGATHER_TEST_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define DPGATHER_TEST_TSAN 1
#endif
#endif
#if !defined(DPGATHER_TEST_TSAN)
#define DPGATHER_TEST_TSAN 0
#endif

namespace test_support {

/// While one lives, ThreadSanitizer's reports are counted instead.
class expected_races {
public:
  static constexpr bool can_be_seen = DPGATHER_TEST_TSAN != 0;

  expected_races() { __atomic_add_fetch(&living, 1, __ATOMIC_SEQ_CST); }
  expected_races(const expected_races&) = delete;
  expected_races& operator=(const expected_races&) = delete;
  ~expected_races() { __atomic_sub_fetch(&living, 1, __ATOMIC_SEQ_CST); }

  /// So far, in the whole process.
  [[nodiscard]] static int count() { return __atomic_load_n(&seen, __ATOMIC_SEQ_CST); }

  // Asked in the middle of a report: nothing here may be instrumented.
  __attribute__((no_sanitize("thread"))) static bool keep() noexcept {
    if (__atomic_load_n(&living, __ATOMIC_SEQ_CST) == 0) return false;
    __atomic_add_fetch(&seen, 1, __ATOMIC_SEQ_CST);
    return true;
  }

private:
  static inline int living = 0, seen = 0;
};

} // namespace test_support

#if DPGATHER_TEST_TSAN
// The sanitizer's runtime asks this before it reports; true keeps the report to ourselves.
namespace __tsan {
struct ReportDesc;
bool OnReport(const ReportDesc*, bool suppressed);
__attribute__((no_sanitize("thread"))) bool OnReport(const ReportDesc*, bool suppressed) {
  return test_support::expected_races::keep() || suppressed;
}
} // namespace __tsan
#endif
