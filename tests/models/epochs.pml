/* What all models share: names for properties, calls that wrap, flags.
 *
 * A model stores calls modulo 4. That loses nothing: ranks are never two calls apart, and whatever
 * was used is emptied, so what is stale reads as EMPTY and cannot pass for the value of four calls
 * later. With calls that wrap the states are finitely many, and one search covers any number of
 * calls. */

/* Properties have names: pan quotes the assertion that failed, and the name with it. A name is a
   constant, 1, 2, ..., hidden so that it is no part of a state. LOOK_FOR=<name>: no others. */
#ifdef LOOK_FOR
#define PROPERTY(name, condition) assert((condition) || name != LOOK_FOR)
#else
#define PROPERTY(name, condition) assert((condition) || name == 0)
#endif

#ifndef RANKS
#define RANKS 2
#endif
#ifndef SLOTS
#define SLOTS 2
#endif
#ifndef EPOCHS
#define EPOCHS 4 /* in the place of 2^32 */
#endif

#define EMPTY 0
#define CALLS 4
#define NEXT(call) (((call) + 1) % CALLS)
#define LAST(call) (((call) + CALLS - 1) % CALLS)
#define TAG(call) (1 + (call)) /* payload that only this call carries */

/* Flags count phases of calls; a later phase of a call implies the earlier ones. */
#define ready 0 /* my view may be written: its last readers have ended */
#define done 1  /* my rows have arrived, or my input may be read */
#define read 2  /* your input may be written: I have read it */
#define PHASES 3
#define EPOCH(call) ((call) % EPOCHS)
#define STAMP(call, phase) (EPOCH(call) * PHASES + (phase))
#define AHEAD(flag, call) (((flag) / PHASES + EPOCHS - EPOCH(call)) % EPOCHS)
/* flag >= STAMP(call, phase), in modular arithmetic. */
#define REACHED(flag, call, phase) \
  ((AHEAD(flag, call) == 0 && (flag) % PHASES >= (phase)) || \
   (1 <= AHEAD(flag, call) && AHEAD(flag, call) < EPOCHS / 2))

#define PAIR(to, from) ((to) * RANKS + (from))
#define SLOT_PAIR(to, call, from) (((to) * SLOTS + (call) % SLOTS) * RANKS + (from))
#define SLOT_PAIRS (RANKS * SLOTS * RANKS)

/* Whether holds(rank) is true of every rank. */
#if RANKS == 2
#define ALL_RANKS(holds) (holds(0) && holds(1))
#elif RANKS == 3
#define ALL_RANKS(holds) (holds(0) && holds(1) && holds(2))
#elif RANKS == 4
#define ALL_RANKS(holds) (holds(0) && holds(1) && holds(2) && holds(3))
#endif

/* Loop variables for atomic steps, and so no part of a state either. */
hidden byte peer;
hidden byte row;
#define EACH_PEER (peer : 0 .. RANKS - 1)
