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

/* A NULL argument is refused, or means nothing, with any function. */
static bool was_run, was_attached;
static void run(pyhold_deferred *node, bool attached) {
  (void)node;
  was_run = true;
  was_attached = attached;
}

static void call_with_null(void) {
  void *const any = &failures;
  pyhold_interp *hold = any;
  pyhold_view *view = any;
  pyhold_frame *frame = any;
  pyhold_thread_state *state = any;
  pyhold_object *object = any;

  EXPECT(pyhold_interp_dup(NULL) == NULL);
  pyhold_interp_release(NULL);
  EXPECT(pyhold_interp_id(NULL) == -1);
  EXPECT(pyhold_interp_state(NULL) == NULL);
  EXPECT(pyhold_view_of_thread(NULL, &view) == PYHOLD_ENOINTERP);
  EXPECT(view == NULL);
  EXPECT(pyhold_view_dup(NULL) == NULL);
  pyhold_view_free(NULL);
  EXPECT(pyhold_view_id(NULL) == -1);
  view = any;
  EXPECT(pyhold_view_with(NULL, PYHOLD_KEEP, &view) == PYHOLD_EMISUSE);
  EXPECT(view == NULL);
  EXPECT(pyhold_view_hold(NULL, &hold) == PYHOLD_EMISUSE);
  EXPECT(hold == NULL);
  EXPECT(!pyhold_view_is_attached(NULL));
  EXPECT(pyhold_view_is_closed(NULL));
  EXPECT(pyhold_thread_ensure(NULL) == PYHOLD_EMISUSE);
  EXPECT(pyhold_thread_ensure_view(NULL) == PYHOLD_EMISUSE);
  EXPECT(pyhold_frame_enter(&frame, NULL, NULL, 0) == PYHOLD_EMISUSE);
  EXPECT(frame == NULL);
  EXPECT(pyhold_thread_state_new(NULL, &state) == PYHOLD_EMISUSE);
  EXPECT(state == NULL);
  EXPECT(pyhold_thread_state_attach(NULL) == PYHOLD_EMISUSE);
  pyhold_thread_state_detach(NULL);
  pyhold_thread_state_delete(NULL);
  EXPECT(pyhold_on_close(NULL, NULL, NULL) == PYHOLD_EMISUSE);
  EXPECT(!pyhold_on_close_cancel(NULL, NULL, NULL));
  pyhold_deferred node = {NULL, run};
  pyhold_defer(NULL, NULL);
  pyhold_defer(NULL, &node);
  EXPECT(was_run && !was_attached);
  EXPECT(pyhold_deferred_count(NULL) == 0);
  EXPECT(pyhold_deferred_wait(NULL, -1) == PYHOLD_EMISUSE);
  EXPECT(pyhold_object_new(NULL, NULL, &object) == PYHOLD_EMISUSE);
  EXPECT(object == NULL);
  EXPECT(pyhold_object_dup(NULL) == NULL);
  EXPECT(pyhold_object_get(NULL) == NULL);
  EXPECT(pyhold_object_view(NULL) == NULL);
  pyhold_object_free(NULL);
  pyhold_set_wait_policy(NULL);
}

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
  call_with_null();
  EXPECT(strcmp(pyhold_status_name(PYHOLD_ENOMEM), "PYHOLD_ENOMEM") == 0);
  if (failures == 0) puts("ok");
  return failures != 0;
}
