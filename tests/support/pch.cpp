// Gives the precompiled header a target of its own: main.cpp cannot use it, because doctest's
// implementation needs a macro before the first include.
