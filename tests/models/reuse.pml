/* A channel's buffers are used again and again, and no call ends with a barrier. Is a buffer ever
 * written while a peer may still read it, or read before it is written?
 *
 * Gather pushes my rows into every peer's view, fences, then publishes a flag {epoch, digest} to
 * every peer. Combine publishes the flag that says my input is written, then pulls from the inputs
 * of all peers. Either waits for the flags of all peers. A gather through low-latency lines needs
 * neither fence nor flag: each line carries its epoch, and the receiver copies it into its view.
 *
 * The rule under test (P9):
 *   - a gather that pushes into a view which the previous call used enters with a handshake, any
 *     other without;
 *   - an input may be rewritten once the call after the combine that used it has completed, so a
 *     combine takes another input than the previous call did.
 *
 *   RANKS=2 VIEWS=1 INPUTS=1 ROWS=1     ranks, gather views, combine inputs, rows per pair
 *   ALTERNATE, GATHERS_ONLY, COMBINES_ONLY      the sequence; else any mix
 *   LINES                               gathers go through lines too, in any mix
 *   SAME_INPUT=exit_handshake           combine after combine into one input: correct, at a price
 *   HANDSHAKE_WORD=own_wide             handshakes have flags of their own, whose epochs never wrap
 * Wrong on purpose:
 *   NO_HANDSHAKE                        a gather enters a view that the last call used at once
 *   SAME_INPUT=no_handshake
 *   SAME_INPUT=entry_handshake          comes too late: the FFN writes before the kernel starts
 *   RELAXED_FLAG                        a flag may overtake rows
 *   FLAG_BEFORE_DEPENDENCY_WAIT         rank 1, without rows, publishes while its view is read
 *   SLOTS=1                             one flag per source, though a peer may be one call ahead
 *   EPOCHS=2                            which compares by equality, as no number is ahead modulo 2
 *   HANDSHAKE_WORD=own                  a handshake's flag may sleep for half of all epochs
 *   LINES NO_RESTAMP                    so may a flag while calls use lines, and a line else */
#include "channel.pml"

proctype rank(byte me) {
  byte call = 0;
  byte what = NOTHING;
  byte previous;
  byte being_read = NOTHING;

  atomic { advance() }
  do
  :: IS_PUSHED(what) ->
     if
     :: NEEDS_HANDSHAKE ->
        atomic { FENCED(me) -> end_readers(); publish(ready) }
        atomic { ALL_RANKS(IS_READY) -> check_digests(ready); forget_handshake(); push_rows() }
        atomic { FENCED(me) -> publish(done) }
#ifdef FLAG_BEFORE_DEPENDENCY_WAIT
     :: !NEEDS_HANDSHAKE && !HAS_ROWS(me) ->
        atomic { FENCED(me) -> publish(done) }
        atomic { end_readers() }
#endif
     :: !NEEDS_HANDSHAKE && HAS_ROWS(me) ->
        atomic { end_readers(); push_rows() }
        atomic { FENCED(me) -> publish(done) }
     fi;
     atomic { ALL_RANKS(IS_DONE) ->
       check_digests(done);
       begin_readers();
       spoil_inputs();
       restamp();
       advance() }
#ifdef LINES
  :: IS_LINES(what) ->
     atomic { end_readers(); send_lines() }
     atomic { ALL_RANKS(LINE_IS_HERE) ->
       copy_lines();
       begin_readers();
       spoil_inputs();
       restamp();
       advance() }
#endif
  :: IS_COMBINE(what) ->
     if
     :: SAME_INPUT == entry_handshake ->
        atomic { FENCED(me) ->
          end_readers();
          input[INPUT(me, INPUT_OF(what))] = TAG(call);
          publish(ready) }
        ALL_RANKS(IS_READY);
        atomic { FENCED(me) -> publish(done) }
     :: else ->
        atomic { FENCED(me) ->
          end_readers();
          input[INPUT(me, INPUT_OF(what))] = TAG(call);
          publish(done) }
     fi;
     atomic { ALL_RANKS(IS_DONE) -> check_digests(done); check_inputs() }
     if
     :: SAME_INPUT == exit_handshake ->
        atomic { FENCED(me) -> check_inputs(); publish(read) }
        atomic { ALL_RANKS(HAS_READ) -> spoil_inputs(); restamp(); advance() }
     :: else ->
        atomic { check_inputs(); spoil_inputs(); restamp(); advance() }
     fi
  od
}

init {
  atomic {
    start_wires();
    for (row : 0 .. RANKS - 1) { run rank(row) }
  }
}
