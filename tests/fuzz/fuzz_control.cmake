set(FUZZ_LIBS fallow_control)
