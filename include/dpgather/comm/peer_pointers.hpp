#pragma once
#include <dpgather/protocol/peer_pointers.hpp> // moving
