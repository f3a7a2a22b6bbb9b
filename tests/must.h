/* Ends a test at once where something fails that it takes for granted. */
#ifndef FALLOW_TEST_MUST_H
#define FALLOW_TEST_MUST_H

#include <stdio.h>
#include <stdlib.h>

#define MUST(x)                                                                                    \
	do {                                                                                       \
		if (!(x)) {                                                                        \
			fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #x);                    \
			abort();                                                                   \
		}                                                                                  \
	} while (0)

#endif
