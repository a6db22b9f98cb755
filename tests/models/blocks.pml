/* A rank's kernel is several blocks, each with an epoch and flags of its own: per destination,
 * slot, source and block (P11). How many blocks move rows depends on the counts, so it changes from
 * call to call and with it which block moves which rows. May blocks share flags? What must an idle
 * block do?
 *
 * Block b of a rank pushes its rows into every peer's slot, which is its own epoch's parity,
 * fences, publishes to the same block of every peer, waits for those blocks' flags, and reads the
 * rows that they pushed. An idle block moves nothing, but bumps its epoch. A rank's next kernel
 * begins when all of its blocks have ended. How many blocks are active is agreed; the search tries
 * every sequence.
 *
 *   RANKS=2
 *   FLAGS=restamped        an idle block writes the call's epoch into its own memory's flags itself
 *   FLAGS=wide             flags whose epochs never wrap need no stamp
 * Wrong on purpose:
 *   FLAGS=asleep           a flag that slept for half of all epochs passes for a new one
 *   FLAG_PER_SOURCE        the blocks of a source share its flag
 *   IDLE_DOES_NOT_BUMP     the block's next slot is the one that its peers may still be reading
 *   COUNTS_OF_ONE_RANK     how many blocks are active follows from what this rank knows alone */
#include "epochs.pml"

#define restamped 0
#define wide 1
#define asleep 2
#ifndef FLAGS
#define FLAGS restamped
#endif

hidden byte right_rows = 1; /* a block reads the rows that its peers sent in this call */
hidden byte in_step = 2;    /* as the model takes for granted, no two ranks are two calls apart */

#define BLOCKS 2
#define ROWS 2 /* per pair */
#ifdef COUNTS_OF_ONE_RANK
#define PLAN(call) ((call) * RANKS + me)
#else
#define PLAN(call) ((call) * RANKS)
#endif
byte active_blocks[CALLS * RANKS]; /* 0: not yet known */
#define IS_MINE(row) (busy == 1 || row == block)

#define ROW(to, epoch, from, row) (SLOT_PAIR(to, epoch, from) * ROWS + (row))
byte landing[SLOT_PAIRS * ROWS];
#ifdef FLAG_PER_SOURCE
#define FLAG(to, epoch, from, block) SLOT_PAIR(to, epoch, from)
#else
#define FLAG(to, epoch, from, block) (SLOT_PAIR(to, epoch, from) * BLOCKS + (block))
#endif
byte flag[SLOT_PAIRS * BLOCKS];
#define NEVER 255

#define SENT(to, from, block) (PAIR(to, from) * BLOCKS + (block))
byte row_in_flight[SLOT_PAIRS * ROWS];
bool flag_in_flight[RANKS * RANKS * BLOCKS];
byte epoch_in_flight[RANKS * RANKS * BLOCKS];
byte rows_sender[RANKS * RANKS * ROWS]; /* the block that has this row in flight */
byte under_way[RANKS * BLOCKS];

byte launched[RANKS]; /* the call that the rank's kernel is in */
byte blocks_left[RANKS];

#define ROW_ARRIVES(slot, row) \
  d_step { row_in_flight[ROW(to, slot, from, row)] != EMPTY -> \
    landing[ROW(to, slot, from, row)] = row_in_flight[ROW(to, slot, from, row)]; \
    row_in_flight[ROW(to, slot, from, row)] = EMPTY; \
    under_way[from * BLOCKS + rows_sender[PAIR(to, from) * ROWS + row]]--; \
    rows_sender[PAIR(to, from) * ROWS + row] = 0 }
#define FLAG_ARRIVES(block) \
  d_step { flag_in_flight[SENT(to, from, block)] -> \
    flag[FLAG(to, epoch_in_flight[SENT(to, from, block)], from, block)] = \
      STAMP(epoch_in_flight[SENT(to, from, block)], done); \
    flag_in_flight[SENT(to, from, block)] = false; \
    epoch_in_flight[SENT(to, from, block)] = 0; \
    under_way[from * BLOCKS + block]-- }
proctype wire(byte to; byte from) {
end:
  do
  :: ROW_ARRIVES(0, 0)
  :: ROW_ARRIVES(0, 1)
  :: ROW_ARRIVES(1, 0)
  :: ROW_ARRIVES(1, 1)
  :: FLAG_ARRIVES(0)
  :: FLAG_ARRIVES(1)
  od
}

inline push_rows() {
  for EACH_PEER {
    for (row : 0 .. ROWS - 1) {
      if
      :: peer != me && IS_MINE(row) ->
         row_in_flight[ROW(peer, epoch, me, row)] = TAG(call);
         rows_sender[PAIR(peer, me) * ROWS + row] = block;
         under_way[me * BLOCKS + block]++
      :: else
      fi
    }
  }
}
#define FENCED (under_way[me * BLOCKS + block] == 0)
inline publish() {
  for EACH_PEER {
    if
    :: peer != me ->
       flag_in_flight[SENT(peer, me, block)] = true;
       epoch_in_flight[SENT(peer, me, block)] = epoch;
       under_way[me * BLOCKS + block]++
    :: else
    fi
  }
}
#define HAS_PUBLISHED(p) (p == me || \
  (flag[FLAG(me, epoch, p, block)] != NEVER && \
   REACHED(flag[FLAG(me, epoch, p, block)], epoch, done)))
inline check_rows() {
  for EACH_PEER {
    for (row : 0 .. ROWS - 1) {
      PROPERTY(right_rows,
               peer == me || !IS_MINE(row) || landing[ROW(me, epoch, peer, row)] == TAG(call))
    }
  }
}
inline use_up_rows() {
  for EACH_PEER {
    for (row : 0 .. ROWS - 1) {
      if
      :: IS_MINE(row) -> landing[ROW(me, epoch, peer, row)] = EMPTY
      :: else
      fi
    }
  }
}
inline forget_flags() {
  for EACH_PEER {
    if
    :: FLAGS == wide -> flag[FLAG(me, epoch, peer, block)] = NEVER
    :: else
    fi
  }
}
inline restamp() {
  for EACH_PEER {
    if
    :: FLAGS == restamped -> flag[FLAG(me, epoch, peer, block)] = STAMP(epoch, done)
    :: else
    fi
  }
}
#define IS_IN_STEP(p) (launched[p] != NEXT(NEXT(call)))
inline learn_counts() {
  if
  :: active_blocks[PLAN(call)] != 0
  :: else ->
     PROPERTY(in_step, ALL_RANKS(IS_IN_STEP));
     active_blocks[PLAN(NEXT(NEXT(call)))] = 0;
     if
     :: active_blocks[PLAN(call)] = 1
     :: active_blocks[PLAN(call)] = 2
     fi
  fi;
  busy = active_blocks[PLAN(call)]
}
inline end_block() {
  call = NEXT(call);
  busy = 0;
  blocks_left[me]--;
  if
  :: blocks_left[me] == 0 ->
     blocks_left[me] = BLOCKS;
     launched[me] = call
  :: else
  fi
}

proctype block_of(byte me; byte block) {
  byte call = 1;
  byte epoch = 0;
  byte busy = 0;
  do
  :: atomic { launched[me] == call ->
       learn_counts();
       if
       :: block < busy ->
          epoch = NEXT(epoch);
          push_rows()
       :: else ->
#ifndef IDLE_DOES_NOT_BUMP
          epoch = NEXT(epoch);
          restamp();
#endif
          end_block();
          goto ended
       fi
     }
     atomic { FENCED -> publish() }
     atomic { ALL_RANKS(HAS_PUBLISHED) -> check_rows() }
     atomic { check_rows(); use_up_rows(); forget_flags(); end_block() }
ended:
  od
}

init {
  atomic {
#if FLAGS == wide
    for (row : 0 .. SLOT_PAIRS * BLOCKS - 1) { flag[row] = NEVER }
#endif
    for EACH_PEER {
      launched[peer] = 1;
      blocks_left[peer] = BLOCKS;
      for (row : 0 .. RANKS - 1) {
        if
        :: peer != row -> run wire(peer, row)
        :: else
        fi
      }
    }
    for EACH_PEER { run block_of(peer, 0); run block_of(peer, 1) }
  }
}
