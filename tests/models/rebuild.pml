/* A kernel of the old generation may write long after its peers gave up on it and rebuilt the world
 * (P8). What may its stores hit?
 *
 * Every rank's host gives up on its old kernel at a time of its own, whether that has begun, stalls
 * between any two of its steps, or has ended. The hosts meet and go on with a new generation, which
 * makes any number of calls while the old kernels push, publish and poison at whatever pace. A
 * kernel ends when its stores have arrived.
 *
 *   RANKS=2
 *   LATE=RANKS                         on how many ranks an old kernel is still to come
 *   ARENA=other                        the new arena is other memory
 *   ARENA=same_when_all_ended          the old memory, after every rank said that its kernel ended
 *   FLAGS_KNOW_GENERATION              so that none of an old one is taken for a new one
 * Wrong on purpose:
 *   ARENA=same_at_once                 whatever the flags know
 *   ARENA=same_when_mine_ended         and cleared then, before all have ended
 *   ONE_POISON_WORD                    for all generations
 *   UNMAP=at_once                      the old arena goes as soon as its owner gives up on it */
#include "epochs.pml"

#ifndef LATE
#define LATE RANKS
#endif
#define other 0
#define same_at_once 1
#define same_when_mine_ended 2
#define same_when_all_ended 3
#ifndef ARENA
#define ARENA other
#endif
#define when_all_ended 0
#define at_once 1
#ifndef UNMAP
#define UNMAP when_all_ended
#endif

hidden byte right_rows = 1;            /* a call's rows are those that the peers sent in it */
hidden byte flag_of_my_generation = 2; /* no flag of the old generation passes for a new one */
hidden byte new_one_not_poisoned = 3;  /* no call of the new one fails, so nobody is told of one */
hidden byte stores_hit_mapped = 4;     /* no store arrives in memory that its owner has unmapped */

#define old 0
#define new 1
#define GENERATIONS 2

/* A row and a flag say by which call of which generation they were written. */
#define MARK(generation, call) (1 + (generation) * CALLS + (call))
#define CALL_OF(mark) (((mark) - 1) % CALLS)
#define GENERATION_OF(mark) (((mark) - 1) / CALLS)
#ifdef FLAGS_KNOW_GENERATION
#define MAY_TAKE(mark) (GENERATION_OF(mark) == new)
#else
#define MAY_TAKE(mark) true
#endif
#define HAS_PUBLISHED(p) (p == me || \
  (flag[PLACE(new, me, call, p)] != EMPTY && MAY_TAKE(flag[PLACE(new, me, call, p)]) && \
   (CALL_OF(flag[PLACE(new, me, call, p)]) + CALLS - call) % CALLS < CALLS / 2))

#define ARENA_OF(generation) (ARENA == other -> (generation) : 0)
#define PLACE(generation, to, call, from) \
  (ARENA_OF(generation) * SLOT_PAIRS + SLOT_PAIR(to, call, from))
byte rows[GENERATIONS * SLOT_PAIRS];
byte flag[GENERATIONS * SLOT_PAIRS];
#ifdef ONE_POISON_WORD
#define POISON_WORD(generation, rank) (rank)
#else
#define POISON_WORD(generation, rank) ((generation) * RANKS + (rank))
#endif
bool poison[GENERATIONS * RANKS];
bool unmapped[RANKS]; /* the old arena */

#define a_row 0
#define a_flag 1
#define a_poison 2
#define KINDS 3
#define SENT(generation, kind, to, from) \
  (((generation) * KINDS + (kind)) * RANKS * RANKS + PAIR(to, from))
byte in_flight[GENERATIONS * KINDS * RANKS * RANKS];
byte under_way[GENERATIONS * RANKS];
#define FENCED(generation, from) (under_way[(generation) * RANKS + (from)] == 0)

bool ended[RANKS]; /* my old kernel has */
byte met;
#define HAS_ENDED(p) ended[p]

#define ARRIVES(kind, write) \
  d_step { in_flight[SENT(generation, kind, to, from)] != EMPTY -> \
    PROPERTY(stores_hit_mapped, generation == new || !unmapped[to]); \
    write; \
    in_flight[SENT(generation, kind, to, from)] = EMPTY; \
    under_way[generation * RANKS + from]-- }
#define STORE(kind, memory) \
  memory[PLACE(generation, to, CALL_OF(in_flight[SENT(generation, kind, to, from)]), from)] = \
    in_flight[SENT(generation, kind, to, from)]
proctype wire(byte generation; byte to; byte from) {
end:
  do
  :: ARRIVES(a_row, STORE(a_row, rows))
  :: ARRIVES(a_flag, STORE(a_flag, flag))
  :: ARRIVES(a_poison, poison[POISON_WORD(generation, to)] = true)
  od
}

inline send(generation, kind, mark) {
  for EACH_PEER {
    if
    :: peer != me ->
       in_flight[SENT(generation, kind, peer, me)] = mark;
       under_way[generation * RANKS + me]++
    :: else
    fi
  }
}

/* The old generation's last call. */
proctype old_kernel(byte me) {
  if
  :: poison[POISON_WORD(old, me)] || me >= LATE -> goto end_kernel
  :: !poison[POISON_WORD(old, me)] && me < LATE
  fi;
  atomic { send(old, a_row, MARK(old, 1)) }
  atomic { FENCED(old, me) -> send(old, a_flag, MARK(old, 1)) }
  if
  :: atomic { FENCED(old, me) -> send(old, a_poison, MARK(old, 1)) } /* timed out */
  :: skip /* got its flags, or saw that it is poisoned */
  fi;
end_kernel:
  atomic { FENCED(old, me) -> ended[me] = true }
}

inline clear_new_arena() {
  for EACH_PEER {
    for (row : 0 .. SLOTS - 1) {
      rows[PLACE(new, me, row, peer)] = EMPTY;
      flag[PLACE(new, me, row, peer)] = EMPTY
    }
  }
}
inline check_rows() {
  PROPERTY(new_one_not_poisoned, !poison[POISON_WORD(new, me)]);
  for EACH_PEER {
    PROPERTY(right_rows, peer == me || rows[PLACE(new, me, call, peer)] == MARK(new, call))
  }
}
inline check_flags() {
  for EACH_PEER {
    PROPERTY(flag_of_my_generation,
             peer == me || GENERATION_OF(flag[PLACE(new, me, call, peer)]) == new)
  }
}
inline use_up_rows() {
  for EACH_PEER { rows[PLACE(new, me, call, peer)] = EMPTY }
}

proctype host(byte me) {
  byte call;

  atomic {
    poison[POISON_WORD(old, me)] = true; /* so a kernel that has not begun will do nothing */
    if
    :: UNMAP == at_once -> unmapped[me] = true
    :: else
    fi }
  if
  :: ARENA == same_when_mine_ended -> ended[me]
  :: ARENA == same_when_all_ended -> ALL_RANKS(HAS_ENDED)
  :: else
  fi;
  atomic {
    clear_new_arena();
    poison[POISON_WORD(new, me)] = false;
    met++ }
  met == RANKS;

  call = 1; /* like the old one: epochs start anew, which is worst */
  do
  :: atomic { send(new, a_row, MARK(new, call)) }
     atomic { FENCED(new, me) -> send(new, a_flag, MARK(new, call)) }
     atomic { ALL_RANKS(HAS_PUBLISHED) -> check_rows(); check_flags() }
     atomic { check_rows(); use_up_rows(); call = NEXT(call) }
  od
}

/* Frees the old memory in the end. */
proctype unmapper() {
end:
  atomic { ALL_RANKS(HAS_ENDED) ->
    for EACH_PEER { unmapped[peer] = true } }
}

init {
  byte generation;
  atomic {
    for (generation : old .. new) {
      for EACH_PEER {
        for (row : 0 .. RANKS - 1) {
          if
          :: peer != row -> run wire(generation, peer, row)
          :: else
          fi
        }
      }
    }
    for EACH_PEER { run old_kernel(peer); run host(peer) }
    run unmapper()
  }
}
