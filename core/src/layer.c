/* What the C++ layer keeps once for each copy of the core. */
#include "first.h"
//
#include <stdlib.h>
#include <string.h>

#include "gate.h"
#include "pyhold/core.h"

struct kept {
  char *name;
  void *what;
  struct kept *next;
};

/* Only pushed to, and never freed: so it needs no lock, which fork() might catch
 * locked. */
static _Atomic(struct kept *) all;

static struct kept *find(struct kept *first, const char *name) {
  while (first != NULL && strcmp(first->name, name) != 0) first = first->next;
  return first;
}

void *pyhold_layer_state(const char *name, void *(*make)(void)) {
  /* acquire: pairs with the push below. */
  struct kept *first = atomic_load_explicit(&all, memory_order_acquire);
  struct kept *found = find(first, name);
  if (found != NULL) return found->what;
  struct kept *mine = malloc(sizeof *mine);
  /* A copy: the binary that `name` is in may be unloaded. */
  char *text = strdup(name);
  if (mine == NULL || text == NULL) ph_fatal("no memory for the C++ layer");
  *mine = (struct kept){.name = text, .what = make()};
  do {
    found = find(first, name);
    if (found != NULL) { /* another thread was faster; what we made is lost */
      free(text);
      free(mine);
      return found->what;
    }
    mine->next = first;
    /* release: what make() wrote comes with it. */
  } while (!atomic_compare_exchange_weak_explicit(
      &all, &first, mine, memory_order_release, memory_order_acquire));
  return mine->what;
}
