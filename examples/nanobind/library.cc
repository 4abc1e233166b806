// nanobind's own library, which it distributes as sources.
#include "examples/nanobind/library.h"
//
#include "nb_combined.cpp"
