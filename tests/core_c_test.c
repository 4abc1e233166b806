/* core.h compiles and is used as C11. The library itself is linked, no
 * interpreter runs: so every question has the answer "none is known". */
#include "pyhold/core.h"

#include <stdio.h>
#include <string.h>

static int failures;

#define EXPECT(condition)                                             \
  do {                                                                \
    if (!(condition)) {                                               \
      fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition); \
      ++failures;                                                     \
    }                                                                 \
  } while (0)

int main(void) {
  pyhold_interp *hold = (pyhold_interp *)&failures;
  pyhold_view *view = (pyhold_view *)&failures;
  pyhold_frame *frame;

  EXPECT(pyhold_interp_lookup(0, &hold) == PYHOLD_ENOINTERP);
  EXPECT(hold == NULL);
  hold = (pyhold_interp *)&failures;
  EXPECT(pyhold_interp_hold(&hold) == PYHOLD_EDETACHED);
  EXPECT(hold == NULL);
  EXPECT(pyhold_view_current(&view) == PYHOLD_EDETACHED);
  EXPECT(view == NULL);
  view = (pyhold_view *)&failures;
  EXPECT(pyhold_view_main(&view) == PYHOLD_ENOINTERP);
  EXPECT(view == NULL);
  EXPECT(pyhold_frame_detach(&frame, PYHOLD_DETACH_HOLDING, NULL, 0) ==
         PYHOLD_EDETACHED);
  EXPECT(pyhold_thread_set_daemon(true) == PYHOLD_EMISUSE);
  pyhold_interp_release(NULL);
  pyhold_view_free(NULL);
  pyhold_set_wait_policy(NULL);
  EXPECT(strcmp(pyhold_status_name(PYHOLD_ENOMEM), "PYHOLD_ENOMEM") == 0);
  if (failures == 0) puts("ok");
  return failures != 0;
}
