/* How much memory the machine can spare: a pure policy over MemAvailable and PSI. */
#ifndef FALLOW_MEMSERVER_PRESSURE_H
#define FALLOW_MEMSERVER_PRESSURE_H

#include <stdbool.h>
#include <stdint.h>

/*
 * target = what is held + (MemAvailable - floor), within [min, max]: what could be given so that
 * floor_bytes stay available. It shrinks at once, and grows slowly: at most grow_bytes_per_s, only
 * when the difference is more than hysteresis_bytes, and only after pressure has been absent for
 * calm_ns. While PSI is above its limit the target also shrinks below what is held, by shrink_bytes
 * each time it is looked at, at most once in shrink_interval_ns: memory that is "available" may
 * still be somebody's working set.
 */
struct pressure_config {
	uint64_t min_bytes, max_bytes;
	uint64_t floor_bytes;	   /* of MemAvailable, for the machine itself */
	uint64_t hysteresis_bytes; /* growth smaller than this waits */
	uint64_t grow_bytes_per_s;
	uint64_t shrink_bytes;
	uint64_t shrink_interval_ns;
	uint64_t calm_ns;
	uint32_t psi_some_percent; /* avg10 above this is pressure; 0: not looked at */
	uint32_t psi_full_percent;
};

struct pressure_sample {
	uint64_t now_ns;	  /* monotonic */
	uint64_t available_bytes; /* MemAvailable */
	uint64_t held_bytes; /* memory of regions that is in use now, and so is not available */
	bool has_psi;
	double some_avg10, full_avg10; /* percent */
};

/* min, max and floor as given; the rest from region_bytes and max. */
void pressure_config_default(struct pressure_config *cfg, uint64_t min_bytes, uint64_t max_bytes,
	uint64_t floor_bytes, uint64_t region_bytes);

struct pressure {
	struct pressure_config cfg;
	uint64_t target_bytes;
	uint64_t last_ns;    /* of the sample before; 0: none yet */
	uint64_t pressed_ns; /* last sample with pressure; 0: never */
	uint64_t shrunk_ns;  /* last shrinking by PSI */
	bool pressed;	     /* PSI was above a limit in the last sample */
};

/* The first sample sets the target at once. */
void pressure_init(struct pressure *p, const struct pressure_config *cfg);
/* New limits, from the next sample on. */
void pressure_tune(struct pressure *p, const struct pressure_config *cfg);
/* Returns the target in bytes. */
uint64_t pressure_update(struct pressure *p, const struct pressure_sample *s);

#endif
