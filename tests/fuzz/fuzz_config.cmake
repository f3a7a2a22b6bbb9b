set(FUZZ_LIBS fallow_config)
