// Real and padded row counts are two types: neither is taken for the other.
// positive-control: -DOK
// expect: real_rows_tag
// expect: padded_rows_tag
// expect-count: 2
#include <dpgather/counts.hpp>

void pad_to(const dpgather::padded_rows&);
void announce(const dpgather::real_rows&);

void step(const dpgather::real_rows& real, const dpgather::padded_rows& padded) {
#ifdef OK
  pad_to(padded);
  announce(real);
#else
  pad_to(real);
  announce(padded);
#endif
}
