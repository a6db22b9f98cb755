// The one sentence that a C++17 unit gets, and not a second error after it.
// flags: -std=c++17
// positive-control: -std=c++20
// expect: dpgather needs C++20: compile this unit with -std=c++20
// expect-count: 1
#include <dpgather/dpgather.hpp>
