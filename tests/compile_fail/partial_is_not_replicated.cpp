// Who still owes a sum is part of a view's type: neither becomes the other.
// positive-control: -DOK
// expect: partial
// expect-count: 2
#include <dpgather/tensor.hpp>

void final_rows(const dpgather::token_rows<dpgather::replicated>&);
void owed_rows(const dpgather::token_rows<dpgather::partial>&);

void step(const dpgather::token_rows<dpgather::replicated>& final,
          const dpgather::token_rows<dpgather::partial>& owed) {
#ifdef OK
  final_rows(final);
  owed_rows(owed);
#else
  final_rows(owed);
  owed_rows(final);
#endif
}
