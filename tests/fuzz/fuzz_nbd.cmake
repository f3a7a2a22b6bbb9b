set(FUZZ_LIBS fallow_frontend)
