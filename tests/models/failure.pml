/* A rank may die anywhere and any wait may time out, also while the peer is merely late. What do
 * the calls promise then (G3, G4)?
 *
 * A rank that gave up is poisoned for good, tells its peers, and only then leaves its kernel. Its
 * engine's graph goes on: kernels that do nothing zero the views, and the FFN behind them writes
 * its inputs. A call has succeeded when the host's check() finds no poison after it.
 *
 *   RANKS=2 ...              as in reuse.pml; the sequence is any mix of gather and combine
 *   TIMEOUT=any              a wait may end at any time; when_lost: only if a rank is lost
 *   NO_CRASH                 nobody dies; else one rank may
 *   LIVENESS                 search for a rank that never returns, not for wrong results
 * Wrong on purpose:
 *   TIMEOUT=never
 *   NOT_STICKY               after a failed call the next one is tried
 *   POISONED_PUBLISHES       a poisoned kernel does nothing but publish, for its peers' sake
 *   TELL=never               a late peer then sums what the FFN has overwritten
 *   TELL=after_leaving       so it may
 *   CHECK_MY_ERRORS_ONLY     and so one whose check() ignores the poison that peers told of */
#define POISON
#define IS_PEER(p) (p != me && !gone[p])
#include "channel.pml"

#define never 0
#define when_lost 1
#define any 2
#ifndef TIMEOUT
#define TIMEOUT any
#endif
#define after_leaving 1
#define before_leaving 2
#ifndef TELL
#define TELL before_leaving
#endif

hidden byte sticky_failure = 6;           /* if a rank fails call k, no rank succeeds at k + 1 */
hidden byte no_failure_without_cause = 7; /* nobody gives up unless somebody died */

bool dead[RANKS];
bool lost[RANKS]; /* dead, or has failed a call */
byte lost_at[RANKS];
byte succeeded_at[RANKS];
bool gone[RANKS]; /* is dead or has returned from its last call: nothing happens there any more */

#if RANKS == 2
#define ANY_RANK(holds) (holds(0) || holds(1))
#else
#define ANY_RANK(holds) (holds(0) || holds(1) || holds(2))
#endif
#define IS_DEAD(p) dead[p]
#define IS_LOST(p) lost[p]
#define IS_GONE(p) gone[p]

/* How else than with holds(p) for all peers p a wait may end. */
#define ENDS_WITHOUT(holds) \
  (poison[me] || (!ALL_RANKS(holds) && \
                  (TIMEOUT == any || (TIMEOUT == when_lost && ANY_RANK(IS_LOST)))))

#ifdef CHECK_MY_ERRORS_ONLY
#define CHECK_FAILS false
#else
#define CHECK_FAILS poison[me]
#endif

inline succeed() {
  for EACH_PEER {
    PROPERTY(sticky_failure, !lost[peer] || NEXT(lost_at[peer]) != call)
  }
  succeeded_at[me] = call
}
inline be_lost() {
  if
  :: lost[me]
  :: else ->
     lost[me] = true;
     lost_at[me] = call;
     for EACH_PEER {
       PROPERTY(sticky_failure, succeeded_at[peer] != NEXT(call))
     }
  fi
}
inline tell() {
  for EACH_PEER {
    if
    :: IS_PEER(peer) && TELL != never ->
       poison_in_flight[PAIR(peer, me)] = true;
       flags_under_way[me]++
    :: else
    fi
  }
}
inline see_inputs() {
  for EACH_PEER { right = right && input[INPUT(peer, INPUT_OF(what))] == TAG(call) }
}
/* What reaches a rank that is gone makes no difference, so it counts as arrived: fewer states. */
inline go() {
  gone[me] = true;
  at_call[me] = NO_CALL;
  poison[me] = false;
  for EACH_PEER {
    if
    :: flag_in_flight[PAIR(me, peer)] -> lose_flag(me, peer)
    :: else
    fi;
    if
    :: poison_in_flight[PAIR(me, peer)] ->
       poison_in_flight[PAIR(me, peer)] = false;
       flags_under_way[peer]--
    :: else
    fi;
    for (row : 0 .. VIEWS - 1) {
      view[ROW(me, row, peer, 0)] = EMPTY;
      if
      :: row_in_flight[ROW(me, row, peer, 0)] != EMPTY ->
         row_in_flight[ROW(me, row, peer, 0)] = EMPTY;
         rows_under_way[peer]--
      :: else
      fi
    }
    for (row : 0 .. SLOTS - 1) {
      flag[SLOT_PAIR(me, row, peer)] = 0;
      digest[SLOT_PAIR(me, row, peer)] = NOTHING
    }
  }
  call = 0;
  what = NOTHING;
  previous = NOTHING;
  being_read = NOTHING;
  right = false
}
/* What the rest of a graph does behind a kernel that failed. */
inline go_on_blindly() {
  for (row : 0 .. INPUTS - 1) { input[INPUT(me, row)] = EMPTY }
}

proctype rank(byte me) {
  byte call = 0;
  byte what = NOTHING;
  byte previous;
  byte being_read = NOTHING;
  bool right;

  {
    atomic { succeeded_at[me] = NO_CALL; advance() }
again:
    do
    :: poison[me] -> goto give_up
    :: !poison[me] && IS_PUSHED(what) ->
       if
       :: NEEDS_HANDSHAKE ->
          atomic { FENCED(me) -> end_readers(); publish(ready) }
          if
          :: atomic { ALL_RANKS(IS_READY) -> push_rows() }
          :: ENDS_WITHOUT(IS_READY) -> goto give_up
          fi
       :: else ->
          atomic { end_readers(); push_rows() }
       fi;
       atomic { FENCED(me) -> publish(done) }
       if
       :: atomic { ALL_RANKS(IS_DONE) && !CHECK_FAILS ->
            succeed();
            begin_readers();
            spoil_inputs();
            advance() }
       :: ENDS_WITHOUT(IS_DONE) -> goto give_up
       fi
    :: !poison[me] && IS_COMBINE(what) ->
       atomic { FENCED(me) ->
         end_readers();
         input[INPUT(me, INPUT_OF(what))] = TAG(call);
         publish(done) }
       /* Reads inputs as early, and again as late, as the kernel can. */
       if
       :: atomic { ALL_RANKS(IS_DONE) -> right = true; see_inputs() }
       :: ENDS_WITHOUT(IS_DONE) -> goto give_up
       fi;
       atomic {
         see_inputs();
         if
         :: CHECK_FAILS -> right = false; goto give_up
         :: else ->
            succeed();
            PROPERTY(right_inputs_combined, right);
            right = false
         fi;
         spoil_inputs();
         advance()
       }
    od;

give_up:
#ifdef NOT_STICKY
    atomic { be_lost(); advance(); goto again }
#endif
    atomic {
      poison[me] = true;
      be_lost();
      PROPERTY(no_failure_without_cause, TIMEOUT == any || ANY_RANK(IS_DEAD));
      tell() }
    if
    :: TELL == before_leaving -> FENCED(me)
    :: else
    fi;
    atomic { go_on_blindly() }
#ifdef POISONED_PUBLISHES
    atomic { FENCED(me) -> advance(); publish(done) }
#endif
    atomic { go() }
  } unless {
    atomic { dead[me] -> be_lost(); go() }
  }
}

/* Kills one rank, or none. Which one makes no difference: ranks differ by their numbers only. */
proctype reaper() {
#ifdef NO_CRASH
  skip
#else
  if
  :: dead[0] = true
  :: skip
  fi
#endif
}

init {
  atomic {
    start_wires();
    for (row : 0 .. RANKS - 1) { run rank(row) }
    run reaper()
  }
}

#ifdef LIVENESS
ltl every_call_returns { [] (ANY_RANK(IS_LOST) -> <> ALL_RANKS(IS_GONE)) }
#endif
