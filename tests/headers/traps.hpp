// Macros that other headers define and that a library must survive, as sources that include this
// one do. Standard headers come before it, they may break on these. `min` and `max` are left out as
// in CCCL's tests: standard headers undefine them, and members of that name cannot be protected.

// windows.h and the toolchains around it
#define small char
#define near
#define far
#define interface struct
#define ERROR 0
#define IN
#define OUT
#define OPTIONAL

// complex.h
#define I (__extension__ 1.0iF)

// sys/sysmacros.h
#define major(dev) (dev)
#define minor(dev) (dev)
#define makedev(maj, min) (maj)

// termios.h
#define B0 0000000

// X11
#define Bool int
#define Status int
#define None 0L
#define Always 2
#define Success 0
#define True 1
#define False 0

// gnu++ modes
#define linux 1
#define unix 1

// logging and test libraries
#define CHECK(x) ((void)(x))
#define LOG(x) ((void)(x))
#define ASSERT(x) ((void)(x))
#define DEBUG 1
