set(FUZZ_LIBS fallow_transport)
