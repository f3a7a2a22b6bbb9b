/* One good message of each type, the same in every test that needs some. */
#ifndef FALLOW_TESTS_CONTROL_SAMPLES_H
#define FALLOW_TESTS_CONTROL_SAMPLES_H

#include "lib/control/msg.h"

/* type: CONTROL_HELLO .. CONTROL_MSG_TYPES - 1 */
void sample_msg(enum control_msg_type type, struct control_msg *m);

#endif
