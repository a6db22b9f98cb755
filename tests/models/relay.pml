/* A rank with many more rows than the others has them relayed. It sends each peer one slice; the
 * peer waits for the slice's flag and passes it on to the others; a direct flag from everybody then
 * says that all of its stores are there, passed on ones too. A combine is the mirror of it: every
 * rank sums one slice of the heavy rank's rows over all inputs, stores the sums in the heavy rank's
 * view and flags the slice; its owner waits for all slices. Is every row there once, of this call,
 * when it is read, and is a view free when it is written, call after call and without a barrier?
 *
 * Every call sends a header to every peer and ends when all headers are here. A gather that follows
 * a call which used views waits for them before it stores, a relayed combine always does. Flags and
 * headers carry epochs of 64 bits, compared for equality: one that was waited for is never taken
 * for another. All ranks agree on what a call does and on who is heavy; the search tries every
 * sequence of gathers and combines with rank 0 heavy, or 1, or both, or none. In a gather, who is
 * not heavy stores a row at each peer itself, unless HEAVY_ONLY.
 *
 *   HEAVY_ONLY ALTERNATE ONE_HEAVY     less to search
 * Wrong on purpose:
 *   FORWARDS_AT_ONCE         a slice is passed on, or its sums are taken, before its flag is here
 *   PASSES_ON_TO_ALL         also to itself
 *   SLICE_FLAG_HAS_NO_EPOCH  any flag of a slice will do
 *   SLICE_FLAG_OVERTAKES     it is published before the rows are there
 *   SHARED_FLAG              slices have the words of direct flags
 *   HEAVY_FLAGS_ONLY         a receiver waits for the heavy rank's direct flag alone
 *   NO_HANDSHAKE             a gather stores into views that the last gather used
 *   NO_HANDSHAKE_AFTER_SUMS  or the last relayed combine
 *   SUMS_AT_ONCE             a relayed combine stores into views at once
 *   SLICES_FIRST             a heavy rank passes on others' slices before it sends its own */
#define RANKS 3
#include "epochs.pml"

hidden byte right_rows = 1;         /* a view holds what every rank sent in this call, each row */
hidden byte right_sums = 2;         /* a heavy rank takes sums of this call only, each slice */
hidden byte right_inputs = 3;       /* sums are of what all ranks wrote for this call */
hidden byte passes_on_arrived = 4;  /* a peer passes on what has arrived */
hidden byte rows_once = 5;          /* no row arrives twice in a call */
hidden byte one_store_per_place = 6; /* no place has two stores in flight */
hidden byte in_step = 7; /* as the model takes for granted, no two ranks are two calls apart */

/* What a call does: an operation and the ranks that are heavy. */
#define NOTHING 0
#define GATHER 8
#define COMBINE 16
#define IS_GATHER(what) ((what) & GATHER)
#define IS_COMBINE(what) ((what) & COMBINE)
#define HEAVY(p) (((what) >> (p)) & 1)
#define RELAYS(what) ((what) & 3)
byte plan[CALLS]; /* agreed by all ranks; NOTHING: not yet */
byte at_call[RANKS];

/* Rank r's slice of heavy rank h's rows; h itself has the last one, in a combine only. */
#define SLICE(r, h) (((r) + RANKS - 1 - (h)) % RANKS)

/* Memory of rank `to`: its view, and the words that its peers write. */
#define ROW(to, of, slice) (((to) * RANKS + (of)) * RANKS + (slice))
/* Counts change from call to call: sums lie where another rank's rows have lain. */
#define SUM(of, slice) ROW(of, ((of) + 1) % RANKS, slice)
byte view[RANKS * RANKS * RANKS];
byte header[SLOT_PAIRS];
byte direct[SLOT_PAIRS];
#ifdef SHARED_FLAG
#define slice_word direct
#else
#define slice_word slices
byte slices[SLOT_PAIRS];
#endif
/* Memory of rank `of`, written by its own FFN. */
#define INPUT(of, call) ((of) * 2 + (call) % 2)
byte input[RANKS * 2];

/* Rows in flight, in any order. A word is there at once: late ones are what late readers see, who
   wait for each word and in one order. */
byte row_in_flight[RANKS * RANKS * RANKS];
byte sender[RANKS * RANKS * RANKS];
byte rows_under_way[RANKS]; /* how many, by sender */
#define FENCED (rows_under_way[me] == 0)
#ifdef SLICE_FLAG_OVERTAKES
#define SLICE_FENCED true
#else
#define SLICE_FENCED FENCED
#endif

#define ROW_ARRIVES(of, slice) \
  d_step { row_in_flight[ROW(to, of, slice)] != EMPTY -> \
    PROPERTY(rows_once, view[ROW(to, of, slice)] != row_in_flight[ROW(to, of, slice)]); \
    view[ROW(to, of, slice)] = row_in_flight[ROW(to, of, slice)]; \
    row_in_flight[ROW(to, of, slice)] = EMPTY; \
    rows_under_way[sender[ROW(to, of, slice)]]--; \
    sender[ROW(to, of, slice)] = 0 }
#define ROWS_ARRIVE(of) \
  :: ROW_ARRIVES(of, 0) \
  :: ROW_ARRIVES(of, 1) \
  :: ROW_ARRIVES(of, 2)
proctype wire(byte to) {
end:
  do
  ROWS_ARRIVE(0)
  ROWS_ARRIVE(1)
  ROWS_ARRIVE(2)
  od
}

/* Steps of rank `me`, each within one atomic step. */
inline store(at, value) {
  PROPERTY(one_store_per_place, row_in_flight[at] == EMPTY);
  row_in_flight[at] = value;
  sender[at] = me;
  rows_under_way[me]++
}
#define POST(word) \
  for EACH_PEER { \
    if \
    :: peer != me -> word[SLOT_PAIR(peer, call, me)] = TAG(call) \
    :: else \
    fi \
  }
/* First hops: slices of a heavy rank's rows, one to each peer; else the row itself. */
inline send_rows() {
  for EACH_PEER {
    if
    :: peer != me && HEAVY(me) -> store(ROW(peer, me, SLICE(peer, me)), TAG(call))
#ifndef HEAVY_ONLY
    :: peer != me && !HEAVY(me) -> store(ROW(peer, me, 0), TAG(call))
#endif
    :: else
    fi
  }
}
#ifdef PASSES_ON_TO_ALL
#define PASSES_ON_TO(p) (p != heavy)
#else
#define PASSES_ON_TO(p) (p != me && p != heavy)
#endif
/* Second hops: this rank's slice of rank `heavy`'s rows to the other peers, as it lies here. */
inline pass_on() {
  PROPERTY(passes_on_arrived, view[ROW(me, heavy, SLICE(me, heavy))] == TAG(call));
  for EACH_PEER {
    if
    :: PASSES_ON_TO(peer) ->
       store(ROW(peer, heavy, SLICE(me, heavy)), view[ROW(me, heavy, SLICE(me, heavy))])
    :: else
    fi
  }
}
/* Sums of this rank's slice, to their owner. */
inline check_inputs() {
  for EACH_PEER { PROPERTY(right_inputs, input[INPUT(peer, call)] == TAG(call)) }
}
inline send_sums() {
  check_inputs();
  if
  :: heavy == me -> view[SUM(me, SLICE(me, me))] = TAG(call)
  :: else -> store(SUM(heavy, SLICE(me, heavy)), TAG(call))
  fi
}
inline take_sums() {
  for EACH_PEER {
    PROPERTY(right_sums, view[SUM(me, peer)] == TAG(call));
    view[SUM(me, peer)] = EMPTY
  }
}

#define IS_HERE(word, p) (p == me || word[SLOT_PAIR(me, call, p)] == TAG(call))
#define HEADER_IS_HERE(p) IS_HERE(header, p)
#ifdef HEAVY_FLAGS_ONLY
#define DIRECT_IS_HERE(p) ((RELAYS(what) && !HEAVY(p)) || IS_HERE(direct, p))
#else
#define DIRECT_IS_HERE(p) IS_HERE(direct, p)
#endif
#ifdef SLICE_FLAG_HAS_NO_EPOCH
#define SLICE_IS_HERE(p) (p == me || slice_word[SLOT_PAIR(me, call, p)] != EMPTY)
#elif defined(FORWARDS_AT_ONCE)
#define SLICE_IS_HERE(p) true
#else
#define SLICE_IS_HERE(p) IS_HERE(slice_word, p)
#endif

/* Readers of my view, from the call's end to whatever I do next: stream order. */
#define HAS_ROW(of, slice) \
  (of != me && (((being_read >> (of)) & 1) -> slice < RANKS - 1 : slice == 0))
#ifdef HEAVY_ONLY
#define IS_SENT(of) ((being_read >> (of)) & 1)
#else
#define IS_SENT(of) true
#endif
inline check_view(tag) {
  for EACH_PEER {
    for (row : 0 .. RANKS - 1) {
      PROPERTY(right_rows,
               !HAS_ROW(peer, row) || !IS_SENT(peer) || view[ROW(me, peer, row)] == tag)
    }
  }
}
inline begin_readers() {
  being_read = what;
  check_view(TAG(call))
}
inline end_readers() {
  if
  :: being_read != NOTHING ->
     check_view(TAG(LAST(call)));
     for EACH_PEER {
       for (row : 0 .. RANKS - 1) { view[ROW(me, peer, row)] = EMPTY }
     }
     being_read = NOTHING
  :: else
  fi
}
/* From here on the FFN may write the input that this call did not use. */
inline spoil_input() { input[INPUT(me, NEXT(call))] = EMPTY }
/* An epoch of 64 bits never comes again. */
inline forget_words() {
  for EACH_PEER {
    header[SLOT_PAIR(me, call, peer)] = EMPTY;
#ifndef SLICE_FLAG_HAS_NO_EPOCH
    slice_word[SLOT_PAIR(me, call, peer)] = EMPTY;
#endif
    direct[SLOT_PAIR(me, call, peer)] = EMPTY
  }
}

/* On to the next call; the first rank there decides for all what it does. */
#ifdef ALTERNATE
#define MAY_GATHER (call % 2 == 1)
#define MAY_COMBINE (call % 2 == 0)
#else
#define MAY_GATHER true
#define MAY_COMBINE true
#endif
#define IS_IN_STEP(p) (at_call[p] != NEXT(NEXT(call)))
inline advance() {
  previous = what;
  call = NEXT(call);
  at_call[me] = call;
  heavy = 0;
  PROPERTY(in_step, ALL_RANKS(IS_IN_STEP));
  if
  :: plan[call] != NOTHING
  :: else ->
     plan[NEXT(NEXT(call))] = NOTHING; /* no rank is there any more */
     if
     :: MAY_GATHER -> plan[call] = GATHER
     :: MAY_COMBINE -> plan[call] = COMBINE
     fi;
     if
     :: skip
     :: plan[call] = plan[call] | 1
     :: plan[call] = plan[call] | 2
#ifndef ONE_HEAVY
     :: plan[call] = plan[call] | 3
#endif
     fi
  fi;
  what = plan[call]
}

#ifdef NO_HANDSHAKE
#define NEEDS_HANDSHAKE (IS_COMBINE(previous) && RELAYS(previous))
#elif defined(NO_HANDSHAKE_AFTER_SUMS)
#define NEEDS_HANDSHAKE (IS_GATHER(previous))
#else
#define NEEDS_HANDSHAKE (IS_GATHER(previous) || (IS_COMBINE(previous) && RELAYS(previous)))
#endif
#ifdef SUMS_AT_ONCE
#define MAY_SEND_SUMS true
#else
#define MAY_SEND_SUMS ALL_RANKS(HEADER_IS_HERE)
#endif
#ifdef SLICES_FIRST
#define MAY_SEND_ROWS (!HEAVY(me) || ALL_RANKS(HAS_SLICE))
#define HAS_SLICE(p) (!HEAVY(p) || SLICE_IS_HERE(p))
#else
#define MAY_SEND_ROWS true
#endif

proctype rank(byte me) {
  byte call = 0;
  byte what = NOTHING;
  byte previous;
  byte being_read = NOTHING;
  byte heavy;

  atomic { advance() }
  do
  :: IS_GATHER(what) ->
     atomic { end_readers(); POST(header) }
     atomic { (!NEEDS_HANDSHAKE || ALL_RANKS(HEADER_IS_HERE)) && MAY_SEND_ROWS -> send_rows() }
     if
     :: atomic { HEAVY(me) && SLICE_FENCED -> POST(slice_word) }
     :: !HEAVY(me)
     fi;
     do
     :: heavy < RANKS && (heavy == me || !HEAVY(heavy)) -> heavy++
     :: atomic { heavy < RANKS && heavy != me && HEAVY(heavy) && SLICE_IS_HERE(heavy) ->
          pass_on();
          heavy++ }
     :: heavy == RANKS -> break
     od;
     atomic { FENCED -> POST(direct) }
     atomic { ALL_RANKS(DIRECT_IS_HERE) && ALL_RANKS(HEADER_IS_HERE) ->
       begin_readers();
       spoil_input();
       forget_words();
       advance() }
  :: IS_COMBINE(what) ->
     atomic { FENCED ->
       end_readers();
       input[INPUT(me, call)] = TAG(call);
       POST(header) }
     do
     :: heavy < RANKS && !HEAVY(heavy) -> heavy++
     :: atomic { heavy < RANKS && HEAVY(heavy) && MAY_SEND_SUMS -> send_sums() }
        atomic { SLICE_FENCED ->
          if
          :: heavy != me -> slice_word[SLOT_PAIR(heavy, call, me)] = TAG(call)
          :: else
          fi;
          heavy++ }
     :: heavy == RANKS -> break
     od;
     if
     :: atomic { HEAVY(me) && ALL_RANKS(SLICE_IS_HERE) -> take_sums() }
     :: !HEAVY(me)
     fi;
     atomic { ALL_RANKS(HEADER_IS_HERE) ->
       check_inputs();
       spoil_input();
       forget_words();
       advance() }
  od
}

init {
  atomic {
    for (row : 0 .. RANKS - 1) { run wire(row); run rank(row) }
  }
}
