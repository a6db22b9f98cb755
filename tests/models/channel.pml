/* A channel's memory on every rank, the wires between ranks, and the steps of a call.
 *
 * Time is the adversary: rows, flags and lines stay in flight for as long as no fence waits for
 * them and arrive in any order; views are read as late, and inputs spoilt as early, as the contract
 * allows. All ranks agree on what each call does; the search tries every sequence, however long.
 * See reuse.pml for the macros. */
#include "epochs.pml"

#ifndef VIEWS
#define VIEWS 1
#endif
#ifndef INPUTS
#define INPUTS 1
#endif
#ifndef ROWS
#define ROWS 1
#endif

#define other_input 0
#define no_handshake 1
#define entry_handshake 2
#define exit_handshake 3
#ifndef SAME_INPUT
#define SAME_INPUT other_input
#endif

#define shared 0
#define own 1
#define own_wide 2
#ifndef HANDSHAKE_WORD
#define HANDSHAKE_WORD shared
#endif

hidden byte right_rows_gathered = 1;   /* a gather's view holds what the peers sent in this call */
hidden byte right_inputs_combined = 2; /* a combine sums what the peers wrote for this call */
hidden byte flag_of_my_call = 3;       /* count and digest behind a reached flag are this call's */
/* What the model takes for granted, and checks: */
hidden byte one_store_per_place = 4; /* no place has two stores in flight */
hidden byte in_step = 5;             /* no two ranks are two calls apart */

/* What a call does. It serves as the call's digest. */
#define NOTHING 0
#define GATHER(v) (1 + (v))
#define GATHER_LINES(v) (1 + VIEWS + (v))
#define COMBINE(i) (1 + 2 * VIEWS + (i))
#define IS_PUSHED(what) (1 <= (what) && (what) <= VIEWS)
#define IS_LINES(what) (VIEWS < (what) && (what) <= 2 * VIEWS)
#define IS_COMBINE(what) ((what) > 2 * VIEWS)
#define VIEW_OF(what) (((what) - 1) % VIEWS)
#define INPUT_OF(what) ((what) - 1 - 2 * VIEWS)
byte plan[CALLS]; /* agreed by all ranks; NOTHING: not yet */
byte at_call[RANKS];
#define NO_CALL CALLS

/* Memory of rank `to`, written by its peers. */
#define ROW(to, v, from, row) ((((to) * VIEWS + (v)) * RANKS + (from)) * ROWS + (row))
byte view[RANKS * VIEWS * RANKS * ROWS];
#if HANDSHAKE_WORD == shared
#define WORDS SLOT_PAIRS
#define WORD(to, call, phase, from) SLOT_PAIR(to, call, from)
#else
#define WORDS (SLOT_PAIRS + RANKS * RANKS)
#define WORD(to, call, phase, from) \
  ((phase) == done -> SLOT_PAIR(to, call, from) : SLOT_PAIRS + PAIR(to, from))
#endif
byte flag[WORDS];
byte digest[WORDS];
#define NEVER 255 /* a flag that no call has reached */
#ifdef LINES
byte line_epoch[SLOT_PAIRS]; /* epoch and payload of a line arrive at once */
byte line_row[SLOT_PAIRS];
byte line_in_flight[SLOT_PAIRS];
#endif

/* Memory of rank `of`, written by its own FFN and read by its peers. */
#define INPUT(of, i) ((of) * INPUTS + (i))
byte input[RANKS * INPUTS];

/* In flight. A publication fences first, so no more than one flag per pair. */
byte row_in_flight[RANKS * VIEWS * RANKS * ROWS];
bool flag_in_flight[RANKS * RANKS];
byte call_in_flight[RANKS * RANKS];
byte phase_in_flight[RANKS * RANKS];
byte digest_in_flight[RANKS * RANKS];
byte rows_under_way[RANKS]; /* how many, by sender */
byte flags_under_way[RANKS];
#ifdef POISON
bool poison[RANKS];
bool poison_in_flight[RANKS * RANKS];
#endif
#ifdef RELAXED_FLAG
#define FENCED(from) (flags_under_way[from] == 0)
#else
#define FENCED(from) (flags_under_way[from] == 0 && rows_under_way[from] == 0)
#endif

/* The wire between two ranks keeps no order. */
#define ROW_ARRIVES(at) \
  d_step { row_in_flight[at] != EMPTY -> \
    view[at] = row_in_flight[at]; \
    row_in_flight[at] = EMPTY; \
    rows_under_way[from]-- }
#define LINE_ARRIVES(at) \
  d_step { line_in_flight[at] != EMPTY -> \
    line_epoch[at] = EPOCH(line_in_flight[at] - TAG(0)); \
    line_row[at] = line_in_flight[at]; \
    line_in_flight[at] = EMPTY; \
    rows_under_way[from]-- }
inline lose_flag(to, from) {
  flag_in_flight[PAIR(to, from)] = false;
  call_in_flight[PAIR(to, from)] = 0;
  phase_in_flight[PAIR(to, from)] = 0;
  digest_in_flight[PAIR(to, from)] = NOTHING;
  flags_under_way[from]--
}
#define SENT_TO (PAIR(to, from))
proctype wire(byte to; byte from) {
end:
  do
  :: d_step { flag_in_flight[SENT_TO] ->
       flag[WORD(to, call_in_flight[SENT_TO], phase_in_flight[SENT_TO], from)] =
         STAMP(call_in_flight[SENT_TO], phase_in_flight[SENT_TO]);
       digest[WORD(to, call_in_flight[SENT_TO], phase_in_flight[SENT_TO], from)] =
         digest_in_flight[SENT_TO];
       lose_flag(to, from) }
  :: ROW_ARRIVES(ROW(to, 0, from, 0))
#if ROWS > 1
  :: ROW_ARRIVES(ROW(to, 0, from, 1))
#endif
#if VIEWS > 1
  :: ROW_ARRIVES(ROW(to, 1, from, 0))
#if ROWS > 1
  :: ROW_ARRIVES(ROW(to, 1, from, 1))
#endif
#endif
#ifdef LINES
  :: LINE_ARRIVES(SLOT_PAIR(to, 0, from))
  :: LINE_ARRIVES(SLOT_PAIR(to, 1, from))
#endif
#ifdef POISON
  :: d_step { poison_in_flight[SENT_TO] ->
       poison[to] = true;
       poison_in_flight[SENT_TO] = false;
       flags_under_way[from]-- }
#endif
  od
}

#ifndef IS_PEER
#define IS_PEER(p) (p != me)
#endif
#ifdef FLAG_BEFORE_DEPENDENCY_WAIT
#define HAS_ROWS(p) (p != 1)
#else
#define HAS_ROWS(p) true
#endif

/* Steps of rank `me`, each within one atomic step. */
inline push_rows() {
  for EACH_PEER {
    if
    :: IS_PEER(peer) && HAS_ROWS(me) ->
       for (row : 0 .. ROWS - 1) {
         PROPERTY(one_store_per_place, row_in_flight[ROW(peer, VIEW_OF(what), me, row)] == EMPTY);
         row_in_flight[ROW(peer, VIEW_OF(what), me, row)] = TAG(call);
         rows_under_way[me]++
       }
    :: else
    fi
  }
}
inline publish(phase) {
  for EACH_PEER {
    if
    :: IS_PEER(peer) ->
       flag_in_flight[PAIR(peer, me)] = true;
       call_in_flight[PAIR(peer, me)] = call;
       phase_in_flight[PAIR(peer, me)] = phase;
       digest_in_flight[PAIR(peer, me)] = what;
       flags_under_way[me]++
    :: else
    fi
  }
}
#define HAS_PUBLISHED(p, phase) (p == me || \
  (flag[WORD(me, call, phase, p)] != NEVER && REACHED(flag[WORD(me, call, phase, p)], call, phase)))
#define IS_READY(p) HAS_PUBLISHED(p, ready)
#define IS_DONE(p) HAS_PUBLISHED(p, done)
#define HAS_READ(p) HAS_PUBLISHED(p, read)

/* What 64 bits would do: this flag is never taken for a later one. */
inline forget_handshake() {
#if HANDSHAKE_WORD == own_wide
  for EACH_PEER { flag[WORD(me, call, ready, peer)] = NEVER }
#else
  skip
#endif
}
inline check_digests(phase) {
  for EACH_PEER {
    PROPERTY(flag_of_my_call, peer == me || digest[WORD(me, call, phase, peer)] == what)
  }
}
inline check_view(v, tag) {
  for EACH_PEER {
    for (row : 0 .. ROWS - 1) {
      PROPERTY(right_rows_gathered,
               peer == me || !HAS_ROWS(peer) || view[ROW(me, v, peer, row)] == tag)
    }
  }
}
inline check_inputs() {
  for EACH_PEER {
    PROPERTY(right_inputs_combined, input[INPUT(peer, INPUT_OF(what))] == TAG(call))
  }
}
/* Readers of my view, from the call's end to whatever I do next: stream order. */
inline begin_readers() {
  check_view(VIEW_OF(what), TAG(call));
  being_read = what
}
inline end_readers() {
  if
  :: being_read != NOTHING ->
     check_view(VIEW_OF(being_read), TAG(LAST(call)));
     for EACH_PEER {
       for (row : 0 .. ROWS - 1) { view[ROW(me, VIEW_OF(being_read), peer, row)] = EMPTY }
     }
     being_read = NOTHING
  :: else
  fi
}
/* From here on the FFN may write any input but this call's. */
inline spoil_inputs() {
  for (row : 0 .. INPUTS - 1) {
    if
    :: SAME_INPUT == other_input && what == COMBINE(row)
    :: else -> input[INPUT(me, row)] = EMPTY
    fi
  }
}

#ifdef LINES
inline send_lines() {
  for EACH_PEER {
    if
    :: IS_PEER(peer) ->
       PROPERTY(one_store_per_place, line_in_flight[SLOT_PAIR(peer, call, me)] == EMPTY);
       line_in_flight[SLOT_PAIR(peer, call, me)] = TAG(call);
       rows_under_way[me]++
    :: else
    fi
  }
}
#define LINE_IS_HERE(p) (p == me || line_epoch[SLOT_PAIR(me, call, p)] == EPOCH(call))
inline copy_lines() {
  for EACH_PEER {
    if
    :: peer != me ->
       view[ROW(me, VIEW_OF(what), peer, 0)] = line_row[SLOT_PAIR(me, call, peer)];
       line_row[SLOT_PAIR(me, call, peer)] = EMPTY
    :: else
    fi
  }
}
/* What this call did not use must not be as old as to look new when it is used. Its slot is mine
   until I have published to the next call. */
inline restamp() {
#ifdef NO_RESTAMP
  skip
#else
  for EACH_PEER {
    if
    :: IS_LINES(what) -> flag[WORD(me, call, done, peer)] = STAMP(call, done)
    :: else -> line_epoch[SLOT_PAIR(me, call, peer)] = EPOCH(call)
    fi
  }
#endif
}
#else
inline restamp() { skip }
#endif

#ifdef ALTERNATE
#define MAY_GATHER (call % 2 == 1)
#define MAY_COMBINE (call % 2 == 0)
#elif defined(GATHERS_ONLY)
#define MAY_GATHER true
#define MAY_COMBINE false
#elif defined(COMBINES_ONLY)
#define MAY_GATHER false
#define MAY_COMBINE true
#else
#define MAY_GATHER true
#define MAY_COMBINE true
#endif
#define IS_IN_STEP(p) (at_call[p] != NEXT(NEXT(call)))
#define MAY_COMBINE_FROM(i) (MAY_COMBINE && (SAME_INPUT != other_input || previous != COMBINE(i)))

/* On to the next call; the first rank there decides for all what it does. */
inline advance() {
  previous = what;
  call = NEXT(call);
  at_call[me] = call;
  PROPERTY(in_step, ALL_RANKS(IS_IN_STEP));
  if
  :: plan[call] != NOTHING
  :: else ->
     plan[NEXT(NEXT(call))] = NOTHING; /* no rank is there any more */
     if
     :: MAY_GATHER -> plan[call] = GATHER(0)
#if VIEWS > 1
     :: MAY_GATHER -> plan[call] = GATHER(1)
#endif
#ifdef LINES
     :: MAY_GATHER -> plan[call] = GATHER_LINES(0)
#if VIEWS > 1
     :: MAY_GATHER -> plan[call] = GATHER_LINES(1)
#endif
#endif
     :: MAY_COMBINE_FROM(0) -> plan[call] = COMBINE(0)
#if INPUTS > 1
     :: MAY_COMBINE_FROM(1) -> plan[call] = COMBINE(1)
#endif
     fi
  fi;
  what = plan[call]
}

#ifdef NO_HANDSHAKE
#define NEEDS_HANDSHAKE false
#else
#define NEEDS_HANDSHAKE \
  (previous != NOTHING && !IS_COMBINE(previous) && VIEW_OF(previous) == VIEW_OF(what))
#endif

inline start_wires() {
#if HANDSHAKE_WORD == own_wide
  for (row : SLOT_PAIRS .. WORDS - 1) { flag[row] = NEVER }
#endif
  for EACH_PEER {
    for (row : 0 .. RANKS - 1) {
      if
      :: peer != row -> run wire(peer, row)
      :: else
      fi
    }
  }
}
