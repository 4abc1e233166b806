#include "pyhold/core.h"

const char *pyhold_status_name(pyhold_status status) {
  switch (status) {
#define X(name, value, text) \
  case PYHOLD_##name:        \
    return "PYHOLD_" #name;
    PYHOLD_STATUS_MAP(X)
#undef X
  }
  return "PYHOLD_UNKNOWN";
}

const char *pyhold_status_message(pyhold_status status) {
  switch (status) {
#define X(name, value, text) \
  case PYHOLD_##name:        \
    return text;
    PYHOLD_STATUS_MAP(X)
#undef X
  }
  return "not a status of pyhold";
}
