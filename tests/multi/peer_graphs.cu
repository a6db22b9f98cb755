// Graphs captured before any count is known, replayed for random splits over NVLink without a
// barrier between replays: every byte is looked at by the graph itself.
#include <support/peer_engine.cuh>

#include <doctest/doctest.h>

namespace dg = dpgather;

namespace test_support {

struct peer_exact : dg::rebind_comm<dg::exact_graph, dg::comm::peer> {};
struct peer_slots : dg::policy<dg::mode::exact, dg::padding::max_len, dg::layout::slots,
                               dg::lookup::max, dg::ladder::from_config, dg::comm::peer> {};
struct peer_all_gather : dg::policy<dg::mode::all_gather, dg::padding::max_len, dg::lookup::max,
                                    dg::ladder::from_config, dg::comm::peer> {};
struct peer_device : dg::policy<dg::mode::exact, dg::counts::device, dg::layout::packed,
                                dg::lookup::own, dg::ladder::from_config, dg::comm::peer> {};
struct peer_exchanged : dg::policy<dg::mode::exact, dg::counts::exchanged, dg::layout::packed,
                                   dg::lookup::own, dg::ladder::from_config, dg::comm::peer> {};

} // namespace test_support

TEST_CASE_TEMPLATE("one graph serves every split", Policy, test_support::peer_exact,
                   test_support::peer_slots, test_support::peer_all_gather,
                   test_support::peer_device, test_support::peer_exchanged) {
  for (const dg::topology& shape :
       {dg::topology{.dp_size = 2}, dg::topology{.dp_size = 1, .tp_size = 2}}) {
    CAPTURE(shape.dp_size);
    test_support::replay_peer_graphs<Policy>(shape, 500, 2);
  }
}
