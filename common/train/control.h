/* control.h - RUN/control: a word for a living run, from whoever may write there
 * SPDX-License-Identifier: MIT
 *
 *   echo save >RUN/control      a checkpoint after this step
 *   echo stop >RUN/control      a checkpoint after this step, and the end of this start (exit 75)
 * The file is removed when that is done; of both words, stop counts. Other words are removed with a warning. What cannot be
 * read stays, and is told once a process. Only rank 0 uses this module.
 */
#ifndef SSM_CONTROL_H
#define SSM_CONTROL_H

enum control { CONTROL_NONE, CONTROL_SAVE, CONTROL_STOP };

/* What the file asks for; NONE when there is none, or nothing in it yet. */
enum control control_read(const char *run);
/* What it asked for is done. */
void control_done(const char *run);

#endif
